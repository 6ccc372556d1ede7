"""fedrobust: how robust is federated medical image classification when some hospitals' data is
noisy, mislabelled or poisoned?"""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout and in Flower's bundle, fedrobust.strategies, fedrobust.clients and
# fedrobust.configs stand beside this folder, in a wheel inside of it. Only our own: nothing is
# added for whatever else lies beside an installed package.
if (
    not Path(__path__[0], "strategies").exists()
    and Path(__path__[0]).with_name("strategies").joinpath("etf_dml", "trust.py").exists()
):
    __path__.append(str(Path(__path__[0]).parent))
