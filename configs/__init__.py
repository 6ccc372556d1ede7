"""Hydra's configuration groups (a package, so that `pkg://fedrobust.configs` finds them in a wheel
too)."""
