"""What a client does with a message."""
