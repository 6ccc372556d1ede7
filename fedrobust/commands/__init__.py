"""The commands of `fedrobust` that have no `python -m` form of their own, each a module with a
function main."""
