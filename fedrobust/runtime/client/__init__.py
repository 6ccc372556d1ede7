"""The client's side of a run: answers to messages."""
