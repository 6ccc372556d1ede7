"""Several contaminations as one, and what each client gets of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fedrobust.contamination.apply import chain, for_rank, parts_period
from fedrobust.contamination.backdoors.patch import backdoor_patch
from fedrobust.contamination.backdoors.triggers import backdoor_distributed
from fedrobust.contamination.backdoors.updates import backdoor_neurotoxin
from fedrobust.contamination.base import Collusion, Contamination, keep_data, keep_update
from fedrobust.contamination.mixture import mixture
from fedrobust.contamination.updates.independent import sign_flip
from fedrobust.errors import ConfigError
from fedrobust.experiment import compose as config
from fedrobust.experiment.build import build_experiment
from fedrobust.state import State
from fedrobust.utils.seeding import generator

IMAGES, LABELS = torch.zeros(400, 3, 2, 2), torch.zeros(400, dtype=torch.int64)
TOGETHER = Contamination("together", collude=Collusion(lambda scene: pytest.fail("never struck")))


def adding(value: float) -> Contamination:
    def data(images: Tensor, labels: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return images + value, labels

    return Contamination(f"plus {value}", data=data)


def values(contamination: Contamination) -> Tensor:
    images, labels = contamination.data(IMAGES, LABELS, generator(0))
    assert labels is LABELS
    assert not IMAGES.any()
    return images[:, 0, 0, 0]


def test_all_follow_one_another() -> None:
    assert values(mixture(mode="all", contaminations=[adding(1), adding(2)])).eq(3).all()


def test_clients_take_turns() -> None:
    site = mixture(contaminations=[adding(1), adding(2), adding(3)])
    assert [for_rank(site, rank).name for rank in range(5)] == [
        "plus 1",
        "plus 2",
        "plus 3",
        "plus 1",
        "plus 2",
    ]
    assert values(for_rank(site, 4)).eq(2).all()
    # where there are no clients the samples take turns
    assert values(site)[:5].tolist() == [1, 2, 3, 1, 2]


def test_samples_draw() -> None:
    # 400 draws at .5 and .25, the rest clean: five standard errors are 5 sqrt(.25 / 400) = .125
    drawn = values(
        mixture(mode="sample", contaminations=[adding(1), adding(2)], probabilities=[0.5, 0.25])
    )
    for value, probability in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert float((drawn == value).float().mean()) == pytest.approx(probability, abs=0.125)
    assert set(values(mixture(mode="sample", contaminations=[adding(1), adding(2)])).tolist()) == {
        1,
        2,
    }


def test_nested_turns_and_joined_parts() -> None:
    door = backdoor_distributed(num_classes=3)
    inner = mixture(contaminations=[adding(1), door])
    assert parts_period(inner) == 8
    names = [for_rank(inner, rank).name for rank in range(6)]
    assert names[::2] == ["plus 1"] * 3
    assert names[1::2] == [f"backdoor_distributed part {part} of 4" for part in (1, 2, 3)]
    joined = chain("joined", inner, sign_flip())
    assert len(joined.parts) == 8
    assert joined.backdoor is door.backdoor
    assert for_rank(joined, 3).update is not keep_update
    assert not for_rank(joined, 1).parts


def test_an_update_is_tracked_through_a_join() -> None:
    # of four coordinates the global model moved by 0, 1, 2, 3; half of them is kept: the first two
    joined = chain("joined", backdoor_neurotoxin(kept=0.5, num_classes=3), sign_flip())
    assert joined.track is not None
    before, now = State(torch.zeros(4), torch.zeros(0)), State(torch.arange(4.0), torch.zeros(0))
    sent = State(torch.full((4,), 9.0), torch.zeros(0))
    assert joined.track(sent, now, before).parameters.tolist() == [9, 9, 2, 3]
    assert joined.track(sent, now, None) is sent


@pytest.mark.parametrize(
    ("given_settings", "words"),
    [
        ({"contaminations": []}, "contaminations"),
        ({"contaminations": ["hair"]}, "contaminations"),
        ({"contaminations": [adding(1)], "mode": "random"}, "mode=random"),
        ({"contaminations": [adding(1)], "probabilities": [1.0]}, "probabilities"),
        (
            {"contaminations": [adding(1)], "mode": "sample", "probabilities": [0.5, 0.5]},
            "probabilities",
        ),
        (
            {"contaminations": [adding(1)] * 2, "mode": "sample", "probabilities": [0.9, 0.2]},
            "at most 1",
        ),
        ({"contaminations": [sign_flip()], "mode": "sample"}, "mode=sample: sign_flip"),
        (
            {"contaminations": [TOGETHER, sign_flip()]},
            "mode=cyclic: together needs all poisoned clients",
        ),
        (
            {"contaminations": [TOGETHER] * 2, "mode": "all"},
            "only one of the joined contaminations may have a collusion",
        ),
        ({"contaminations": [backdoor_patch(num_classes=3)] * 2}, "only one may have a backdoor"),
    ],
)
def test_mixtures_that_make_no_sense(given_settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        mixture(**given_settings)


def test_a_run_s_clients_get_their_own_parts() -> None:
    """Through the configuration: names of classes, turns by client among the poisoned, the whole
    pattern for the success rate."""
    words = [
        "experiment=smoke",
        "num_clients=4",
        "poisoned=[1,3]",
        "strategy=fedavg",
        "contamination=backdoor_distributed",
    ]
    experiment = build_experiment(config.compose(*words, "contamination.target=scar"))
    assert [experiment.contamination(client).name for client in range(4)] == [
        *("clean", "backdoor_distributed part 1 of 4", "clean", "backdoor_distributed part 2 of 4")
    ]
    assert experiment.backdoor is not None
    assert experiment.backdoor.target == list(experiment.dataset.class_names).index("scar")
    site = build_experiment(
        config.compose(
            "experiment=smoke",
            "noisy=[0,2]",
            "poisoned=0",
            "strategy=fedavg",
            "contamination@noise=mixture",
        )
    )
    assert [site.contamination(client).name for client in range(3)] == [
        "defocus_blur",
        "clean",
        "hair",
    ]
    assert site.shard(2).train.images is not site.samples(site.rows(2, 0)).images
    assert all(one.data is not keep_data for one in site.contaminations["noisy"].parts)
