"""The poster's ablation, trained centrally (docs/ablation.md); `python -m fedrobust.ablation` is
its command line."""
