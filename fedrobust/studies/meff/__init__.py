"""Ensemble feature fusion (MEFF) of several models; `python -m fedrobust.meff` is its command
line."""
