"""The smaller commands of `fedrobust`, each a module with a function main."""
