"""From words to a plan: the poster's models by default, everything central, wrong input in one
line."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.studies.ablation.plan import NOT_CENTRAL, Scenario, read_plan
from fedrobust.studies.ablation.poster import VALUES
from fedrobust.studies.comparison.grid import cells

NOTHING = ("poisonings=[]", "scenarios=[]")


def test_the_default_is_the_poster() -> None:
    plan = read_plan([])
    assert set(VALUES) < set(plan.models)
    assert list(plan.families)[:2] == ["hair", "burned_text"]
    assert [one.severity for one in plan.families["hair"]] == [1, 3, 5]
    assert plan.scenarios[0].settings["severity"] == 1
    assert len(plan.grid.seeds) >= 3


def test_every_training_is_that_of_one_site_with_all_data() -> None:
    trainings = cells(read_plan([*NOTHING, "seeds=[4,5]", "model=small", "experiment=quick"]).grid)
    assert len(trainings) == 5 * 2
    assert {one.seed for one in trainings} == {4, 5}
    for one in trainings:
        config = one.config
        assert (config["num_clients"], config["rounds"], config["poisoned"], config["noisy"]) == (
            1,
            1,
            0,
            0,
        )
        assert (config["server"]["root_per_class"], config["server"]["proxy_images"]) == (0, 0)
        assert "fedavg" in config["strategy"]["_target_"]
        assert config["client"]["epochs"] == 2  # those of experiment=quick


def test_the_poster_s_training() -> None:
    one, *_, last = cells(read_plan([*NOTHING, "seeds=0"]).grid)
    assert one.config["client"]["optimizer"] == {"name": "Adam", "lr": 1e-4, "weight_decay": 1e-3}
    assert one.config["client"]["early_stopping"] == 20
    assert one.config["client"]["lr_plateau"] == {"factor": 0.1, "patience": 10}
    assert one.config["model"]["head"] == "linear"
    assert (last.config["client"]["size"], last.config["client"]["distillation_loss"]) == (
        2,
        "true_class",
    )


def test_poisoned_trainings_are_cells_of_their_own() -> None:
    plan = read_plan(
        [
            "scenarios=[]",
            "models=[{a: 'client.rect=true'}]",
            "seeds=0",
            "poisonings=[{x: 'contamination=label_error contamination.rate=0.3'}]",
        ]
    )
    assert [(one.contamination, one.config["poisoned"]) for one in cells(plan.grid)] == [
        ("none", 0),
        ("x", 1),
    ]
    assert cells(plan.grid)[1].config["contamination"]["rate"] == 0.3


def test_scenarios_without_severities_and_names_of_one_s_own() -> None:
    words = [
        "poisonings=[]",
        "scenarios=[backdoor_clinical,{mine: 'contamination@corruption=jpeg corruption.rate=0.5'}]",
        "severities=[2]",
    ]
    first, second = read_plan(words).scenarios
    assert (str(first), first.severity) == ("backdoor_clinical", None)
    assert (str(second), second.settings["rate"], second.settings["severity"]) == ("mine 2", 0.5, 2)


@settings(max_examples=20)
@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(), max_size=4))
def test_equal_settings_are_equal_scenarios(chosen: dict[str, int]) -> None:
    turned = dict(reversed(chosen.items()))
    assert Scenario("a", 1, chosen).digest == Scenario("a", 1, turned).digest
    assert Scenario("a", 1, chosen).digest != Scenario("a", 1, {**chosen, "one more": 1}).digest


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["seed=3"], r"seed=3: a grid takes several; give seeds=\[\.\.\.\]"),
        (["contamination=hair"], r"contamination=hair: a grid takes several; give poisonings"),
        (["num_clients=3"], r"num_clients=3: belongs to a federation"),
        (["server.proxy_images=3"], r"server\.proxy_images=3: belongs to a federation"),
        (["+server.x=3"], r"belongs to a federation"),
        (["contamination@noise=hair"], r"belongs to a federation"),
        (["models=[{a: 'strategy=krum'}]"], r"strategy=krum: belongs to a federation"),
        (["models=[]"], r"models=\[\]: must be a list of choices"),
        (["scenarios=3"], r"scenarios=3: must be null or a list of choices"),
        (["models=[small,small]"], r"models: small is there twice"),
        (["models=[{a: 'seed=1'}]"], r"models: a sets seed"),
        (["poisonings=[none]"], r"poisonings: none is the name of clean trainings"),
        (["severities=[-1]"], r"severities=\[-1\]: must be a list of different whole numbers"),
        (["seeds=[0,0]"], r"seeds=\[0, 0\]: must be a list of different whole numbers"),
        (["draws=0"], r"draws=0"),
        (["+ablation.colour=red"], r"ablation\.colour=red: unknown setting"),
        (["out=3"], r"out=3: must be a folder"),
        (
            [
                "scenarios=[{hair 3: 'contamination@corruption=gaussian_update'},hair]",
                "poisonings=[]",
                "severities=[3]",
            ],
            r"scenarios: hair 3 is the",
        ),
        (
            ["scenarios=[{clean: 'contamination@corruption=hair'}]", "poisonings=[]"],
            r"scenarios: clean \d is the name",
        ),
        (["hydra.run.dir=x"], r"Hydra's own settings have no meaning here"),
    ],
)
def test_wrong_words_end_in_one_line(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        read_plan(words)
    assert "\n" not in str(caught.value)


def test_what_belongs_to_a_federation_is_all_refused() -> None:
    for key in NOT_CENTRAL:
        with pytest.raises(ConfigError, match="belongs to a federation"):
            read_plan([f"{key}=1"])
