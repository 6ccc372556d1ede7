"""A node's own limit: counted over all runs, against any server."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from fedrobust.errors import ConfigError, RefusalError
from fedrobust.privacy import mechanisms
from fedrobust.privacy.accounting import epsilon
from fedrobust.privacy.ledger import Order, check_mechanism, record_release

DP = mechanisms.local_dp(noise_multiplier=2.0)


def node(path: Path, limit: float, **more) -> dict:
    return {"max-epsilon": limit, "privacy-ledger": str(path), **more}


NUMBERS = itertools.count(1)


def release(own: dict, mechanism: mechanisms.Privacy) -> None:
    """Another round of some run."""
    record_release(own, mechanism, Order(7, next(NUMBERS)))


def test_updates_are_sent_until_the_limit_over_all_runs(tmp_path: Path) -> None:
    path, limit = tmp_path / "ledger.jsonl", epsilon(2.0, 3, 1e-5) + 1e-6
    for _ in range(3):
        release(node(path, limit), DP)
    with pytest.raises(ConfigError, match=r"^max-epsilon=.*would reach epsilon=.*it sends no more"):
        release(node(path, limit), DP)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["mu_squared"] for line in lines] == [0.25] * 3  # the refused one is not entered
    assert [line["epsilon"] for line in lines] == pytest.approx(
        [epsilon(2.0, k, 1e-5) for k in (1, 2, 3)]
    )
    # mechanisms of another strength add up likewise
    release(node(path, limit + 5), mechanisms.local_dp(noise_multiplier=4.0))
    # 3 / 4 + 1 / 16 = 13 / 16
    assert json.loads(path.read_text().splitlines()[-1])["epsilon"] == pytest.approx(
        epsilon((16 / 13) ** 0.5, 1, 1e-5)
    )


def test_the_servers_delta_does_not_count(tmp_path: Path) -> None:
    loose = mechanisms.local_dp(noise_multiplier=2.0, delta=0.5)
    with pytest.raises(ConfigError, match="would reach"):
        release(node(tmp_path / "x", 0.1), loose)
    release(node(tmp_path / "x", 3.0, **{"privacy-delta": 1e-3}), loose)


@pytest.mark.parametrize("mechanism", [mechanisms.none(), mechanisms.clipping(1.0)])
def test_without_local_dp_nothing_is_sent(tmp_path: Path, mechanism: mechanisms.Privacy) -> None:
    with pytest.raises(ConfigError, match="sends nothing without local DP"):
        release(node(tmp_path / "x", 8.0), mechanism)
    check_mechanism({}, mechanism)  # a node without a limit


@pytest.mark.parametrize(
    "text",
    [
        "not json\n",
        '{"mu_squared": -5}\n',
        '{"mu_squared": NaN}\n',
        "[1]\n",
        '{"mu_squared": "1"}\n',
    ],
)
def test_a_damaged_ledger_stops_the_node(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read, so nothing is sent"):
        release(node(path, 8.0), DP)
    assert path.read_text() == text


def test_what_the_node_s_configuration_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^privacy-ledger: is missing"):
        release({"max-epsilon": 8.0}, DP)
    with pytest.raises(ConfigError, match=r"^max-epsilon=many"):
        release(node(tmp_path / "x", "many"), DP)  # type: ignore[arg-type]


def test_each_round_of_a_run_is_entered_once(tmp_path: Path) -> None:
    own = node(tmp_path / "x", 100.0)
    for order in (Order(7, 1), Order(7, 2), Order(8, 1)):
        record_release(own, DP, order)
    for order in (Order(7, 1), Order(8, 1)):
        with pytest.raises(RefusalError, match="was answered before") as caught:
            record_release(own, DP, order)
        assert caught.value.code == "repeated"
    lines = [json.loads(line) for line in (tmp_path / "x").read_text().splitlines()]
    assert [(line["run"], line["round"]) for line in lines] == [(7, 1), (7, 2), (8, 1)]


def test_entries_of_earlier_versions_count_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"mu_squared": 0.25, "epsilon": 2.0}\n')
    release(node(tmp_path / "x", 100.0), DP)
    last = json.loads((tmp_path / "x").read_text().splitlines()[-1])
    assert last["epsilon"] == pytest.approx(epsilon(2.0, 2, 1e-5))


def test_a_ledger_that_cannot_be_written_stops_the_node(tmp_path: Path) -> None:
    with pytest.raises(RefusalError, match="cannot be written to") as caught:
        release(node(tmp_path / "no" / "folder", 8.0), DP)
    assert caught.value.code == "ledger"
