"""Co-teaching: two models learn side by side, each from those images of a batch that the other one
holds for correctly labelled."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import torch
from fedrobust.clients.sgd import task_loss, training_report
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from fedrobust.errors import ConfigError
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.learning.peers import make_peers
from fedrobust.learning.settings import TrainingSettings
from fedrobust.learning.training import Choose, fit_on_chosen
from fedrobust.state import Layout, State, load, read
from fedrobust.types import ClientTrainer, LabelChoice, Task, TrainResult
from fedrobust.utils.validation import Given, PositiveCount, check_settings, flatten_groups

PARAMETERS, BUFFERS = "peer", "peer_buffers"  # of the second model, in a client's memory


@flatten_groups
@check_settings("client")
def co_teaching(
    forget_rate: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    forget_rounds: PositiveCount = 5,
    model: Annotated[ModelFactory | None, Given()] = None,
    *,
    training: TrainingSettings,
) -> ClientTrainer:
    """Two models are trained on each batch, each on the images of smallest loss under the other.

    Both answer a batch; of its B images each chooses the int(R B) (at least one) with the smallest
    cross-entropy under itself, and the other one learns from them. R falls from 1 towards 1 -
    forget_rate: in server round t it is 1 - forget_rate min(t / forget_rounds, 1).

    What the paper leaves open, having no federation: t counts server rounds, not epochs, from 1 on
    (the authors' code keeps everything in the first epoch). The first model is the client's, begins
    at the global model and is sent; the second begins anew and stays at the client with what it has
    learned, so that the two differ. Images are chosen by plain cross-entropy whatever `loss`
    trains, without Rect's weights, which would leave rare classes out first.

    Args:
        forget_rate: tau, the share of a batch that is left out at the end; the paper takes the rate
            of wrong labels.
        forget_rounds: T_k, server rounds until so many are left out.
        model: how the second model is built; filled in by the experiment.
        training: loss, optimizer and length of the training.

    Returns:
        The trainer.

    Raises:
        ConfigError: a setting is out of its range.

    Reference:
        Han et al., NeurIPS 2018, "Co-teaching", algorithm 1 and section 4 (R). The choice of images
        agrees with the authors' code on random scores of 40 images; that code divides the mean loss
        by the number of chosen images once more.
    """
    if model is not None and not hasattr(model, "build"):
        raise ConfigError(
            f"client.model={model}: is that of the experiment; leave it out and set model=..."
        )

    def trainer(task: Task) -> TrainResult:
        if model is None:
            raise ValueError("client=co_teaching was built without the experiment's model")
        layout, second = Layout.of(task.model), _second_model(task, model)
        device = next(task.model.parameters()).device
        kept_N = torch.ones(len(task.data.train), dtype=torch.bool, device=device)
        choose = exchange(kept_share(task.round, forget_rate, forget_rounds), second.scale, kept_N)
        fitted = fit_on_chosen(
            [task.model, second],
            task.data,
            task_loss(task, training),
            training,
            task.generator,
            choose=choose,
            memory=task.memory,
        )
        result, peer = training_report(task, fitted[0], training), read(second, layout)
        return replace(
            result,
            memory={**result.memory, PARAMETERS: peer.parameters, BUFFERS: peer.buffers},
            labels=LabelChoice(~kept_N, task.data.train.labels),
        )

    return trainer


def kept_share(round: int, forget_rate: float, forget_rounds: int) -> float:
    """R in server round 1, 2, ...: the share of a batch that each model chooses."""
    return 1 - forget_rate * min(round / forget_rounds, 1.0)


def exchange(share: float, scale: float, kept_N: Tensor) -> Choose:
    """What two models choose for each other. kept_N: is told of every training image whether the
    first model learned from it when it last saw it; others stay as they were."""

    def choose(scores: Sequence[Tensor], labels: Tensor, index: Tensor) -> Sequence[Tensor]:
        count = max(1, int(share * len(labels) + 1e-9))  # .8 * 10 is 8, .7 * 10 6.999...
        of_first, of_second = (
            functional.cross_entropy(scale * one.float(), labels, reduction="none")
            .argsort(stable=True)[:count]
            .sort()
            .values
            for one in scores
        )
        kept_N[index] = False
        kept_N[index[of_second]] = True
        return [of_second, of_first]

    return choose


def _second_model(task: Task, factory: ModelFactory) -> Classifier:
    """The client's second model: as it left it, or a new one."""
    if PARAMETERS not in task.memory:
        return make_peers(task, factory, 1)[0]
    second: Classifier = copy.deepcopy(task.model)
    state = State(task.memory[PARAMETERS], task.memory[BUFFERS])
    load(second, Layout.of(second), state)
    return second
