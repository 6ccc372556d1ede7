"""The laws that our own rules, trainers, contaminations and purifiers keep, for those of a user.

    from fedrobust.testing import check_rule

    def test_my_rule() -> None:
        check_rule(my_rule())

Each law is a function of what is tested and a seed; it raises LawError. Nothing here needs a test
library.
"""

from fedrobust.testing.contaminations import CONTAMINATION_LAWS, check_contamination
from fedrobust.testing.laws import LawError
from fedrobust.testing.purifiers import PURIFIER_LAWS, check_purifier
from fedrobust.testing.rules import RULE_LAWS, check_rule
from fedrobust.testing.trainers import (
    TRAINER_LAWS,
    TrainerCase,
    check_trainer,
    example_model,
)

__all__ = [
    "CONTAMINATION_LAWS",
    "PURIFIER_LAWS",
    "RULE_LAWS",
    "TRAINER_LAWS",
    "LawError",
    "TrainerCase",
    "check_contamination",
    "check_purifier",
    "check_rule",
    "check_trainer",
    "example_model",
]
