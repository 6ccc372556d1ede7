"""The server loop: rounds of training over any Flower Grid, then every client's evaluation on its
own test shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from time import perf_counter

from torch import Tensor

from fedrobust.errors import ConfigError, RunError
from fedrobust.evaluation.counts import REASONS, ClientEvaluation, Withheld
from fedrobust.evaluation.metrics import classification_metrics, success_rate
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.features import ModelInputs
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict
from fedrobust.runtime.checkpoints import Checkpoint
from fedrobust.runtime.server.best_model import BestModel
from fedrobust.runtime.server.checkpointing import CheckpointManager
from fedrobust.runtime.server.extraction import extraction_stages
from fedrobust.runtime.server.rule_strategy import (
    Grid,
    Message,
    RuleStrategy,
    ServerContext,
    UntrainedState,
)
from fedrobust.runtime.server.schedule import is_scheduled
from fedrobust.runtime.server.secure_aggregation import SecureStrategy
from fedrobust.runtime.server.stopping import check_stopping, stop_reason
from fedrobust.state import Layout, State, read, show
from fedrobust.types import SUCCESS, Failure, Observer, RoundRecord, Samples
from fedrobust.utils.counting import format_count
from fedrobust.utils.foreign_text import escape_text
from fedrobust.utils.tensor_files import UNREADABLE


@dataclass(frozen=True)
class TrainingResult:
    """A run that went through all its rounds, or was ended by `stop_when`. seconds_before_resume:
    seconds of those that an earlier process had done. client_models: client by client the model
    that it sent in the last round, for the first who asks; kept only where the experiment wants
    them attacked. best: the model of the best round; None: not wanted, or no round has a value."""

    state: State
    records: tuple[RoundRecord, ...]
    seconds_before_resume: float = 0.0
    client_models: Iterable[tuple[int, State]] = ()
    best: State | None = None

    @property
    def rounds(self) -> int:
        """Number of rounds that were trained."""
        return self.records[-1].number


def build_server_context(experiment: Experiment) -> ServerContext:
    """The untrained model with the one fixed ETF of the run, and the server's own images, on the
    server's device."""
    check_stopping(experiment)
    model = experiment.new_model()
    _try(model, experiment)
    layout, inputs = Layout.of(model), ModelInputs(experiment, model)
    untrained = UntrainedState(experiment, layout, read(model, layout))
    return ServerContext(experiment, model, layout, untrained, inputs)


def _try(model: Classifier, experiment: Experiment) -> None:
    """One image through the model, since some architectures take images of one size only."""
    image = experiment.dataset.images[:1]
    try:
        predict(model, image)
    except (AssertionError, RuntimeError, ValueError) as error:
        name, reason = experiment.model.name, str(error).split("\n")[0][:160]
        size = image.shape[-1]
        raise ConfigError(
            f"model.name={name}: cannot take images of {size} pixels ({reason}); "
            "choose data.size or model.options"
        ) from error


def run_rounds(
    server: ServerContext,
    grid: Grid,
    observer: Observer,
    run: str = "run",
    checkpointing: CheckpointManager | None = None,
) -> TrainingResult:
    """Train for `rounds` server rounds from the untrained model, or from the checkpoint manager's
    last checkpoint of this run. The run itself may end before (`stop_when`); a twin has the rounds
    of its run.

    Raises RunError by the failure policy, OSError where a checkpoint cannot be written.
    """
    experiment, rounds = server.experiment, server.experiment.settings.rounds
    server.inputs.on_extraction = extraction_stages(observer, run)
    server.inputs.prepare()
    validation = server.inputs.validation
    wanted = run == "run" and experiment.attacks_members
    begun = None if checkpointing is None else checkpointing.restore(run, rounds)
    observer.run_started(run, rounds, experiment.num_clients)
    kind = SecureStrategy if experiment.privacy.secure else RuleStrategy
    strategy = kind(server, server.initial)
    if begun is None:
        records = [_record(0, server, strategy, validation, {})]
        observer.round_finished(run, records[0])
    else:
        strategy.state, strategy.memory, records = begun.state, dict(begun.memory), begun.records()
        observer.rounds_restored(run, records)
    best = BestModel(experiment.evaluation.best_metric if run == "run" else None, begun)
    earlier = sum(sum(record.seconds.values()) for record in records[1:])
    while records[-1].number < rounds and not records[-1].stopped:
        number = len(records)
        observer.round_started(run, number)
        try:
            seconds = _train(strategy, grid, number, observer, run)
        except UNREADABLE as error:
            if begun is None or number != begun.round + 1:
                raise
            raise RunError(_first_round_failed(begun, error)) from error
        observer.stage(run, "evaluate")
        records.append(_record(number, server, strategy, validation, seconds))
        if run == "run" and number < rounds:
            records[-1] = replace(records[-1], stopped=stop_reason(experiment, records))
        observer.round_finished(run, records[-1])
        best.consider(records, strategy.state)
        last = number if records[-1].stopped else rounds
        if checkpointing is not None and not (
            wanted and number == last
        ):  # no checkpoint holds the members: that round would be done again
            checkpointing.save(run, strategy, records, last, best.earlier)
    if reason := records[-1].stopped:
        observer.stage(run, f"ends after round {records[-1].number} of {rounds}: {reason}")
    members = strategy.client_models() if wanted else ()
    return TrainingResult(strategy.state, tuple(records), earlier, members, best.state)


def _first_round_failed(begun: Checkpoint, error: Exception) -> str:
    """What a rule remembers is known to that rule alone, so nobody else can check it."""
    reason = escape_text(f"{type(error).__name__}: {error}", 160)
    return (
        f"round {begun.round + 1}, the first after the checkpoint of round {begun.round}: "
        f"{reason}; if it ends so again, take that file out of the folder checkpoints"
    )


def _train(
    strategy: RuleStrategy, grid: Grid, number: int, observer: Observer, run: str
) -> dict[str, float]:
    """One round of training and aggregation; the seconds of both."""
    started = perf_counter()
    finished = [started]
    asked = strategy.request_training(number, grid)

    def after_last() -> None:
        finished[0] = perf_counter()
        observer.stage(run, "aggregate")

    observer.stage(run, "train")
    replies = _notify(asked, strategy, observer, run, "train")
    try:
        strategy.aggregate(number, _call_after(replies, after_last))
    except RunError:
        _report_failures(number, strategy, observer, run)
        raise
    return {"train": finished[0] - started, "aggregate": perf_counter() - finished[0]}


def _report_failures(number: int, strategy: RuleStrategy, observer: Observer, run: str) -> None:
    """A round that ends the run is recorded all the same, with every client's traceback."""
    observer.round_finished(run, RoundRecord(number, {}, failures=strategy.outcome.failures))


def _notify(
    replies: Iterable[Message], strategy: RuleStrategy, observer: Observer, run: str, stage: str
) -> Iterator[Message]:
    for reply in replies:
        observer.client_done(run, stage, strategy.validator.client_of(reply), reply.has_error())
        yield reply
        del reply  # the receiver has read it: its memory is free for the next one


def _call_after(items: Iterable[Message], action: Callable[[], None]) -> Iterator[Message]:
    yield from items
    action()


def _record(
    number: int,
    server: ServerContext,
    strategy: RuleStrategy,
    validation: Samples,
    seconds: Mapping[str, float],
) -> RoundRecord:
    started = perf_counter()
    scores = predict_global(server, strategy.state, validation)
    metrics = classification_metrics(scores, validation.labels)
    outcome = strategy.outcome
    timing = {**seconds, "evaluate": perf_counter() - started}
    spent = (
        server.experiment.privacy.spent(server.experiment.max_replies(number)) if number else None
    )
    extras = outcome.extras if spent is None else {**outcome.extras, "epsilon": spent}
    extras = {**extras, **_success(server, strategy.state)}
    return RoundRecord(number, metrics, outcome.clients, outcome.failures, timing, extras)


def _success(server: ServerContext, state: State) -> dict[str, float]:
    """How often a backdoor succeeds on the test images, where attackers come and go: how long it
    outlives them is to be seen."""
    backdoor = server.experiment.backdoor
    if backdoor is None or not is_scheduled(server.experiment):
        return {}
    victims = server.inputs.triggered(backdoor)
    if not len(victims):
        return {}
    return {SUCCESS: success_rate(predict_global(server, state, victims), backdoor.target)}


def predict_global(
    server: ServerContext,
    state: State,
    samples: Samples,
    purify: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """(N, K) class probabilities of a global state on images, on the server's device. purify: what
    images, not features, go through first. Raises RunError where they are not finite."""
    show(server.model, server.layout, state)
    experiment = server.experiment
    model = (
        server.model
        if purify is None
        else experiment.with_purified_batchnorm(
            server.model, experiment.samples(experiment.proxy).images, "global"
        )
    )
    scores = predict(model, samples.images, experiment.evaluation.batch_size, purify)
    if not scores.isfinite().all():
        name = experiment.strategy.name
        raise RunError(
            f"the global model of strategy={name} answers with values that are not "
            "finite: its parameters have run away"
        )
    return scores


def evaluate_clients(
    server: ServerContext,
    state: State,
    grid: Grid,
    observer: Observer,
    rounds: int | None = None,
    *,
    run: str = "run",
    attacks: bool = True,
) -> dict[int, ClientEvaluation]:
    """Every client's own test shard, clean and under its contamination, evaluated by Flower
    evaluate messages. rounds: how many were trained; None: all of the configuration. attacks:
    whether poisoned clients attacked in the last of them.

    Returns {client: {"clean": (probabilities, labels), "contaminated": ...}}, of real sites rounded
    counts, or `Withheld` of those that report nothing. Raises RunError when more than
    server.max_failures clients fail.
    """
    strategy = RuleStrategy(server, state)
    rounds = server.experiment.settings.rounds if rounds is None else rounds
    observer.stage(run, "evaluate clients")
    scores: dict[int, ClientEvaluation] = {}
    failures: dict[int, Failure] = {}
    for reply in _notify(
        strategy.request_evaluation(rounds, grid, attacks=attacks),
        strategy,
        observer,
        run,
        "evaluate",
    ):
        client, reply_or_failure = (
            strategy.validator.client_of(reply),
            strategy.validator.read_evaluate(reply),
        )
        if isinstance(reply_or_failure, Failure):
            failures[client] = reply_or_failure
        else:
            scores[client] = reply_or_failure
    for client in set(range(server.experiment.num_clients)) - scores.keys() - failures.keys():
        failures[client] = Failure(client, "no reply")
    if len(failures) > server.experiment.settings.server.max_failures:
        listed = tuple(failures[client] for client in sorted(failures))
        observer.round_finished(run, RoundRecord(rounds, {}, failures=listed))
        raise RunError(
            f"evaluation: {format_count(len(listed), 'client')} failed "
            f"(client {listed[0].client}: {listed[0].reason})"
        )
    for client in sorted(failures):
        observer.stage(run, f"client {client} could not be evaluated: {failures[client].reason}")
    for client, evaluated in sorted(scores.items()):
        if isinstance(evaluated, Withheld):
            observer.stage(run, f"client {client} reports no result: {REASONS[evaluated.code]}")
    for note in strategy.validator.notes:
        observer.stage(run, f"client {note.client}: {note.reason}")
    return dict(sorted(scores.items()))
