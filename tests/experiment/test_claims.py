"""How many training images of a client count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedrobust.experiment.claims import limit_to_census, limit_to_shard

MOST = 1_000_000
SAID = st.lists(st.none() | st.integers(0, 2**40), min_size=2, max_size=6)


def test_what_the_server_shared_out_itself_needs_no_share() -> None:
    assert limit_to_shard(999, 1000).count == 999
    assert limit_to_shard(1001, 1000).why == "server.max_examples=1000"


def test_an_honest_census_counts_as_it_is() -> None:
    sizes = [3363, 3954, 2259]  # HAM10000's three biggest sites
    for share in (0.5, None):
        assert [limit_to_census(n, sizes, MOST, share).count for n in range(3)] == sizes
    for sizes in ([800, 200], [60, 20, 20], [500, 200, 200, 100]):
        found = [limit_to_census(n, sizes, MOST, None).count for n in range(len(sizes))]
        assert found == sizes


def test_one_site_s_word_gives_it_no_more_than_its_share() -> None:
    limit = limit_to_census(1, [300, 2**40, 100], MOST, 0.5)
    assert (limit.count, limit.why) == (400, "server.max_share: 0.5 of all images")
    assert limit_to_census(1, [300, 2**40, 100], MOST, 0.8).count == 1600
    assert limit_to_census(1, [300, 2**40, 100], MOST, 1).count == MOST
    assert limit_to_census(1, [300, 2**40, 100], MOST, None).count == 800
    assert limit_to_census(1, [300, 2**40, 100, 100], MOST, None).count == 500


def test_a_site_that_said_nothing_is_held_to_the_others() -> None:
    limit = limit_to_census(0, [None, 60, 40], MOST, 0.5)
    assert (limit.count, limit.why) == (100, "server.max_share: 0.5 of all images")


def test_a_site_that_said_it_has_none_counts_nothing() -> None:
    assert limit_to_census(0, [0, 60, 40], MOST, 0.5).count == 0


def test_a_single_site_has_nobody_to_be_measured_against() -> None:
    assert limit_to_census(0, [70], MOST, 0.5).count == 70


@given(SAID, st.floats(0.01, 1))
def test_no_limit_is_above_a_word_the_cap_or_the_share(
    said: list[int | None], share: float
) -> None:
    for client, own in enumerate(said):
        count = limit_to_census(client, said, MOST, share).count
        others = sum(min(one or 0, MOST) for place, one in enumerate(said) if place != client)
        assert count <= min(MOST, MOST if own is None else own)
        if others and count > 1:
            assert count <= share * (count + others) * (1 + 1e-6) + 1e-6
