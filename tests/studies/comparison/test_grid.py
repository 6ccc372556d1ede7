"""From words to cells."""

from __future__ import annotations

import re

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment import compose, settings
from fedrobust.studies.comparison.grid import cells, read_grid
from fedrobust.utils.cli import explain

SMALL = (
    "experiment=smoke",
    "strategies=[fedavg,median]",
    "contaminations=[label_flip,sign_flip]",
    "poisoned=[0,1]",
    "seeds=[4,7]",
)


def test_one_cell_for_each_combination_and_one_without_poisoned_clients() -> None:
    found = cells(read_grid(SMALL))
    # 2 rules x 2 seeds x (1 without poisoned clients + 2 attacks)
    assert len(found) == 2 * 2 * (1 + 2)
    assert len({cell.folder for cell in found}) == 12
    assert [str(cell) for cell in found[:3]] == [
        "fedavg · none · 0 poisoned · seed 4",
        "median · none · 0 poisoned · seed 4",
        "fedavg · label_flip · 1 poisoned · seed 4",
    ]
    assert [cell.seed for cell in found] == [4] * 6 + [7] * 6


def test_a_cell_is_the_main_job_with_its_words() -> None:
    cell = next(
        one
        for one in cells(read_grid(SMALL))
        if (one.strategy, one.contamination, one.seed) == ("median", "sign_flip", 7)
    )
    words = (
        "experiment=smoke",
        "engine.threads=1",
        "strategy=median",
        "contamination=sign_flip",
        "poisoned=1",
        "seed=7",
    )
    assert cell.config == compose.compose(*words)
    assert cell.folder == f"median-sign_flip-p1-s7-{cell.digest[:10]}"


@pytest.mark.slow
def test_other_settings_are_other_folders() -> None:
    first, second = (cells(read_grid((*SMALL, word)))[0] for word in ("rounds=1", "rounds=2"))
    assert first.folder != second.folder
    assert (
        cells(read_grid((*SMALL, "parallel=1")))[0]
        == cells(read_grid((*SMALL, "parallel=7", "draws=5", "out=x")))[0]
    )  # change no result


def test_named_variants() -> None:
    words = (
        "experiment=smoke",
        "poisoned=[1]",
        "seeds=[0]",
        ("strategies=[fedavg,{gentle krum: 'strategy=krum strategy.f=0'}]"),
        "contaminations=[{half: 'contamination=label_flip contamination.rate=0.5'}]",
    )
    plain, krum = cells(read_grid(words))
    assert (krum.strategy, krum.contamination) == ("gentle krum", "half")
    assert krum.config["strategy"]["f"] == 0
    assert krum.config["contamination"]["rate"] == 0.5
    assert krum.folder.startswith("gentle_krum-half-p1-s0-")
    assert plain.strategy == "fedavg"


def test_names_that_make_one_folder_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the folder: a_b-none-p0-s0-\w+ is there twice"):
        cells(
            read_grid(
                (
                    "experiment=smoke",
                    "strategies=[{a b: 'strategy=fedavg'},{a/b: 'strategy=fedavg'}]",
                    "poisoned=[0]",
                    "seeds=[0]",
                )
            )
        )


def test_single_values_are_lists_of_one_and_clients_can_be_named() -> None:
    found = cells(
        read_grid(
            (
                "experiment=smoke",
                "strategies=fedavg",
                "contaminations=label_flip",
                "poisoned=[[2,0],1]",
                "seeds=3",
            )
        )
    )
    assert [(cell.poisoned, cell.config["poisoned"], cell.seed) for cell in found] == [
        (2, [2, 0], 3),
        (1, 1, 3),
    ]


@pytest.mark.slow
def test_the_engine_is_one_process_with_fixed_threads_unless_another_is_asked_for() -> None:
    assert cells(read_grid((*SMALL, "threads=3")))[0].config["engine"] == {
        "_target_": "fedrobust.runtime.engines.inline_engine",
        "threads": 3,
    }
    assert (
        cells(read_grid((*SMALL, "engine=ray")))[0].config["engine"]["_target_"]
        == "fedrobust.runtime.engines.ray_engine"
    )
    assert cells(read_grid((*SMALL, "engine.threads=2")))[0].config["engine"]["threads"] == 2


@pytest.mark.slow
def test_the_issue_s_grid_is_the_default() -> None:
    grid = read_grid(())
    assert len(cells(grid)) == len(grid.strategies) * 3 * (1 + 2 * len(grid.contaminations))
    assert (grid.poisoned, grid.seeds, grid.threads, grid.parallel) == (
        (0, 1, 3),
        (0, 1, 2),
        1,
        None,
    )


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("strategy=krum", r"strategy=krum: .* give strategies=\[\.\.\.\]"),
        ("seed=1", r"seed=1: .* give seeds=\[\.\.\.\]"),
        ("--multirun", "--multirun: cannot be read"),
        ("krum", "krum: cannot be read"),
        ("hydra.run.dir=x", r"hydra\.run\.dir=x: .* out="),
        ("seeds=[]", r"seeds=\[\]: must be a list of different whole numbers from 0"),
        ("seeds=[0,1,0]", r"seeds=\[0, 1, 0\]: must be a list of different whole numbers"),
        ("seeds=[-1]", r"seeds=\[-1\]: must be a list of different whole numbers from 0"),
        ("seeds=[a]", r"seeds=\['a'\]: must be a list of different whole numbers"),
        ("poisoned=[1,[2]]", r"poisoned=\[1, \[2\]\]: must be a list of different numbers"),
        ("poisoned=[1.5]", r"poisoned=\[1\.5\]: must be a list of .* numbers of clients"),
        ("poisoned=[[-1]]", r"poisoned=\[\[-1\]\]: must be a list of .* numbers of clients"),
        ("threads=0", "^threads=0: must be at least 1"),
        ("thread=2", r"^thread=2: unknown key; did you mean threads=2\?"),
        ("strategie=krum", r"^strategie=krum: unknown key; did you mean strategies=krum\?"),
        ("parallel=half", "parallel=half: must be a whole number"),
        ("draws=null", "draws=None: must be a whole number"),
        ("out=null", "out=None: must be a folder"),
        ("strategies=[krum,krum]", "strategies: krum is there twice"),
        ("strategies=[{a: ''}]", "strategies: .* must be a choice of strategy"),
        (
            "strategies=[{a: 'strategy=krum', b: 'strategy=krum'}]",
            "strategies: .* must be a choice of strategy",
        ),
        (
            "strategies=[{a: 'strategy=krum seed=3'}]",
            "strategies: a sets seed, which belongs to the grid",
        ),
        ("strategies=[3]", r"strategies=\[3\]: must be a list of choices, or of \{a name"),
        ("strategies=[]", r"strategies=\[\]: must be a list of choices"),
        (
            "contaminations=[{none: 'contamination=label_flip'}]",
            "none is the name of cells without",
        ),
        ("+compare.colour=red", r"^compare\.colour=red: unknown setting; known are .*threads"),
        ("+compare.thread=2", r"^compare\.thread=2: unknown setting; did you mean threads\?"),
        ("~compare.seeds", r"^compare\.seeds: is missing; set compare\.seeds=\.\.\."),
        ("compare=3", r"^compare=3: must be a group of settings: .*seeds"),
    ],
)
def test_wrong_words_are_refused_in_one_line(word: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        read_grid(("experiment=smoke", word))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "strategies=[magic]",
            r"strategy=magic: no such choice; `python -m fedrobust.simulate --help` lists all \d+",
        ),
        ("num_cliens=3", "num_cliens=3: unknown key; did you mean num_clients=3"),
        (
            "strategies=[fedavg,{a: 'strategy=krum strategy.g=3'}]",
            r"strategy\.g=3: unknown key; strategy has f",
        ),
    ],
)
def test_what_hydra_refuses(word: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cells(read_grid(("experiment=smoke", word)))
    text, code = explain(caught.value)
    assert code == 2
    assert text is not None
    assert re.match(line, text), text


def test_an_experiment_can_hold_the_grid_and_is_of_use_to_the_main_job_too() -> None:
    grid = read_grid(("experiment=leaderboard", "seeds=[5]"))
    assert (len(grid.strategies), len(grid.contaminations), grid.poisoned, grid.seeds) == (
        10,
        6,
        (0, 3),
        (5,),
    )
    nnm = next(one for one in grid.strategies if one.name == "krum after nnm")
    assert nnm.words == ("strategy=krum", "preaggregation=nnm")
    config = compose.compose("experiment=leaderboard", *nnm.words)
    assert "compare" not in config
    settings.read_settings(config)
