"""What a run would do, how long it would take and how much memory, without doing it: everything is
built and checked as for a run, and one training step and one evaluation are measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from fedrobust.data import TEST, TRAIN, VALIDATION
from fedrobust.errors import ConfigError
from fedrobust.experiment import build, factories, settings
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.old_names import rename_config
from fedrobust.learning.inference import predict
from fedrobust.reporting.text import format_duration
from fedrobust.runtime.engines.resources import pays_off, useful_workers
from fedrobust.runtime.resume import Resumption
from fedrobust.runtime.server import clean_twin
from fedrobust.runtime.server.loop import build_server_context
from fedrobust.runtime.server.rule_strategy import ServerContext
from fedrobust.runtime.simulation import (
    build_checked,
    checkpoints_in,
    read_resumed,
    tracker_of,
    work_seconds,
)
from fedrobust.types import Samples, Shard, Task
from fedrobust.utils import devices
from fedrobust.utils.counting import format_count
from fedrobust.utils.machine import gpus, peak_memory, total_memory
from fedrobust.utils.threads import cores, default_threads, threads_of_each

FLOAT = 4  # bytes
REPEATS = 3  # of a step that takes less than a second
TIMED = (
    "estimated from one training step and one evaluation, measured on this machine as busy as it "
    "is now; attacks and the rule's arithmetic are not in it"
)


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """On what clients would train: processes side by side, and threads of each."""

    name: str
    workers: int
    threads: int

    @property
    def text(self) -> str:
        """In words."""
        processes = format_count(self.workers, "worker") if self.name == "ray" else "one process"
        return f"{self.name}, {processes}, {format_count(self.threads, 'thread')} each"


@dataclass(frozen=True, slots=True)
class Speed:
    """Measured seconds for one image: in training (all that the trainer does with it in an epoch)
    and in an evaluation."""

    train: float
    evaluate: float


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run would do.

    Attributes:
        server: its objects, built.
        engine: on what clients would train.
        speed: as measured.
        twin: what would become of the clean twin.
        trains_twin: whether it would be trained.
        done: rounds that are finished, of a run that is taken up again.
    """

    server: ServerContext
    engine: EnginePlan
    speed: Speed
    twin: str
    trains_twin: bool
    done: int = 0

    @property
    def seconds(self) -> float:
        """Estimated seconds of all that is not finished."""
        return run_seconds(
            self.server, self.engine, self.speed, twin=self.trains_twin, done=self.done
        )

    @property
    def memory(self) -> int | None:
        """Estimated bytes of all its processes; None where the system does not tell."""
        now = peak_memory()
        if now is None:
            return None
        workers = self.engine.workers if self.engine.name == "ray" else 0
        matrix = matrix_bytes(self.server)
        in_file = matrix > self.server.experiment.settings.server.max_updates_mb << 20
        return now * (1 + workers) + (0 if in_file else matrix)


def plan_run(config: Mapping[str, Any]) -> RunPlan:
    """Build and check everything of a run, and measure a step of it.

    Raises:
        ConfigError: a setting is wrong, two do not go together, or the memory does not suffice.
        DataError: the data cannot be read.
    """
    found = settings.read_settings(config)
    factories.build_group({"engine": found.engine.written}, "engine")
    tracker_of(found)
    server = build_checked(config, found)
    return _plan(server, plan_engine(server))


def plan_resumption(asked: Resumption) -> tuple[RunPlan, list[str]]:
    """The same of a run that would be taken up again; and why newer checkpoints cannot be used.

    Raises as `plan_run`, and ConfigError where data or weights are not those of the run.
    """
    manifest = asked.manifest
    before, written = read_resumed(asked, manifest)
    factories.build_group({"engine": written}, "engine")
    tracker_of(before)
    server = build_checked(manifest["config"], before, asked.folder, manifest)
    checkpoint, problems = checkpoints_in(asked.folder, server).latest("run")
    chosen = settings.read_settings({**rename_config(manifest["config"]), "engine": written})
    engine = plan_engine(server, chosen.engine)
    return _plan(server, engine, 0 if checkpoint is None else checkpoint.round), problems


def _plan(server: ServerContext, engine: EnginePlan, done: int = 0) -> RunPlan:
    twin, trained = _plan_twin(server.experiment, engine)
    plan = RunPlan(server, engine, measure_speed(server, engine.threads), twin, trained, done)
    check_memory(plan.memory)
    return plan


def check_memory(needed: int | None) -> None:
    """Raises ConfigError where this machine has less. needed: bytes; None: not known."""
    total = total_memory()
    if needed is not None and total is not None and needed > total:
        raise ConfigError(
            f"memory: about {format_bytes(needed)} would be needed, this machine has "
            f"{format_bytes(total)}; lower num_clients, engine.workers or data.size, or lower "
            "server.max_updates_mb so that the updates lie in a file"
        )


def plan_engine(server: ServerContext, engine: settings.GroupSettings | None = None) -> EnginePlan:
    """What the engine would open. engine: None: that of the experiment."""
    experiment = server.experiment
    chosen = experiment.settings.engine if engine is None else engine
    workers, threads = chosen.get("workers"), chosen.get("threads")
    number = min(
        workers or useful_workers(cores(), gpus(), experiment.num_clients), experiment.num_clients
    )
    parallel = chosen.factory == "ray_engine" or (
        chosen.factory == "auto_engine" and pays_off(number, work_seconds(server))
    )
    if parallel:
        return EnginePlan("ray", number, threads or threads_of_each(number))
    return EnginePlan("inline", 1, threads or default_threads())


def _plan_twin(experiment: Experiment, engine: EnginePlan) -> tuple[str, bool]:
    """What would become of the clean twin, and whether it would be trained."""
    if not experiment.evaluation.twin:
        return "none (evaluation.twin=false)", False
    if not experiment.contaminated:
        return "this run itself", False
    clean = build.remember(experiment.clean_twin())
    device = devices.resolve(experiment.settings.device).type
    threads = torch.get_num_threads(), engine.threads
    frozen = build_server_context(clean).frozen_sha256
    name = clean_twin.twin_key(clean.config, clean.dataset.digest, device, threads, frozen)
    if (clean_twin.cache_folder() / f"{name}.safetensors").exists():
        return "taken from the cache", False
    return "trained as well", True


def measure_speed(server: ServerContext, threads: int) -> Speed:
    """Measure one training step of a client and the evaluation of as many images, with so many
    threads of torch. The server's scratch model is trained by it."""
    experiment = server.experiment
    samples = _one_batch(server)
    written = dict(experiment.settings.client.written)
    written |= {key: value for key, value in (("epochs", 1), ("steps", None)) if key in written}
    trainer = factories.build_group({"client": written}, "client", model=experiment.model)
    shard = Shard(samples, samples, samples)
    size = experiment.evaluation.batch_size

    def step() -> None:
        task = Task(server.model, shard, 1, {}, {}, experiment.generator("dry run"))
        trainer(task)

    with _threads(threads):
        return Speed(
            _seconds(step) / len(samples),
            _seconds(lambda: predict(server.model, samples.images, size)) / len(samples),
        )


def _one_batch(server: ServerContext) -> Samples:
    """A batch of training images of the client that has most, without contamination; with cached
    features zeros, which cost as much."""
    experiment = server.experiment
    sizes = [len(experiment.rows(client, TRAIN)) for client in range(experiment.num_clients)]
    client = max(range(len(sizes)), key=sizes.__getitem__)
    rows = experiment.rows(client, TRAIN)[: int(experiment.settings.client.get("batch_size", 32))]
    if not experiment.model.learns_from_features:
        return experiment.samples(rows)
    example = server.inputs.example()
    return Samples(example.repeat(len(rows), 1), experiment.dataset.labels[rows])


def _seconds(action: Callable[[], object]) -> float:
    """Seconds of one call after a first one, the median of some where they are short."""
    action()
    found: list[float] = []
    while not found or (len(found) < REPEATS and sum(found) < 1):
        started = perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(perf_counter() - started)
    return statistics.median(found)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_seconds(
    server: ServerContext, engine: EnginePlan, speed: Speed, *, twin: bool = False, done: int = 0
) -> float:
    """Estimated seconds of a run after `done` rounds, with its clean twin where that is trained:
    measured seconds of an image times images. The rule's work on the certificate's groups is left
    out."""
    experiment = server.experiment
    asked, runs = experiment.settings, 2 if twin else 1
    rounds = runs * asked.rounds - done
    sizes = _sizes(experiment)
    client, clients = asked.client, asked.num_participants
    images = sizes[TRAIN] / experiment.num_clients * float(client.get("epochs", 1))
    if client.get("steps") is not None:
        images = float(client.get("steps")) * float(client.get("batch_size", 32))
    groups, members = _certificate_groups(experiment)
    trained = (rounds * clients + asked.rounds * members) * images
    validated = (rounds + runs) * len(experiment.validation_rows())
    # clean and corrupted, each grade, the twin's two; each client's own, clean and contaminated
    conditions = 2 + len(experiment.severities) + 2 * bool(experiment.evaluation.twin)
    tested = (conditions + groups) * len(experiment.test_rows())
    own = 2 * sizes[TEST]
    parallel = min(engine.workers, experiment.num_clients)
    rule_trained, rule_evaluated = (rounds * one for one in _rule_images(experiment))
    at_clients = (speed.train * trained + speed.evaluate * own) / parallel
    at_server = speed.train * rule_trained + speed.evaluate * (rule_evaluated + validated + tested)
    return at_clients + at_server


def _certificate_groups(experiment: Experiment) -> tuple[int, int]:
    """Groups that train a global model each for the certificate, and members of all of them
    together, as if no two drawn groups were equal."""
    asked = experiment.settings.certificate
    if asked.groups is None:
        return 0, 0
    size = asked.group_size
    return asked.groups, experiment.num_clients if size is None else asked.groups * size


def _rule_images(experiment: Experiment) -> tuple[float, float]:
    """Images on which a rule trains and which it evaluates in a round: a rule that distils trains
    one student, or one a client with distillation=mutual, for its epochs on the proxy images; all
    clients' models answer the server's images that the rule uses."""
    strategy, clients = experiment.settings.strategy, experiment.settings.num_participants
    sizes = {"root": len(experiment.root), "proxy": len(experiment.proxy)}
    used = sum(sizes[name] for name in experiment.strategy.uses)
    distils = "proxy" in experiment.strategy.uses and strategy.get("distillation") != "none"
    students = clients if strategy.get("distillation") == "mutual" else 1
    trained = sizes["proxy"] * float(strategy.get("epochs", 0)) * students if distils else 0.0
    return trained, float(clients * used)


def _sizes(experiment: Experiment) -> dict[int, int]:
    """Images of all clients together by split."""
    splits = [experiment.dataset.splits[part] for part in experiment.parts]
    return {
        split: sum(int((one == split).sum()) for one in splits)
        for split in (TRAIN, VALIDATION, TEST)
    }


def matrix_bytes(server: ServerContext) -> int:
    """Bytes of a round's matrix of updates."""
    participants = server.experiment.settings.num_participants
    return FLOAT * participants * server.layout.num_parameters


def message_bytes(server: ServerContext) -> int:
    """Bytes of the model in a message, either way."""
    return FLOAT * (server.layout.num_parameters + server.layout.num_buffers)


def plan_lines(plan: RunPlan) -> list[str]:
    """The plan in lines `what: how`."""
    lines = [*run_lines(plan), f"clean twin: {plan.twin}", f"engine: {plan.engine.text}"]
    memory = (
        "not known on this system"
        if plan.memory is None
        else (f"about {format_bytes(plan.memory)}, estimated from this process after that step")
    )
    return [*lines, f"time: about {format_duration(plan.seconds)}, {TIMED}", f"memory: {memory}"]


def run_lines(plan: RunPlan) -> list[str]:
    """What is trained, on what, by whom."""
    server = plan.server
    experiment = server.experiment
    asked, dataset, sizes = experiment.settings, experiment.dataset, _sizes(experiment)
    size = message_bytes(server)
    rounds, clients = asked.rounds, asked.num_participants
    counts = [len(experiment.rows(client, TRAIN)) for client in range(experiment.num_clients)]
    return [
        f"data: {dataset.name}, {format_count(experiment.num_classes, 'class', 'classes')}, "
        f"{dataset.images.shape[-1]} pixels; {sizes[TRAIN]} training, {sizes[VALIDATION]} "
        f"validation and {sizes[TEST]} test images at the hospitals, {len(experiment.root)} root "
        f"and {len(experiment.proxy)} proxy images on the server",
        f"hospitals: {experiment.num_clients}, of {min(counts)} to {max(counts)} training images",
        f"poisoned: {_clients(experiment, 'poisoned', 'contamination')}",
        f"noisy: {_clients(experiment, 'noisy', 'noise')}",
        f"rule: {experiment.strategy.name}, client {asked.client.factory}",
        f"rounds: {rounds}, of {format_count(clients, 'hospital')} each",
        f"model: {experiment.model.name}, {server.layout.num_parameters:,} trained parameters",
        f"messages: {format_bytes(size)} each way, {format_bytes(size * rounds * clients)} in all "
        "rounds each way",
        f"updates of a round: {format_bytes(matrix_bytes(server))}",
    ]


def _clients(experiment: Experiment, kind: str, group: str) -> str:
    """Who they are and what they do."""
    clients: Sequence[int] = experiment.clients_of_kind(kind)
    if not clients:
        return "none"
    damage = experiment.contaminations[kind].name
    return f"{', '.join(map(str, clients))} ({group}={damage})"


def format_bytes(number: float) -> str:
    """A size for people: "94.3 MB", in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
