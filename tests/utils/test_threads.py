"""The number of threads, and how they wait: the environment, the mask, the control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.utils import threads

ROOT = Path(__file__).parents[2]


def group(folder: Path, **content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def lines(tmp_path: Path, *text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("".join(f"{line}\n" for line in text))
    return path


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), (" 3 ", 3), ("5,2", 5)])
def test_the_environment_goes_before_mask_and_quota(
    asked: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    assert threads.default_threads({"OMP_NUM_THREADS": asked}) == expected


@pytest.mark.parametrize("asked", ["", "0", "-1", "many", "1.5"])
def test_a_number_that_openmp_refuses_counts_as_none(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    assert threads.default_threads({"OMP_NUM_THREADS": asked}) == 2
    assert threads.default_threads({}) == 2


@pytest.mark.parametrize(
    ("mask", "share", "expected"),
    [(4, None, 4), (4, 2.0, 2), (4, 1.5, 2), (4, 0.2, 1), (2, 64.0, 2)],
)
def test_cores_are_the_smaller_of_mask_and_quota(
    mask: int, share: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(mask)), raising=False)
    monkeypatch.setattr(threads, "quota", lambda: share)
    assert threads.cores() == expected


def test_the_tightest_group_above_a_process_counts(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    group(mount / "a" / "b", cpu__max="max 100000")
    group(mount / "a", cpu__max="150000 100000")
    assert threads.quota(lines(tmp_path, "0::/a/b"), mount) == 1.5
    group(mount / "a" / "b", cpu__max="50000 100000")
    assert threads.quota(lines(tmp_path, "0::/a/b"), mount) == 0.5
    assert threads.quota(lines(tmp_path, "0::/"), mount) is None


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path, controllers: str) -> None:
    mount = tmp_path / "mount"
    group(mount / "memory" / "a", cpu__cfs_quota_us="1", cpu__cfs_period_us="1")
    group(mount / controllers, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    group(mount / controllers / "a", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    found = lines(tmp_path, "4:memory:/a", f"3:{controllers}:/a", "0::/")
    assert threads.quota(found, mount) == 3


def test_a_container_sees_its_own_group_at_the_root_and_the_path_of_the_host(
    tmp_path: Path,
) -> None:
    mount = tmp_path / "mount"
    group(mount, cpu__max="200000 100000")
    for path in ("/docker/0123", "/../..", "/"):
        assert threads.quota(lines(tmp_path, f"0::{path}"), mount) == 2


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert threads.quota(tmp_path / "none", tmp_path) is None
    assert threads.quota(lines(tmp_path, "0::/a", "1:cpuset:/a"), tmp_path / "none") is None


def test_each_of_several_processes_gets_a_share_at_most_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads.threads_of_each(n) for n in (1, 3, 8, 20)] == [8, 2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [threads.threads_of_each(n) for n in (1, 3, 8)] == [2, 2, 1]


def test_defaults_are_written_once_and_leave_what_the_user_has_set() -> None:
    environment = {"OMP_NUM_THREADS": "3"}
    threads.set_defaults(environment)
    written = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
    assert environment == written
    threads.set_defaults(environment)
    assert environment == written


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_who_says_how_threads_wait_says_all_of_it(name: str) -> None:
    environment = {"OMP_NUM_THREADS": "3", name: "ACTIVE"}
    threads.set_defaults(environment)
    assert environment == {"OMP_NUM_THREADS": "3", name: "ACTIVE"}


def test_children_get_their_number_and_this_process_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    with threads.threads_of_children(2):
        assert threads.default_threads() == 2
    assert os.environ["OMP_NUM_THREADS"] == "4"
    monkeypatch.delenv("OMP_NUM_THREADS")
    with threads.threads_of_children(2):
        assert threads.default_threads() == 2
    assert "OMP_NUM_THREADS" not in os.environ


CHILD = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
import fedrobust
assert not {"torch", "numpy"} & set(sys.modules)
from fedrobust.utils.threads import cores
import torch
assert torch.get_num_threads() == cores(), (torch.get_num_threads(), cores())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch's OpenMP is another one")
def test_torch_finds_the_policy_when_it_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={
            **{
                name: value
                for name, value in os.environ.items()
                if name not in (threads.NUMBER, *threads.SAID_BY_USER)
            },
            "OMP_DISPLAY_ENV": "VERBOSE",  # OpenMP says on standard error what it has read
        },
    )
    assert done.returncode == 0, done.stderr
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
