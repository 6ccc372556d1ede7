"""What one hospital learns with: classifier, ETF, losses, training loop, inference, BatchNorm,
model files."""
