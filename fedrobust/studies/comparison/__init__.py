"""Grids of runs, every rule under every attack, and what follows from them; `fedrobust.compare` is
the command line."""
