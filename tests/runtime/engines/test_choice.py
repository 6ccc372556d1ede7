"""Choice of the engine and its workers, and refusals before anything starts."""

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import ray
import torch
import yaml
from ray._private import services

from fedrobust.errors import ConfigError
from fedrobust.runtime import engines
from fedrobust.runtime.engines import auto_engine, inline_engine, ray_cluster, ray_engine
from fedrobust.runtime.engines.ray_cluster import Cluster, Workers, connect
from fedrobust.runtime.engines.resources import gpu_share, pays_off, useful_workers
from fedrobust.utils import threads

CONFIGS = sorted((Path(__file__).parents[3] / "configs" / "engine").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds_with_its_defaults(path):
    settings = yaml.safe_load(path.read_text())
    module, _, factory = settings.pop("_target_").rpartition(".")
    assert getattr(importlib.import_module(module), factory)(**settings).name == path.stem


@pytest.mark.parametrize(
    ("workers", "work_seconds", "expected"),
    [
        (1, 1e9, False),  # nothing to share
        (2, 30, False),  # saves at most 30 x 1/2 = 15 s: what starting costs
        (2, 31, True),
        (4, 20, False),  # 20 x 3/4 = 15
        (4, 21, True),
    ],
)
def test_ray_pays_off_when_it_saves_more_than_it_costs(workers, work_seconds, expected):
    assert pays_off(workers, work_seconds) is expected


def test_workers_and_their_share_of_the_gpus():
    assert [
        useful_workers(c, g, n)
        for c, g, n in ((2, 0, 10), (2, 0, 1), (64, 0, 100), (16, 1, 10), (16, 4, 3))
    ] == [2, 1, 8, 1, 3]
    # 3 workers on 2 GPUs: two must share one, so half a GPU each
    assert [gpu_share(g, w) for g, w in ((0, 4), (1, 1), (2, 3), (1, 4), (4, 2))] == [
        0,
        1,
        1 / 2,
        1 / 4,
        1,
    ]


def four_cores(monkeypatch):
    for module in (engines, threads):
        monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_threads_without_a_setting_are_those_of_the_environment_in_every_engine(
    monkeypatch, client_app
):
    four_cores(monkeypatch)
    monkeypatch.setattr(engines, "gpus", lambda: 0)
    made = inline_engine(), ray_engine(workers=2), auto_engine(workers=1), auto_engine(workers=2)
    assert [one.open(client_app, 3).threads for one in made] == [4, 2, 4, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert [one.open(client_app, 3).threads for one in made] == [1, 1, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [one.open(client_app, 3).threads for one in made] == [3, 2, 3, 2]
    given = inline_engine(threads=2), ray_engine(workers=2, threads=4), auto_engine(2, threads=4)
    assert [one.open(client_app, 3).threads for one in given] == [2, 4, 4]


def test_auto_takes_ray_for_much_work_on_several_cores_and_inline_otherwise(
    monkeypatch, client_app
):
    four_cores(monkeypatch)
    monkeypatch.setattr(engines, "gpus", lambda: 0)
    assert (
        auto_engine().open(client_app, 3).description
        == "ray, workers: 3, threads each: 1, GPUs each: 0"
    )
    assert (
        auto_engine(workers=2).open(client_app, 3).description
        == "ray, workers: 2, threads each: 2, GPUs each: 0"
    )
    little = auto_engine().open(client_app, 3, work_seconds=lambda: 5)
    assert little.description == "inline, threads: 4"
    assert auto_engine().open(client_app, 1).name == "inline"
    assert auto_engine(workers=1, threads=2).open(client_app, 3).description == "inline, threads: 2"
    monkeypatch.setattr(engines, "gpus", lambda: 1)
    assert auto_engine().open(client_app, 3).name == "inline"  # one GPU: one process


@pytest.mark.parametrize(
    ("factory", "settings", "reason"),
    [
        (inline_engine, {"threads": 0}, "engine.threads=0"),
        (inline_engine, {"threads": "many"}, "engine.threads=many"),
        (auto_engine, {"workers": 1.5}, "engine.workers=1.5"),
        (ray_engine, {"workers": 0}, "engine.workers=0"),
        (ray_engine, {"retries": -1}, "engine.retries=-1"),
        (ray_engine, {"retries": 1.5}, "engine.retries=1.5"),
        (
            ray_engine,
            {"workers": 500},
            "engine.workers=500: 500 x 1 CPUs wanted, 4 is on this machine; try engine.workers=4",
        ),
        (
            ray_engine,
            {"cpus_per_worker": 8},
            (
                "engine.workers=1: 1 x 8 CPUs wanted, 4 is on this machine; try "
                "engine.cpus_per_worker=4"
            ),
        ),
        (ray_engine, {"cpus_per_worker": -1}, "engine.cpus_per_worker=-1"),
        (ray_engine, {"gpus_per_worker": 1.5}, "engine.gpus_per_worker=1.5"),
        (ray_engine, {"address": 6379}, "engine.address=6379"),
        (ray_engine, {"address": "ray://head:10001"}, "engine.address=ray://head:10001"),
    ],
)
def test_wrong_settings_are_named(factory, settings, reason, monkeypatch):
    monkeypatch.setattr(engines, "cores", lambda: 4)
    with pytest.raises(ConfigError, match=reason):
        factory(**settings)


@pytest.mark.parametrize(
    ("workers", "gpus", "reason"),
    [
        (
            Workers(3, 1, 0, 1),
            0,
            "engine.workers=3: 3 x 1 CPUs wanted, 2 is on this machine; try engine.workers=2",
        ),
        (
            Workers(2, 1, 0.5, 1),
            0,
            (
                "engine.gpus_per_worker=0.5: 2 x 0.5 GPUs wanted, 0 is on this machine; "
                "try engine.gpus_per_worker=0"
            ),
        ),
        (
            Workers(2, 1, 0.6, 1),
            1,
            (
                "engine.gpus_per_worker=0.6: 2 x 0.6 GPUs wanted, 1 is on this machine; "
                "try engine.gpus_per_worker=0.5"
            ),
        ),
        (
            Workers(2, 1, 1, 1),
            1,
            (
                "engine.gpus_per_worker=1: 2 x 1 GPUs wanted, 1 is on this machine; try "
                "engine.gpus_per_worker=0.5"
            ),
        ),
    ],
)
def test_what_the_machine_has_not_is_refused_before_ray_starts(monkeypatch, workers, gpus, reason):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ConfigError, match=reason):
        connect(Cluster(None, 2), workers)


def test_a_ray_of_our_own_hands_its_workers_their_number_of_threads(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    seen = []
    monkeypatch.setattr(
        ray_cluster, "_start_here", lambda *_: seen.append(os.environ["OMP_NUM_THREADS"])
    )
    assert connect(Cluster(None, 2), Workers(1, 1, 0, 2))
    assert (seen, os.environ["OMP_NUM_THREADS"]) == (["2"], "4")


def test_what_this_machine_has_not_is_refused_before_anything_heavy_is_imported():
    code = """
import sys
from fedrobust.experiment import factories
from fedrobust import errors
try:
    target = "fedrobust.runtime.engines.ray_engine"
    factories.build_group({"engine": {"_target_": target, "workers": 5000}}, "engine")
except errors.ConfigError as error:
    assert str(error).startswith("engine.workers=5000: 5000 x 1 CPUs wanted, "), error
    assert not {"torch", "flwr", "ray"} & set(sys.modules)
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=CONFIGS[0].parents[2],
    )
    assert done.stdout == "refused\n", done.stderr


def test_a_cluster_is_not_judged_by_the_cores_of_this_machine():
    assert ray_engine(workers=5000, address="auto").name == "ray"


def test_an_address_where_no_ray_answers_is_named_at_once(monkeypatch):
    def never(**_):
        raise AssertionError("Ray itself would wait for minutes")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: None)
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(
        ConfigError,
        match=r"engine.address=auto: no Ray answers there \(Could not find any "
        r"running Ray instance\)",
    ):
        connect(Cluster("auto"), Workers(1, 1, 0, 1))
    # what a cluster that has ended leaves behind
    monkeypatch.setattr(services, "find_bootstrap_address", lambda _: "127.0.0.1:1")
    with pytest.raises(
        ConfigError, match=r"engine.address=auto: no Ray answers there \(\S+:1: .*refused\)"
    ):
        connect(Cluster("auto"), Workers(1, 1, 0, 1))
    with socket.socket() as taken:  # a port without a server
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=rf"engine.address={address}: no Ray answers there \(.*refused\)"
        ):
            connect(Cluster(address), Workers(1, 1, 0, 1))
