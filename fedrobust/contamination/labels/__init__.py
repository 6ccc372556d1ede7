"""Wrong labels."""
