"""Learning at one hospital: classifier, ETF, losses, training loop, inference, BatchNorm, model
files."""
