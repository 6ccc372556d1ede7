"""Malformed and hostile configurations: 10,000 through the whole way that a real node
goes with one.

Half of them are damaged so that they must always be refused; the rest are changed
anyhow, and what is accepted then must pass this file's own measure. The only answer that is allowed
besides acceptance is a ConfigError of one printable, bounded line. Each example is a seed from
which a batch is drawn, so that a failure names the seed and the number that repeat it.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from fedrobust.errors import ConfigError
from fedrobust.experiment import build as experiment
from fedrobust.experiment import factories as experiment_factories
from fedrobust.experiment.experiment import Experiment
from fedrobust.experiment.local_settings import SERVERS_OWN, without_local_settings
from fedrobust.federation.demo import write_npz
from fedrobust.runtime.client import handlers
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.sites import RECORD, SiteAssignment, assignment_record
from tests.helpers import federations

BATCH = 100
PROFILE = settings(
    derandomize=True,
    database=None,
    max_examples=50,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SEEDS = st.integers(0, 2**32 - 1)
LINE = 2100  # characters of what a node says about a configuration
ROOT = Path(__file__).parents[2]
GOOD = (
    (
        "strategy=etf_dml",
        "contamination=mixture",
        "server.proxy_images=32",
        "server.root_per_class=1",
    ),
    (
        "strategy=krum",
        "num_clients=12",
        "contamination=alie",
        "privacy=local_dp",
        "server.batchnorm=recalibrate",
        "sanitiser=none",
    ),
    (
        "strategy=fltrust",
        "num_clients=7",
        "contamination=backdoor_patch",
        "preaggregation=nnm",
        "evasion=pgd",
        "purifier=mdda",
    ),
)
# a node takes its own instead of two, and has no use for the third
NOT_READ = ("data", "partition", "engine")
# what a message of an older server lacks
MAY_LACK = ("data", "engine", "plugins", "max_share", "participants")

JUNK = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    "",
    "x" * 200,
    "0",
    "1e9",
    "../../etc/passwd",
    "nan",
    "ü",
    "none",
    "auto",
]
JUNK += [
    -1,
    0,
    1,
    2,
    7,
    2**16,
    2**31,
    2**40,
    2**63 - 1,
    2**63,
    2**64,
    1e308,
    -1e308,
    1e-300,
    0.5,
    -0.5,
]
JUNK += [[1, 2], ["a"], [0.5], [None], [1] * 1000, {"_target_": "os.system"}]
FOREIGN = [
    "os.system",
    "builtins.eval",
    "torch.load",
    "fedrobust.runtime.client.handlers.train",
    "fedrobust.clients.sgd.train_local",
    "fedrobust.runtime.engines.client_runner.load_client_app",
]
FOREIGN += [
    "fedrobust.strategies.fedavg.torch.load",
    "fedrobust.data.cache.folder",
    "fedrobust.strategies.app.main",
    "fedrobust.runtime.server.loop.build_server_context",
]
FOREIGN += [
    "fedrobust.learning.classifier.Classifier",
    "subprocess.Popen",
    "",
    ".",
    "strategies.",
    "strategies..krum",
    3,
    None,
    [],
    {},
    True,
]
UNPRINTABLE = ["\x00", "a\nb", "\x1b[2J", "\ud800", "\u202e", "\ufeff", "\u2028"]
NUMBERS = ("num_clients", "rounds", "seed")


def every_path(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All paths in a configuration, groups and lists included; but not torch's compiler,
    which takes 5 s to load."""
    if path and path[-1] != "compile":
        yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from every_path(inner, (*path, key))


def put(settings_: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        settings_ = settings_[key]
    # a copy: what is put in may be changed next
    settings_[path[-1]] = json.loads(json.dumps(value))


def get(settings_: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        settings_ = settings_[key]
    return settings_


def factories(settings_: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The groups that a node builds."""
    return [
        path
        for path in every_path(settings_)
        if path[0] not in NOT_READ
        and isinstance(get(settings_, path), dict)
        and "_target_" in get(settings_, path)
    ]


# --- damage after which nothing may be accepted; each takes a fresh copy of a good configuration
# and gives the text to send ---


def a_word(r: random.Random, good: dict[str, Any], words: list[str]) -> str:
    """A word of JSON that Python's own writer would not write, in the place of any value."""
    put(good, r.choice(list(every_path(good))), "HERE")
    return json.dumps(good).replace('"HERE"', r.choice(words))


def foreign_target(r: random.Random, good: dict[str, Any]) -> str:
    put(good, (*r.choice(factories(good)), "_target_"), r.choice(FOREIGN))
    return json.dumps(good)


def unknown_key(r: random.Random, good: dict[str, Any]) -> str:
    holder = get(good, r.choice([(), ("server",), *factories(good)]))
    holder[
        r.choice(
            ["colour", "_args_", "_partial_", "_recursive_", "__class__", "Seed", "", "x" * 5000]
        )
    ] = r.choice([*JUNK, *FOREIGN])
    return json.dumps(good)


def missing_key(r: random.Random, good: dict[str, Any]) -> str:
    holder, keys = good, list(good)
    if r.random() < 0.5:
        holder = get(good, r.choice([("server",), *factories(good)]))
        keys = ["_target_"] if "_target_" in holder else list(holder)
    holder.pop(r.choice([key for key in keys if key not in MAY_LACK]))
    return json.dumps(good)


def no_number(r: random.Random, good: dict[str, Any]) -> str:
    low = {"seed": -1}
    wrong = [one for one in JUNK if type(one) is not int]
    for key in r.sample(NUMBERS, r.randint(1, 3)):
        good[key] = r.choice([*wrong, low.get(key, 0), -7, 2**64])
    return json.dumps(good)


def too_many(r: random.Random, good: dict[str, Any]) -> str:
    good["num_clients"] = r.choice([10**6 + 1, 2**31, 2**48, 2**63 - 1])
    return json.dumps(good)


def the_server_s_own(r: random.Random, good: dict[str, Any]) -> str:
    """A tracker or an end of the run: no site is sent one."""
    name = r.choice(list(SERVERS_OWN))
    good[name] = r.choice(
        [
            {"_target_": r.choice(FOREIGN)},
            {"_target_": "fedrobust.reporting.trackers.mlflow.mlflow"},
            {**SERVERS_OWN[name], r.choice(["seconds", "patience", "colour"]): 3600},
            *JUNK,
        ]
    )
    return json.dumps(good)


def plugins_named(r: random.Random, good: dict[str, Any]) -> str:
    """Packages that the sender wants to be imported, existing ones and others, with a factory of
    one where that is needed: a node takes its own."""
    name = r.choice(
        ["mylab", "os", "json", "tests", "fedrobust", "torch.hub", "", "..", "é", *JUNK]
    )
    wrong = [["os"], name or "x", [name], [name, name], {name: 1} if isinstance(name, str) else 1]
    good["plugins"] = r.choice([one for one in wrong if one not in ([], None)])
    if r.random() < 0.5:
        put(good, (*r.choice(factories(good)), "_target_"), "mylab.rules.mylab_rule")
    return json.dumps(good)


def an_order_to_poison(r: random.Random, good: dict[str, Any]) -> str:
    good[r.choice(["poisoned", "noisy"])] = r.choice([1, 2, [0], [2, 1], 0.5, "1", True, {"0": 1}])
    return json.dumps(good)


def another_s_data(r: random.Random, good: dict[str, Any]) -> str:
    good["partition"] = r.choice(
        [
            {"_target_": f"fedrobust.data.partition.{r.choice(['iid', 'dirichlet', 'by_site'])}"},
            *JUNK,
        ]
    )
    return json.dumps(good)


def a_monster(r: random.Random, good: dict[str, Any]) -> str:
    """A model that would not fit into any memory, or has timm read or fetch files."""
    huge = [2**17, 2**31, 2**40, 2**62, -(2**31)]
    options = [
        {"layers": [r.choice(huge)] * 4},
        {"channels": [r.choice(huge), 8, 8, 8]},
        {"channels": [2**14] * 4},
    ]
    options += [{"cardinality": r.choice(huge)}, {"x": [[{"y": r.choice(huge)}]]}]
    options += [
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"pretrained_cfg": {"url": "http://x"}},
        {"cache_dir": "/"},
    ]
    options += [
        {"features_only": True},
        {"device": "meta"},
        {"channels": [0, 4, 8, 8]},
        {"num_classes": 3},
    ]
    good["model"]["options"] |= r.choice(options)
    return json.dumps(good)


def cut(r: random.Random, good: dict[str, Any]) -> str:
    text = json.dumps(good)
    return r.choice(
        [
            text[: r.randrange(len(text))],
            text[r.randint(1, len(text)) :],
            text + r.choice(["}", "{}", "\x00", ",", "[]"]),
        ]
    )


def no_object(r: random.Random, good: dict[str, Any]) -> str:
    return r.choice(
        [
            "",
            "null",
            "3",
            "true",
            '"x"',
            "[]",
            json.dumps([good]),
            "[" * 100_000,
            "{" * 100_000,
            '{"a":' * 50_000,
            "\x80",
            "'{}'",
        ]
    )


MUST_FAIL: dict[str, Callable[[random.Random, dict[str, Any]], str]] = {
    "not finite": lambda r, good: a_word(
        r, good, ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "[NaN]"]
    ),
    "digits": lambda r, good: a_word(
        r, good, ["9" * 21, "-" + "9" * 5000, "9" * 100_000, "1" + "0" * 30]
    ),
    "not printable": lambda r, good: a_word(
        r, good, [json.dumps(f"x{one}") for one in UNPRINTABLE]
    ),
    "deep": lambda r, good: a_word(
        r,
        good,
        ["[" * deep + "]" * deep for deep in (33, 500, 3000)] + ['{"a":' * 40 + "0" + "}" * 40],
    ),
    "too long": lambda r, good: a_word(
        r, good, [json.dumps("x" * 2**20), "[" + "0," * 2**19 + "0]", " " * 2**20 + "0"]
    ),
    "twice": lambda r, good: json.dumps(good)[:-1] + f', "{r.choice(list(good))}": 0}}',
    "foreign target": foreign_target,
    "unknown key": unknown_key,
    "missing key": missing_key,
    "no number": no_number,
    "too many clients": too_many,
    "the server's own": the_server_s_own,
    "plugins": plugins_named,
    "poison": an_order_to_poison,
    "another's data": another_s_data,
    "monster": a_monster,
    "cut": cut,
    "no object": no_object,
}


# --- changes that may leave something valid ---


def changed(r: random.Random, good: dict[str, Any]) -> str:
    out = json.loads(json.dumps(good))
    for _ in range(r.randint(1, 3)):
        path = r.choice(list(every_path(out)))
        if r.random() < 0.1 and isinstance(path[-1], str):
            del get(out, path[:-1])[path[-1]]
        elif r.random() < 0.1:
            put(
                out, path, json.loads(json.dumps(get(out, r.choice(list(every_path(out))))))
            )  # what is right elsewhere; its own parent makes it deeper
        else:
            put(out, path, r.choice(JUNK))
    return json.dumps(out)


def changed_bytes(r: random.Random, good: dict[str, Any]) -> str:
    text = bytearray(json.dumps(good).encode())
    for _ in range(r.randint(1, 3)):
        place = r.randrange(len(text))
        text[place : place + r.choice([0, 1, 1, 3])] = r.choice(
            [b"", b"0", b"-", b'"', b"9", bytes([r.randrange(256)])]
        )
    return text.decode("utf-8", "replace")


def targets(value: Any) -> Iterator[Any]:
    """All that a configuration would call, and nothing that is only a value: what a node ignores is
    left out."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value["_target_"]
        for inner in value.values():
            yield from targets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from targets(inner)


OURS = {
    word
    for path in (ROOT / "configs").rglob("*.yaml")
    for word in re.findall(r"_target_: (\S+)", path.read_text(encoding="utf-8"))
}


def valid(study: Experiment, sent: str) -> bool:
    """By a measure of its own: may a node have accepted this as client 1?"""
    found, known = json.loads(sent), study.config
    whole = all(type(known[key]) is int and known[key] == found[key] for key in NUMBERS)
    clean = not known["poisoned"] and not known["noisy"] and set(study.roles) == {"clean"}
    own = all((len(part) > 0) == (client == 1) for client, part in enumerate(study.parts))
    read = {group: value for group, value in found.items() if group not in NOT_READ}
    options = found["model"].get("options")
    sizes = all(
        abs(one) <= 2**14
        for path in every_path(options)
        for one in [get(options, path)]
        if type(one) is int
    )
    return (
        whole
        and clean
        and own
        and sizes
        and set(targets(read)) <= OURS
        and len(study.parts) == known["num_clients"] < 2**20
    )


# --- the way of a configuration on a node ---


@dataclass(frozen=True, repr=False)
class Place:
    """A node's own configuration, its classes, and configurations that it takes."""

    node: dict[str, Any]
    classes: tuple[str, ...]
    good: list[dict[str, Any]]

    def read(self, text: str) -> Experiment:
        """A node's checks of a message with this configuration, before anything else."""
        order = assignment_record(SiteAssignment(client=1, size=16, classes=self.classes))
        instruction = ConfigRecord({"experiment": text, "round": 0, "etf": b"", "etf-sha256": ""})
        message = Message(RecordDict({"config": instruction, RECORD: order}), 1, "query")
        return handlers.read_experiment(
            records.read_config(message.content)["experiment"],
            message,
            Context(1, 7, self.node, RecordDict(), {}),
        )[0]

    def copy(self, r: random.Random) -> dict[str, Any]:
        fresh: dict[str, Any] = json.loads(json.dumps(r.choice(self.good)))
        return fresh


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    records.set_identity()
    study = federations.build_experiment("poisoned=0", *federations.MEAN)
    mask = torch.zeros(len(study.dataset), dtype=torch.bool)
    mask[study.parts[1]] = True
    path = tmp_path_factory.mktemp("node") / "own.npz"
    write_npz(path, study.dataset, mask)
    good = [
        without_local_settings(
            federations.compose_settings("partition=remote", "poisoned=0", "noisy=0", *words)
        )
        for words in GOOD
    ]
    return Place(
        {
            "data-root": str(path),
            "data-format": "npz",
            "data-classes": ",".join(study.dataset.class_names),
            "site": "vienna",
        },
        study.dataset.class_names,
        good,
    )


@pytest.fixture(autouse=True)
def _built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group is not built again for the settings for which it was built before: else this file
    would take minutes."""
    built: dict[str, Any] = {}

    class Remembering:
        def __getattr__(self, name: str) -> Any:
            return getattr(experiment_factories, name)

        def build_group(self, settings_: Any, group: str, **given: Any) -> Any:
            key = json.dumps(
                [
                    group,
                    settings_.get(group),
                    settings_.get("model") if group == "client" else "",
                    sorted(given),
                ]
            )
            if key not in built:
                built[key] = experiment_factories.build_group(settings_, group, **given)
            return built[key]

    monkeypatch.setattr(experiment, "factories", Remembering())


def refused(place: Place, text: str) -> str:
    """The one line with which a node refuses; empty where it accepts. Raises AssertionError for a
    line that must not be printed."""
    try:
        place.read(text)
    except ConfigError as error:
        line = str(error)
        assert line, "an empty line"
        assert line.isprintable(), f"{line!r:.300}"
        assert len(line) <= LINE, f"{len(line)} characters: {line:.100}"
        return line
    return ""


def test_what_is_not_changed_is_accepted(place: Place) -> None:
    """The control: nothing below is refused for another reason than its damage."""
    for good in place.good:
        text = json.dumps(good)
        assert valid(place.read(text), text)


@pytest.mark.slow
def test_damage_is_refused_whatever_else_is_sent(place: Place) -> None:
    tried: Counter[str] = Counter()

    @PROFILE
    @given(SEEDS)
    def run(seed: int) -> None:
        r = random.Random(seed)
        for number in range(BATCH):
            name = r.choice(list(MUST_FAIL))
            text = MUST_FAIL[name](r, place.copy(r))
            note(f"seed {seed}, number {number}: {name}")
            assert refused(place, text), f"accepted: {name}: {text:.3000}"
            tried[name] += 1

    run()
    assert tried.total() >= 5_000
    assert set(tried) == set(MUST_FAIL)


@pytest.mark.slow
def test_changed_anyhow(place: Place) -> None:
    """A share of the changes must leave a configuration valid, or nothing deep is ever reached."""
    tried: Counter[str] = Counter()
    accepted: Counter[str] = Counter()

    @PROFILE
    @given(SEEDS)
    def run(seed: int) -> None:
        r = random.Random(seed)
        for number in range(BATCH):
            kind = r.choice([changed, changed, changed_bytes])
            text = kind(r, place.copy(r))
            note(f"seed {seed}, number {number}")
            tried[kind.__name__] += 1
            if not refused(place, text):
                accepted[kind.__name__] += 1
                assert valid(place.read(text), text), f"accepted: {text:.3000}"

    run()
    assert tried.total() >= 5_000
    assert accepted["changed"] > 100, accepted
    assert accepted["changed_bytes"] > 20, accepted


# --- memory ---


def highest_mb(action: Callable[[], object]) -> float:
    """By how much an action raises the memory that the process holds, at its highest."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _peak_kb()
    action()
    return (_peak_kb() - before) / 1024


def _peak_kb() -> int:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize("name", sorted(MUST_FAIL))
def test_refusing_takes_no_memory(place: Place, name: str) -> None:
    r = random.Random(name)
    texts = [MUST_FAIL[name](r, place.copy(r)) for _ in range(12)]
    refused(place, texts[0])  # what is loaded once
    assert highest_mb(lambda: [refused(place, text) for text in texts]) < 128


@pytest.mark.slow
def test_layers_without_end_are_left_off(place: Place) -> None:
    good = place.copy(random.Random(0))
    good["model"]["options"]["layers"] = [2**14] * 4
    started = time.process_time()
    assert highest_mb(lambda: refused(place, json.dumps(good))) < 256
    assert "more than 10000 modules" in refused(place, json.dumps(good))
    assert time.process_time() - started < 30
