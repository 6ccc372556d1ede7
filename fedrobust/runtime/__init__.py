"""A run at work, and the only room that knows Flower: messages, engines, clients, server."""
