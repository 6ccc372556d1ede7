"""A rule and a contamination of our own for fedrobust."""
