"""pfl-research's federated averaging in one process. It does not average BatchNorm statistics: they
stay the last client's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import AbstractDataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common.work import Work, new_model, probe, shards
from fedrobust.types import Samples


class Measured(nn.Module):
    """The model as pfl wants it: with a loss and metrics of its own."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.inner = new_model(work)
        self.trained = self.judged = 0
        self.accuracy = 0.0

    def loss(self, images: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
        self.train(not eval)
        self.trained += len(labels)
        return functional.cross_entropy(self.inner(images / 255.0), labels)

    @torch.no_grad()
    def metrics(self, images: Tensor, labels: Tensor, eval: bool = True) -> dict[str, Any]:
        self.train(not eval)
        right = int((self.inner(images / 255.0).argmax(1) == labels).sum())
        self.judged += len(labels)
        self.accuracy = right / len(labels)
        return {"accuracy": Weighted(right, len(labels))}


class Judge(TrainingProcessCallback[Any]):  # type: ignore[misc]  # pfl need not be installed
    """Evaluates the model before the first round and after every one; pfl's own callback leaves the
    first one out."""

    def __init__(
        self, validation: AbstractDataset, batch: int, mark: Callable[[int], None]
    ) -> None:
        self._validation, self._mark = validation, mark
        self._settings = NNEvalHyperParams(local_batch_size=batch)

    def on_train_begin(self, *, model: Any) -> Metrics:
        self._judge(model, 0)
        return Metrics()  # pfl merges these with the first round's, and refuses equal names

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        return False, self._judge(model, central_iteration + 1)

    def _judge(self, model: Any, number: int) -> Metrics:
        metrics: Metrics = model.evaluate(self._validation, eval_params=self._settings)
        self._mark(number)
        return metrics


class Averaging(FederatedAveraging):  # type: ignore[misc]
    """Federated averaging without pfl's evaluation of clients before and after their training in
    the first round, which no other contestant does."""

    def get_next_central_contexts(self, *arguments: Any, **keywords: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*arguments, **keywords)
        if contexts is not None:
            contexts = tuple(
                dataclasses.replace(context, do_evaluation=False) for context in contexts
            )
        return contexts, model, metrics


def run(work: Work, rule: str, mark: Callable[[int], None]) -> dict[str, float]:
    """As `plain_loop.run`."""
    parts, validation = shards(work)
    measured = Measured(work)
    start = probe(measured.inner)
    model = PyTorchModel(measured, torch.optim.SGD, torch.optim.SGD(measured.parameters(), lr=1.0))
    users = {str(number): _dataset(part, str(number)) for number, part in enumerate(parts)}
    sampler = get_user_sampler("minimize_reuse", list(users))
    federation = FederatedDataset(users.__getitem__, sampler)
    Averaging().run(
        NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=work.rounds + 1,
            train_cohort_size=work.clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(training_data=federation, val_data=federation),
        model,
        NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=work.rate, local_batch_size=work.batch
        ),
        callbacks=[Judge(_dataset(validation, None), len(validation), mark)],
    )
    moved = float((probe(measured.inner) - start).norm())
    return {
        "trained": measured.trained,
        "judged": measured.judged,
        "moved": moved,
        "accuracy": measured.accuracy,
    }


def _dataset(samples: Samples, user: str | None) -> PyTorchTensorDataset:
    """Fixed batches, which pfl keeps from round to round."""
    return PyTorchTensorDataset(
        (samples.images, samples.labels), user_id=user, eval_kwargs={"eval": True}
    )
