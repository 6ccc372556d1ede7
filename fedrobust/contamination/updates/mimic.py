"""Mimic: all attackers send the very update of one honest client, which thereby counts too much."""

from __future__ import annotations

import torch
from torch import Tensor

from fedrobust.contamination.base import AttackContext, Contamination, CraftedUpdates
from fedrobust.contamination.updates.collusion import make_collusion
from fedrobust.errors import ConfigError
from fedrobust.utils.validation import Count, check_settings


@check_settings("contamination")
def mimic(*, target: Count | None = None) -> Contamination:
    """Every attacker sends a copy of one honest client's update: no rule can tell it from an honest
    one, but where clients' data differ it pulls the model to that client. Omniscient by nature.

    Args:
        target: the number of the honest client that all poisoned ones copy; null: the one that
            stands out most in the first round with attackers, as the paper's warm-up of one round
            finds it (`outstanding`); it stays the target. Where it did not reply, the one that
            stands out in that round takes its place.

    Returns:
        A contamination of clients that work together.

    Raises:
        ConfigError: the target is out of its range; in a round, where it is poisoned itself.

    Reference:
        Karimireddy, He, Jaggi, ICLR 2022.

    Needs:
        collusion: attackers know all honest updates
    """

    def attack(context: AttackContext) -> CraftedUpdates:
        if target in context.own.clients:
            raise ConfigError(
                f"contamination.target={target}: is poisoned itself; choose an honest "
                "client, or null"
            )
        wanted = context.memory.get("target") if target is None else target
        found = (
            wanted
            if wanted in context.known.clients
            else context.known.clients[outstanding(context.known.gram())]
        )
        row = context.known.clients.index(found)
        memory = {} if target is not None else {"target": found if wanted is None else wanted}
        return CraftedUpdates(
            ((part, strip_Hb[row]) for part, strip_Hb in context.known.column_strips()), memory
        )

    return make_collusion("mimic", attack)


def outstanding(gram_HH: Tensor) -> int:
    """argmax_i |<z, u_i>|, where z is the direction of largest variance of the updates u, from
    their inner products alone.

    z = sum_j a_j (u_j - mean) for the leading eigenvector a of the centred Gram matrix; its length
    does not matter.
    """
    count = len(gram_HH)
    centre_HH = torch.eye(count, dtype=torch.float64) - 1 / count
    leading_H = torch.linalg.eigh(centre_HH @ gram_HH @ centre_HH).eigenvectors[:, -1]
    return int((gram_HH @ centre_HH @ leading_H).abs().argmax())
