"""fedrobust: how robust is federated medical image classification when some hospitals' data is noisy, mislabelled or poisoned?"""

__version__ = "0.1.0"
