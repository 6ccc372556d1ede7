"""Backdoors: triggers in images, and updates that carry them."""
