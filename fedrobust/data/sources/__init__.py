"""Data sets by where their images come from, one source a file."""
