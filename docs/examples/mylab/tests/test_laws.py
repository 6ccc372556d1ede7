"""The laws that fedrobust's own rules and contaminations keep."""

from mylab.attacks import mylab_darker
from mylab.rules import mylab_rule

from fedrobust.testing import check_contamination, check_rule


def test_the_rule() -> None:
    # lengths are measured from the global model, which a shift of all updates does not move
    check_rule(mylab_rule(), without=["shift"])


def test_the_attack() -> None:
    check_contamination(mylab_darker())
