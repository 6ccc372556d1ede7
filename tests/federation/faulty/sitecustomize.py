"""Python runs this at the start of every process of a federation under test: what one of its
ClientApps does wrong.

$FEDROBUST_FAULTY/<site>.json says it: {"<message type>": {"<round>": one of the words of `spoilt`,
"die" or "hang"}}. Nothing of the app itself is changed: it is the hospital's computer that
misbehaves.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Array
from flwr.clientapp.client_app import ClientApp

HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2500000000,), }".ljust(117) + b"\n"
TEN_GIGABYTES = Array(
    "float32",
    (2_500_000_000,),
    "numpy.ndarray",
    b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + HEADER,
)
answer = ClientApp.__call__


def wanted(message):
    site = Path(os.environ.get("FLWR_HOME", "/")).parent.name
    path = Path(os.environ["FEDROBUST_FAULTY"]) / f"{site}.json"
    faults = json.loads(path.read_text()) if path.exists() else {}
    return faults.get(message.metadata.message_type, {}).get(
        str(message.content["config"]["round"]), ""
    )


def spoilt(word, content):
    if word == "census":
        content["info"]["site"] = "\x1b[2J\x07vienna"
        return
    values = content["state"]["parameters"].numpy().copy()
    if word == "nan":
        values[0] = np.nan
    content["state"]["parameters"] = {
        "nan": Array(values),
        "shape": Array(values[:-1]),
        "gigabytes": TEN_GIGABYTES,
    }[word]


def faulty(self, message, context):
    word = wanted(message)
    if word == "die":
        os._exit(3)
    if word == "hang":  # in the midst of the app, as on a disk that does not answer
        sys.modules["fedrobust.runtime.client.handlers"].load_memory = lambda *_: time.sleep(86400)
    reply = answer(self, message, context)
    if word:
        spoilt(word, reply.content)
    return reply


ClientApp.__call__ = faulty
