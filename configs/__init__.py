"""Hydra's configuration groups (a package, so that `pkg://configs` finds them in a wheel too)."""
