"""Attacks on one model: who attacks what, seen through which purifier, and that nothing else
matters."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fedrobust.contamination.base import Evasion
from fedrobust.errors import ConfigError
from fedrobust.evaluation.evasion import AttackResults
from fedrobust.evaluation.settings import EvasionEvaluation
from fedrobust.experiment.experiment import Experiment
from fedrobust.learning import batchnorm
from fedrobust.learning.inference import predict
from fedrobust.runtime.server import evasion as fedrobust_attempts
from fedrobust.runtime.server.evasion import evaluate_attacks
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.types import Purifier
from fedrobust.utils.images import as_unit
from tests.helpers import federations

ALL = ["oblivious", "bpda_eot", "differentiated"]
KEY = "evaluation.evasion_evaluation"
SMALL = (f"{KEY}.eps_255=[2,8]", f"{KEY}.eot_samples=2", "evaluation.batch_size=16")


def brighter(
    model: Any, images: Tensor, labels: Tensor, eps: float, generator: Generator
) -> Tensor:
    return (images + eps).clamp(max=1)


def made(
    experiment: Experiment, threats: list[str], rows: slice = slice(0, 18)
) -> tuple[AttackResults, list[str]]:
    said: list[str] = []
    samples, proxy = (
        experiment.samples(experiment.test_rows()[rows]),
        experiment.samples(experiment.proxy).images,
    )
    return evaluate_attacks(
        experiment,
        build_server_context(experiment).model,
        samples,
        "global",
        threats=threats,
        estimation=proxy,
        say=said.append,
    ), said


@pytest.mark.slow
def test_every_threat_bound_and_purifier_has_its_turn() -> None:
    experiment = federations.build_experiment(
        "evasion=fgsm", "purifier=gaussian", f"{KEY}.threat_models=[{','.join(ALL)}]", *SMALL
    )
    found, said = made(experiment, ALL)
    assert list(found.clean) == ["none", "gaussian"]
    assert [(one.threat_model, one.eps_255, one.purifier) for one in found.made] == [
        *(("oblivious", eps, name) for eps in (2, 8) for name in ("none", "gaussian")),
        *((name, eps, "gaussian") for name in ALL[1:] for eps in (2, 8)),
    ]
    assert all(one.probabilities.shape == (18, 7) for one in found.made)
    for one in found.made:
        assert one.eps_255 is not None
        assert one.linf == pytest.approx(one.eps_255 / 255, abs=1e-5)
        assert one.l2 <= one.linf * (3 * 16 * 16) ** 0.5 + 1e-5
    assert said[0] == "fgsm on global, oblivious, eps 2/255"
    assert len(said) == 6


def test_by_hand() -> None:
    """Every value 4/255 brighter; a purifier that makes everything black."""
    black = Purifier("black", lambda images, generator: torch.zeros_like(images))
    words = ("evasion=fgsm", f"{KEY}.eps_255=[4]", "evaluation.purified_statistics=false")
    experiment = replace(
        federations.build_experiment(*words), evasion=Evasion("brighter", brighter), purifier=black
    )
    found, _ = made(experiment, ["oblivious"], slice(0, 20))
    model, images = (
        build_server_context(experiment).model,
        as_unit(experiment.samples(experiment.test_rows()[:20]).images),
    )
    bare, purified = found.made
    torch.testing.assert_close(bare.probabilities, predict(model, (images + 4 / 255).clamp(max=1)))
    torch.testing.assert_close(purified.probabilities, predict(model, torch.zeros_like(images)))
    torch.testing.assert_close(found.clean["none"], predict(model, images))
    change = (images + 4 / 255).clamp(max=1) - images
    assert bare.l2 == pytest.approx(float(change.flatten(1).norm(dim=1).mean()), rel=1e-5)


@pytest.mark.parametrize("purified", [True, False])
def test_behind_the_purifier_stands_the_model_with_statistics_of_purified_images(
    purified: bool,
) -> None:
    words = (
        "evasion=fgsm",
        f"{KEY}.eps_255=[4]",
        "purifier=tv",
        f"evaluation.purified_statistics={str(purified).lower()}",
    )
    experiment = replace(
        federations.build_experiment(*words), evasion=Evasion("brighter", brighter)
    )
    found, _ = made(experiment, ["oblivious"], slice(0, 20))
    model, test = (
        build_server_context(experiment).model,
        as_unit(experiment.samples(experiment.test_rows()[:20]).images),
    )
    proxy = as_unit(experiment.samples(experiment.proxy).images)
    behind = experiment.with_purified_batchnorm(model, proxy, "global")
    assert (behind is model) != purified
    purify = experiment.purifier_for("global", "clean")
    torch.testing.assert_close(found.clean["tv"], predict(behind, purify(test)))
    torch.testing.assert_close(found.clean["none"], predict(model, test))
    # estimated on all proxy images, of which there are fewer than 256, in any order: a batch is all
    # of them
    if purified:
        by_hand = copy.deepcopy(model)
        batchnorm.recalibrate(by_hand, purify(proxy))
        for one, other in zip(batchnorm.layers(behind), batchnorm.layers(by_hand), strict=True):
            torch.testing.assert_close(one.running_mean, other.running_mean, rtol=1e-4, atol=1e-5)


def test_who_knows_the_purifier_attacks_the_model_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def adaptive(model: Any, images: Tensor, *rest: Any, **options: Any) -> Tensor:
        asked.append(model)
        return images

    monkeypatch.setitem(fedrobust_attempts.ADAPTIVE, "bpda_eot", adaptive)
    experiment = federations.build_experiment(
        "evasion=fgsm", "purifier=gaussian", f"{KEY}.threat_models=[oblivious,bpda_eot]", *SMALL
    )
    found, _ = made(experiment, ALL[:2])
    server = build_server_context(experiment).model
    for model in asked:
        assert any(
            not torch.equal(a, b)
            for (_, a), (_, b) in zip(model.named_buffers(), server.named_buffers(), strict=True)
        )
    # nothing was changed, so the answers are those on clean images
    torch.testing.assert_close(found.made[-1].probabilities, found.clean["gaussian"])


def test_nothing_depends_on_what_else_is_attacked() -> None:
    experiment = federations.build_experiment(
        "evasion=pgd", "evasion.steps=2", "purifier=mdda", f"{KEY}.eps_255=[2,8]"
    )
    *_, bare, last = made(experiment, ["oblivious"])[0].made
    narrow = replace(experiment.evaluation, evasion_evaluation=EvasionEvaluation(eps_255=(8.0,)))
    alone = replace(experiment, evaluation=narrow)
    lonely_bare, lonely = made(alone, ["oblivious"])[0].made
    assert torch.equal(bare.probabilities, lonely_bare.probabilities)
    assert torch.equal(last.probabilities, lonely.probabilities)


def test_an_attack_without_a_bound_is_made_once() -> None:
    experiment = replace(
        federations.build_experiment("evasion=fgsm"),
        evasion=Evasion("brighter", brighter, bounded=False),
    )
    found, said = made(experiment, ["oblivious"])
    assert [one.eps_255 for one in found.made] == [None]
    assert said == ["brighter on global, oblivious"]


def test_a_model_that_has_run_away_cannot_be_attacked() -> None:
    experiment = federations.build_experiment("evasion=fgsm")
    model, samples = (
        build_server_context(experiment).model,
        experiment.samples(experiment.test_rows()[:4]),
    )
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        evaluate_attacks(
            experiment,
            model,
            samples,
            "global",
            threats=["oblivious"],
            estimation=samples.images,
            say=print,
        )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["evasion=pgd", f"{KEY}.threat_models=[oblivious,bpda_eot]"], r"needs a purifier"),
        (
            ["purifier=tv", "server.proxy_images=0", "server.batchnorm=mean"],
            r"needs images on the server .*server\.proxy_images=0; set",
        ),
        (
            ["purifier=tv", f"{KEY}.threat_models=[oblivious,bpda_eot]"],
            r"needs a purifier and an attack within eps",
        ),
        (
            ["evasion=pgd", "purifier=jpeg", f"{KEY}.threat_models=[oblivious,differentiated]"],
            r"purifier=jpeg has no gradient",
        ),
        ([f"{KEY}.threat_models=[bpda_eot]"], r"must contain oblivious"),
        (
            [f"{KEY}.threat_models=[psychic]"],
            rf"{KEY}\.threat_models=psychic: must be one of",
        ),
        ([f"{KEY}.threat_models=oblivious"], r"must be a list"),
        ([f"{KEY}.eps_255=[]"], rf"{KEY}\.eps_255=\[\]"),
        ([f"{KEY}.eps_255=[4,4]"], r"without repetitions"),
        ([f"{KEY}.eps_255=[0]"], rf"{KEY}\.eps_255=0"),
        ([f"{KEY}.eps_255=[300]"], rf"{KEY}\.eps_255=300"),
        ([f"{KEY}.eot_samples=0"], rf"{KEY}\.eot_samples=0"),
        ([f"{KEY}.adversarial_images=0"], rf"{KEY}\.adversarial_images=0"),
        (
            [f"{KEY}.fusion=true", "evasion=none"],
            rf"{KEY}\.fusion=true: fuses the client models that are attacked",
        ),
        (
            [f"{KEY}.fusion=true", f"{KEY}.adversarial_clients=false"],
            rf"{KEY}\.fusion=true: fuses the client models",
        ),
        (
            [
                f"{KEY}.fusion=true",
                "model.head=linear",
                "client.loss=cross_entropy",
                "strategy=fedavg",
                "evasion=fgsm",
            ],
            rf"{KEY}\.fusion=true: model\.head=linear has no space",
        ),
        ([f"{KEY}.adversarial_clients=2"], rf"{KEY}\.adversarial_clients=2"),
    ],
)
def test_wrong_settings_end_in_one_line(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as error:
        federations.build_experiment(*words)
    assert "\n" not in str(error.value)
