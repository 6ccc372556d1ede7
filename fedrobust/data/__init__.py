"""Data sets as frozen values: every source is a factory that returns a `DataSource`; nothing is
read before `load()`."""

from fedrobust.data.dataset import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Dataset,
    DataSource,
    Origins,
    make_dataset,
)
from fedrobust.data.server_data import reserve_server_data

__all__ = [
    "SPLITS",
    "TEST",
    "TRAIN",
    "VALIDATION",
    "DataSource",
    "Dataset",
    "Origins",
    "make_dataset",
    "reserve_server_data",
]
