"""Section of a run in which poisoned clients did not attack in every round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fedrobust.reporting.report.values import Absent, Percent, ReportSection
from fedrobust.types import ATTACKS, SUCCESS, RoundRecord

LASTING = 50.0  # %: a backdoor that succeeds more often is still there

RoundNumber = Annotated[int, Field(ge=1)]


class DurabilitySection(ReportSection):
    """How long a backdoor outlives its attackers, who are honest or absent after their last
    attack."""

    success_rates: tuple[Percent, ...] = Field(
        min_length=2,
        description="attack success rate after the last attacked round and after each round that "
        "followed; percent",
    )
    lifespan: Annotated[int, Field(ge=0)] = Field(
        description=f"rounds after the last attack up to the last one with a rate above "
        f"{LASTING:g} %; 0: in none of them"
    )


class ScheduleSection(ReportSection):
    """Rounds in which poisoned clients attacked; in all others they were honest or absent
    (`schedule`)."""

    attacked: tuple[RoundNumber, ...] = Field(
        description="numbers of the rounds, from 1; empty: they never did"
    )
    durability: Absent[DurabilitySection] = Field(
        default=None,
        description="of a backdoor after the last attack; absent where there is none or no round "
        "followed",
    )


def schedule_section(records: Sequence[RoundRecord]) -> ScheduleSection | None:
    """The section of a run with a schedule; None for any other.

    Args:
        records: of the run, oldest first.
    """
    known = [record for record in records if ATTACKS in record.extras]
    if not known:
        return None
    attacked = tuple(record.number for record in known if record.extras[ATTACKS])
    since = [record for record in known if attacked and record.number >= attacked[-1]]
    durability = None
    if len(since) > 1 and all(SUCCESS in record.extras for record in since):
        durability = measure_durability([record.extras[SUCCESS] for record in since])
    return ScheduleSection(attacked=attacked, durability=durability)


def measure_durability(success_rates: Sequence[float]) -> DurabilitySection:
    """How long a backdoor lasts.

    Args:
        success_rates: percent, after the last attack and after each round that followed.

    Reference:
        Zhang et al., ICML 2022, "Neurotoxin", definition of the lifespan, with 50 %.
    """
    lasting = [place for place, rate in enumerate(success_rates) if rate > LASTING]
    return DurabilitySection(
        success_rates=tuple(success_rates), lifespan=lasting[-1] if lasting else 0
    )
