import torch

from fedrobust.evaluation.label_detection import (
    LabelDetection,
    label_counts,
    pool_label_counts,
)
from fedrobust.types import ClientRecord, LabelChoice, RoundRecord

GIVEN, TRUE = torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 0, 0])
# suspected: a right label, a wrong one that becomes right, a wrong one that stays wrong
CHOICE = LabelChoice(torch.tensor([True, True, True, False]), torch.tensor([1, 0, 1, 0]))


def test_counts_by_hand():
    assert label_counts(GIVEN, CHOICE, TRUE) == {
        "suspected": 3.0,
        "mislabelled": 2.0,
        "mislabelled_found": 2.0,
        "mislabelled_corrected": 1.0,
    }


def test_a_real_site_tells_how_many_it_suspects_and_no_more():
    assert label_counts(GIVEN, CHOICE) == {"suspected": 3.0}


def record(number, *clients):
    return RoundRecord(
        number, {}, tuple(ClientRecord(one, 4, 0.5, metrics) for one, metrics in clients)
    )


def test_the_last_report_of_every_client_counts():
    one = label_counts(GIVEN, CHOICE, TRUE)
    nothing = label_counts(GIVEN, LabelChoice(torch.zeros(4, dtype=torch.bool), GIVEN), TRUE)
    found = pool_label_counts([record(1, (0, one), (1, one)), record(2, (0, nothing), (2, {}))])
    # client 0: nothing of 2; client 1: 2 of 2, one corrected; client 2 reports none
    assert found == LabelDetection(8, 3, 4, 2, 1)
    assert (round(found.precision, 1), found.recall) == (66.7, 50.0)
    assert pool_label_counts([record(1, (0, {"suspected": 1.0}))]) is None


def test_undefined_shares():
    nothing = LabelDetection(8, 0, 0, 0, 0)
    assert (nothing.precision, nothing.recall) == (None, None)


def test_counts_that_cannot_be_are_skipped():
    good = label_counts(GIVEN, CHOICE, TRUE)
    bad = ({"mislabelled_found": 1.0}, good | {"suspected": 5.0}, good | {"mislabelled": -1.0})
    rows = [(place, metrics) for place, metrics in enumerate((good, *bad))]
    assert pool_label_counts([record(1, *rows)]) == LabelDetection(4, 3, 2, 2, 1)
    assert pool_label_counts([record(1, *rows[1:])]) is None
