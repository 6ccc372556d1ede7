"""The one piece of work that every contestant of `benchmarks.engines` does: its sizes, its images,
its model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedrobust.utils.threads import WAITING

if TYPE_CHECKING:  # the process that measures stays without torch
    from torch import Tensor

    from fedrobust.learning.classifier import Classifier
    from fedrobust.types import Samples


@dataclass(frozen=True, slots=True)
class Work:
    """Federated training in numbers. images, validation: of each client. folder: where its npz file
    lies. threads: of torch in a process that trains; workers: processes of the engines that have
    them, whose server has as many threads as all of them."""

    name: str
    model: str
    images: int
    folder: str
    clients: int = 10
    rounds: int = 3
    validation: int = 10
    batch: int = 32
    rate: float = 0.01
    size: int = 32
    classes: int = 10
    threads: int = 1
    workers: int = 2
    device: str = "cpu"

    @property
    def server_threads(self) -> int:
        """Threads of torch in the server of an engine with workers: it computes while they wait,
        on their cores, as fedrobust's does unless OMP_NUM_THREADS says otherwise."""
        return self.threads * self.workers

    @property
    def tolerated(self) -> int:
        """Number of attackers given to Multi-Krum."""
        return min(3, (self.clients - 3) // 2)

    @property
    def archive(self) -> Path:
        return Path(self.folder) / f"{self.name}.npz"

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Work:
        return cls(**json.loads(text))

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the measured process; on a CPU it sees no GPU."""
        return environment(self.threads, self.folder, self.device)

    @property
    def done(self) -> dict[str, int]:
        """Counts of a contestant that did all of it: images trained on and evaluated."""
        return {
            "trained": self.clients * self.rounds * self.images,
            "judged": self.clients * self.validation * (self.rounds + 1),
        }


def environment(threads: int, cache: str, device: str = "cpu") -> dict[str, str]:
    """A fixed number of threads that wait for each other as fedrobust's do, fedrobust's cache in a
    folder of the benchmark, no usage statistics, no GPU on a CPU."""
    return {
        **WAITING,
        **dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
        ),
        "FEDROBUST_CACHE": cache,
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }


# model, images of each client
WORKLOADS = {"resnet18": ("resnet18", 64), "resnet50": ("resnet50", 32)}


def write_images(work: Work) -> None:
    """The archive of a piece of work; the clients' training images lie one after the other."""
    parts = {
        "train": work.clients * work.images,
        "val": work.clients * work.validation,
        "test": work.clients,
    }
    write_archive(work.archive, parts, work.size, work.classes)


def write_archive(path: Path, counts: Mapping[str, int], size: int, classes: int) -> None:
    """Random bytes with labels in equal numbers, as configs/data/npz wants them. counts: images of
    train, val and test."""
    random = np.random.default_rng(0)
    parts: dict[str, Any] = {}
    for split, total in counts.items():
        parts[f"{split}_images"] = random.integers(0, 256, (total, size, size, 3), dtype=np.uint8)
        parts[f"{split}_labels"] = np.arange(total) % classes
    np.savez(path, **parts)


def shards(work: Work) -> tuple[list[Samples], Samples]:
    """Each client's training images, and all validation images together, on the device; uint8, as
    fedrobust holds them."""
    import torch

    from fedrobust.types import Samples

    with np.load(work.archive) as archive:
        loaded = [
            Samples(
                torch.from_numpy(archive[f"{split}_images"])
                .permute(0, 3, 1, 2)
                .contiguous()
                .to(work.device),
                torch.from_numpy(archive[f"{split}_labels"]).to(work.device),
            )
            for split in ("train", "val")
        ]
    train, validation = loaded
    return [
        train.take(index)
        for index in torch.split(torch.arange(len(train), device=work.device), work.images)
    ], validation


def overrides(work: Work) -> list[str]:
    """The configuration of fedrobust that does the work, without engine and strategy."""
    return [
        "data=npz",
        f"data.path={work.archive}",
        f"data.size={work.size}",
        "partition=iid",
        f"model={work.model}",
        "model.head=linear",
        f"num_clients={work.clients}",
        f"rounds={work.rounds}",
        f"device={work.device}",
        f"model.options.output_stride={32 if work.size >= 128 or work.model == 'small' else 16}",
        "client.loss=cross_entropy",
        f"client.batch_size={work.batch}",
        "client.epochs=1",
        "client.augment=false",
        "client.optimizer.name=SGD",
        f"client.optimizer.lr={work.rate}",
        "client.optimizer.weight_decay=0",
        "server.root_per_class=0",
        "server.proxy_images=0",
        "server.batchnorm=mean",
        "evaluation.twin=false",
        "evaluation.bootstrap_samples=0",
    ]


def compose(work: Work, *more: str) -> dict[str, Any]:
    """The resolved configuration, with engine and strategy among `more`."""
    from fedrobust.experiment import compose as config

    return config.compose(*overrides(work), *more)


def new_model(work: Work) -> Classifier:
    """The untrained model, the same in every contestant: architecture, values, memory layout,
    normalisation of the images."""
    from fedrobust.experiment import factories
    from fedrobust.utils.seeding import generator

    settings = compose(work)
    made: Classifier = factories.build_group(settings, "model").build(
        work.classes, None, generator(settings["seed"], "init")
    )
    return made.to(work.device)


def floats(model: Classifier) -> list[Tensor]:
    """All that federated averaging averages: parameters and BatchNorm statistics."""
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def probe(model: Classifier) -> Tensor:
    """A copy of the last layer's weights. How far they have moved at the end, contestants that did
    the same work agree about."""
    weight: Tensor = model.last.weight
    return weight.detach().clone()
