"""Helpers for a federation of real sites: keys, start scripts, checks, a local demo, following a
run (docs/federation.md)."""
