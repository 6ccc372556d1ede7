"""Poisoned clients that work together: what stands between the replies and the rule in a
simulation, and nowhere else."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from fedrobust.aggregation.round import Round, Rule
from fedrobust.aggregation.storage import fetch, fill
from fedrobust.aggregation.updates import UpdateRows, Updates
from fedrobust.contamination.base import AttackContext, Collusion, Strips
from fedrobust.errors import ConfigError, RunError
from fedrobust.experiment.experiment import Experiment
from fedrobust.runtime.server import schedule

KEY = "adversary"  # where what the attackers remember is kept, beside the rule's own memory
ATTACKERS_KEYS = (KEY, schedule.KEY)


def check_collusion(experiment: Experiment, simulated: bool) -> None:
    """Raises ConfigError where clients are to collude on real sites: there no process has all
    their images, or their updates before the rule, and a run without its attack must not pass for
    one with it."""
    damage = experiment.contaminations["poisoned"]
    together = damage.collude is not None or damage.learnt is not None
    if together and not simulated and experiment.clients_of_kind("poisoned"):
        raise ConfigError(
            f"contamination={damage.name}: exists in simulations only; choose one "
            "that a client does by itself"
        )


def without_attacker_memory(memory: Mapping[str, Any]) -> dict[str, Any]:
    """The memory without what the attackers remember: all that a rule sees of it."""
    return {key: value for key, value in memory.items() if key not in ATTACKERS_KEYS}


def apply_attackers(
    experiment: Experiment, round: Round, memory: Mapping[str, Any]
) -> dict[str, Any]:
    """Let the experiment's poisoned clients work together in this round, where they do (see
    `apply_collusion`) and attack in it at all. Returns what is to be kept with the rule's memory:
    nothing, or what they remember."""
    collusion = experiment.contaminations["poisoned"].collude
    if collusion is None:
        return {}
    if not schedule.attack_in(experiment, round.number, memory):
        return {KEY: memory[KEY]} if KEY in memory else {}
    poisoned, generator = (
        experiment.clients_of_kind("poisoned"),
        experiment.generator(KEY, round.number),
    )
    before, rule = memory.get(KEY, {}), experiment.strategy.rule
    remembered = apply_collusion(
        collusion, poisoned, round, rule=rule, generator=generator, memory=before
    )
    return {KEY: dict(remembered)} if remembered else {}


def apply_collusion(
    collusion: Collusion,
    poisoned: Collection[int],
    round: Round,
    *,
    rule: Rule,
    generator: Generator,
    memory: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Write what the poisoned clients send instead of their honest updates into their rows of
    `round.updates`, in place.

    Buffers and numbers of examples are kept, and without replies of attackers nothing changes.
    The attack gets nothing of what the server owns; a rule that it applies to a candidate is the
    live one, with the randomness and the memory of this round. Returns what the attackers remember.
    Raises RunError where their rows would not be finite.
    """
    own = _rows(round.updates, [client in poisoned for client in round.updates.clients])
    if not len(own):
        return memory
    crafted = collusion.attack(
        _context(collusion, own, round, rule=rule, generator=generator, memory=memory)
    )
    _write(round, own, crafted.strips)
    return crafted.memory


def _context(
    collusion: Collusion,
    own: UpdateRows,
    round: Round,
    *,
    rule: Rule,
    generator: Generator,
    memory: Mapping[str, Any],
) -> AttackContext:
    others = _rows(round.updates, [client not in own.clients for client in round.updates.clients])
    omniscient = collusion.knowledge == "omniscient"

    def apply(strips: Strips) -> Tensor:
        _write(round, own, strips)
        same_luck = Generator(round.generator.device)
        same_luck.set_state(round.generator.get_state())
        aggregate = rule(replace(round, generator=same_luck))
        return aggregate.state.parameters - round.reference.parameters

    known = others if omniscient and len(others) else own
    return AttackContext(
        round.number,
        round.reference,
        own,
        known,
        len(round.updates),
        generator,
        memory,
        apply if omniscient else None,
    )


def _rows(updates: Updates, wanted: list[bool]) -> UpdateRows:
    return UpdateRows(updates, torch.tensor(wanted, dtype=torch.bool).nonzero().reshape(-1))


def _write(round: Round, own: UpdateRows, strips: Strips) -> None:
    matrix_ND, rows = own.updates.matrix_ND, own.index.tolist()
    for part, values in strips:
        if not values.isfinite().all():
            raise RunError(
                f"round {round.number}: the attackers' updates are not finite; lower "
                "the strength of the contamination"
            )
        for row, values_b in zip(rows, values.expand(len(rows), -1), strict=True):
            fill(matrix_ND[row, part], partial(fetch, values_b))
