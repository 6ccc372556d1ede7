"""A hospital whose images are perturbed against the model that it receives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedrobust.contamination.adversarial_images import evasion
from fedrobust.contamination.apply import chain, craft_samples
from fedrobust.contamination.base import CLEAN, Contamination
from fedrobust.contamination.evasion.gradients import attack_loss
from fedrobust.contamination.labels.label_flip import label_flip
from fedrobust.contamination.mixture import mixture
from fedrobust.errors import ConfigError
from fedrobust.experiment.features import ModelInputs
from fedrobust.runtime.client.evaluation import apply_crafted, predict_conditions
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.types import Samples
from fedrobust.utils.images import as_unit
from fedrobust.utils.seeding import generator
from tests.helpers import federations, models


def loss_of(model: object, samples: Samples) -> Tensor:
    with torch.no_grad():
        return attack_loss(model, as_unit(samples.images), samples.labels)


def test_the_model_decides_and_labels_stay() -> None:
    model, data = models.classifier().eval(), models.samples(20)
    stored = data.images.clone()
    found = craft_samples(data, evasion(), model, generator(0))
    assert torch.equal(data.images, stored)
    assert found.labels is data.labels
    assert 0 < float((found.images - as_unit(stored)).abs().max()) <= 8 / 255 + 1e-6
    assert loss_of(model, found) > loss_of(model, data)
    assert torch.equal(found.images, craft_samples(data, evasion(), model, generator(0)).images)
    assert not torch.equal(
        found.images, craft_samples(data, evasion(), models.classifier(seed=1), generator(0)).images
    )


def test_an_exact_share_is_attacked() -> None:
    data = models.samples(20)
    found = craft_samples(data, evasion(rate=0.35), models.classifier(), generator(0))
    assert int((found.images != as_unit(data.images)).flatten(1).any(dim=1).sum()) == 7
    for nothing in (evasion(rate=0.0), evasion(eps_255=0.0), CLEAN):
        assert craft_samples(data, nothing, models.classifier(), generator(0)) is data
    assert len(craft_samples(models.samples(0), evasion(), models.classifier(), generator(0))) == 0


def test_it_joins_others_and_is_no_matter_of_single_samples() -> None:
    both = chain("both", label_flip(num_classes=3), evasion())
    assert both.craft is not None
    found = craft_samples(models.samples(9), both, models.classifier(), generator(0))
    assert (found.images != as_unit(models.samples(9).images)).any()
    with pytest.raises(ConfigError, match="evasion does not change single samples"):
        mixture(mode="sample", contaminations=[evasion(), Contamination("other")])


def test_there_is_no_model_to_attack_for_the_corruption_of_test_images() -> None:
    with pytest.raises(ConfigError, match=r"corruption=evasion: .*use evasion=pgd"):
        federations.build_experiment("contamination@corruption=evasion")


def test_hospitals_craft_their_images_in_every_round_and_keep_their_test_images() -> None:
    experiment = federations.build_experiment("poisoned=[1]", "contamination=evasion")
    model = build_server_context(experiment).model
    for client in range(3):
        shard = experiment.shard(client)
        one, two = (apply_crafted(experiment, client, model, shard, number) for number in (1, 2))
        assert (one is shard) == (client != 1)
        assert one.test is shard.test
        if client == 1:
            change = (one.train.images - as_unit(shard.train.images)).abs()
            assert 0 < float(change.max()) <= 8 / 255 + 1e-6
            assert not torch.equal(one.train.images, two.train.images)  # another start
            assert torch.equal(one.train.labels, shard.train.labels)
            assert one.validation.images.shape == shard.validation.images.shape
        answers = predict_conditions(ModelInputs(experiment, model), client, model)
        assert list(answers) == ["clean", "contaminated"]
        assert (answers["clean"][0] is answers["contaminated"][0]) == (client != 1)


def test_with_a_purifier_both_conditions_are_judged_behind_it_too() -> None:
    experiment = federations.build_experiment("poisoned=[1]", "purifier=gaussian")
    server = build_server_context(experiment)
    answers = predict_conditions(server.inputs, 1, server.model)
    assert list(answers) == ["clean", "contaminated", "purified_clean", "purified_contaminated"]
    assert not torch.equal(answers["clean"][0], answers["purified_clean"][0])
    # labels alone are flipped
    assert torch.equal(answers["purified_clean"][0], answers["purified_contaminated"][0])
    assert torch.equal(answers["contaminated"][1], answers["purified_contaminated"][1])
