"""Evaluation of a hospital's images, crafted against the received model where its contamination
says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fedrobust.contamination.apply import craft_samples
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.features import ModelInputs
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict
from fedrobust.learning.personal import holding
from fedrobust.types import Samples, Shard


def apply_crafted(
    experiment: Experiment, client: int, model: Classifier, shard: Shard, server_round: int
) -> Shard:
    """The shard with training and validation images crafted against the model, where the client's
    contamination does so."""
    contamination = experiment.contamination(client)
    if contamination.craft is None:
        return shard
    train, validation = (
        craft_samples(
            part, contamination, model, experiment.generator("craft", client, server_round, name)
        )
        for name, part in (("train", shard.train), ("validation", shard.validation))
    )
    return replace(shard, train=train, validation=validation)


def predict_conditions(
    inputs: ModelInputs, client: int, model: Classifier
) -> dict[str, tuple[Tensor, Tensor]]:
    """Predictions on the hospital's test images, by condition: (class probabilities (n, K),
    labels (n,)).

    "clean"; "contaminated": under the hospital's contamination; with a purifier both again behind
    it, as "purified_clean" and "purified_contaminated".
    """
    experiment = inputs.experiment
    clean, contaminated = _test_sets(inputs, client, model)
    conditions, size = (
        {"clean": clean, "contaminated": contaminated},
        experiment.evaluation.batch_size,
    )
    scores = {"clean": predict(model, clean.images, size)}
    same = contaminated.images is clean.images
    scores["contaminated"] = scores["clean"] if same else predict(model, contaminated.images, size)
    out = {name: (scores[name], one.labels) for name, one in conditions.items()}
    if experiment.purifies:
        if experiment.model.learns_from_features:
            images = experiment.client_test_sets(client)
            conditions = dict(zip(conditions, images, strict=True))
        adapted = experiment.with_purified_batchnorm(
            model, experiment.shard(client).train.images, "client", client
        )
        for name, one in conditions.items():
            seen = predict(
                adapted, one.images, size, experiment.purifier_for("client", client, name)
            )
            out[f"purified_{name}"] = (seen, one.labels)
    return out


def predict_personal(
    inputs: ModelInputs, client: int, model: Classifier, personal: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The same with the client's own model, not behind a purifier: "personal_clean",
    "personal_contaminated" and, under the test-time corruption, "personal_corrupted".

    Args:
        inputs: the images.
        client: its number.
        model: holds the global model, and again at the end.
        personal: tensors of the client's own model by name; empty: it is the global one.
    """
    size = inputs.experiment.evaluation.batch_size
    # what is crafted against the global model meets the client's own one
    clean, contaminated = _test_sets(inputs, client, model)
    found = {"clean": clean, "contaminated": contaminated}
    found["corrupted"] = inputs.client_corrupted(client)
    with holding(model, personal):
        return {
            f"personal_{name}": (predict(model, one.images, size), one.labels)
            for name, one in found.items()
        }


def _test_sets(inputs: ModelInputs, client: int, model: Classifier) -> tuple[Samples, Samples]:
    """The client's test images, clean and under its contamination."""
    experiment = inputs.experiment
    clean, contaminated = inputs.client_test_sets(client)
    crafted = craft_samples(
        contaminated,
        experiment.contamination(client),
        model,
        experiment.generator("craft", client, "test"),
    )
    return clean, crafted
