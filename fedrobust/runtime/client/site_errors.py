"""What leaves a real site when it fails: one of a few fixed texts, never a text that holds anything
of its own.

Names of files can be those of patients, and a label, a path or a number in an error line tells of
the images or of the machine. So the server gets a text of `TEXTS` and a random number; the site's
own log holds the number and all details. Simulations keep their full texts.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping

from flwr.app import Context, Message

TEXTS: Mapping[str, str] = {
    "settings": "the run's configuration cannot be used here",
    "places": "the run's configuration names a file, folder or address, or weights to be fetched; "
    "this node uses nothing of that kind",
    "plugins": "the run's configuration names plug-ins; this node uses those that its own node "
    "config names (plugins)",
    "contamination": "this node refuses contamination; its own node config may set "
    "allow-contamination=true",
    "node": "this node's own configuration cannot be used",
    "frozen": "what the run freezes of the model is not the same here and at the server; this "
    "node's own config may name its copy of pretrained weights (model-weights), or use "
    "model.freeze=none",
    "data": "this node cannot use its own data for this run (its check command says why)",
    "message": "the message cannot be used",
    "training": "training or evaluation failed here",
    "local-dp": "this node sends nothing without local DP (max-epsilon); use privacy=local_dp",
    "budget": "all that this node may ever send (max-epsilon) is sent; it sends no more",
    "ledger": "this node cannot use its privacy ledger, so nothing is sent",
    "repeated": "this round's order was answered before; each is answered once",
    "evaluated": "this node has evaluated a model in this run; it evaluates one in a run",
    "classes": "the classes of the run, or their order, are not this node's; its own node config "
    "may list them (data-classes)",
    "size": "this node does not read images of the run's size; its own node config may allow it "
    "(data-sizes)",
    "sums": "this node sends sums of enough hospitals only (sum-of-at-least); use "
    "privacy=secure_aggregation with a higher privacy.threshold",
    "secure-aggregation": "a message that breaks the rules of secure aggregation",
    "unlike-tasks": "the server asked hospitals of one sum for updates of different models or "
    "configurations; nothing is sent",
    "failure": "an unexpected error",
}
LOG = logging.getLogger("fedrobust.site")


class SiteError(Exception):
    """What a site tells the server of an error."""


def with_fixed_texts(
    message: Message, context: Context, answer: Callable[[Message, Context], Message]
) -> Message:
    """The answer. Raises SiteError in the place of whatever a real site raises."""
    if context.node_config.get("simulation") is True:
        return answer(message, context)
    try:
        return answer(message, context)
    except Exception as error:
        code = error_code(error)
        number = log_error(error, code)
        raise SiteError(
            f"{TEXTS[code]} (error {code} {number}; this site's log holds the details)"
        ) from None


def error_code(error: Exception) -> str:
    """Of TEXTS. What cannot be read in a message is a ValueError."""
    usual = "message" if isinstance(error, ValueError) else "failure"
    code = str(getattr(error, "code", usual))
    return code if code in TEXTS else "failure"


def log_error(error: Exception, code: str) -> str:
    """Write all that is known of an error into the site's own log; the number by which it is found
    there."""
    number = secrets.token_hex(4)
    LOG.error("error %s %s: %s: %s", code, number, type(error).__name__, error, exc_info=error)
    return number
