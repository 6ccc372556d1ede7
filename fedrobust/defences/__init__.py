"""Defences on images: purification at test time, sanitisation of training data."""
