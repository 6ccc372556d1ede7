"""The server's loop around a rule."""
