"""Flower messages and what is checked in them."""
