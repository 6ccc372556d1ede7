"""Three SuperNodes and a SuperLink as processes of their own: TLS, registered keys, and the very
weights of the simulation.

One federation serves all tests, whose runs take half a minute and more each: every message to a
site starts a process. Those are forks with torch in them already (tests/helpers/forks.py). The
simulations that they are compared with run meanwhile, as the federation waits most of the time.
"""

from __future__ import annotations

import csv
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file

from fedrobust.experiment import build, compose
from fedrobust.federation import certificates, flower_commands
from fedrobust.federation.__main__ import main
from fedrobust.federation.demo import write_npz
from fedrobust.federation.local_federation import LocalFederation
from fedrobust.federation.operator import COMPLETED
from fedrobust.federation.preflight import connection
from fedrobust.federation.processes import free_ports
from fedrobust.reporting.report import read_report
from fedrobust.reporting.report.sections import DisclosureSection
from tests.helpers.federations import SMALL_RUN
from tests.helpers.forks import fork_programs
from tests.helpers.processes import started, wait_until

pytestmark = pytest.mark.slow
SECONDS = 600.0  # a deadline for a machine that is busy with other things
ROOT = Path(__file__).parents[2]
PLACES = {"charlie": 0, "alpha": 1, "bravo": 2}  # the partition-id decides, not the name
COUNTING = "bravo"  # reports exact counts, the others predictions
REAL = os.environ.get("FEDROBUST_DATA")
DATA = (
    ["data=ham10000", f"data.root={REAL}", "data.size=16", "data.max_images=600"]
    if REAL
    else ["data.size=16", "data.num_images=300"]
)
WORDS = [
    *DATA,
    *(word for word in SMALL_RUN if not word.startswith("data.")),
    *(
        "model=small",
        "strategy=etf_dml",
        "num_clients=3",
        "rounds=2",
        "server.root_per_class=1",
        "server.proxy_images=32",
    ),
    *("evaluation.twin=false", "evaluation.bootstrap_samples=200"),
]
PARTITION = "partition=by_site" if REAL else "partition=iid"


@dataclass(frozen=True)
class Done:
    """A finished run on real nodes, its federation (which still runs), and what was given to it."""

    federation: LocalFederation
    run: str
    folder: Path
    simulated: Path
    seconds: float


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    began, folder = time.monotonic(), tmp_path_factory.mktemp("federation")
    experiment = build.build_experiment(compose.compose(*WORDS, PARTITION))
    nodes = {}
    for name, client in PLACES.items():
        mask = torch.zeros(len(experiment.dataset), dtype=torch.bool)
        mask[experiment.parts[client]] = True
        write_npz(folder / f"{name}.npz", experiment.dataset, mask)
        nodes[name] = {
            "site": name,
            "partition-id": client,
            "data-root": str(folder / f"{name}.npz"),
            "data-format": "npz",
            "data-classes": ",".join(experiment.dataset.class_names),
            **({"min-cell": 1} if name == COUNTING else {"share-predictions": True}),
        }
    federation = LocalFederation(folder / "all", nodes)
    with fork_programs(federation.processes.environment), federation:
        with simulated(WORDS, folder / "simulated"):
            run = complete(federation, WORDS, folder / "run")
        seconds = time.monotonic() - began
        yield Done(federation, run, folder / "run", folder / "simulated", seconds)
    assert federation.processes.alive() == {}


def complete(federation: LocalFederation, words: list[str], folder: Path) -> str:
    """Number of a run that has ended well. The operator looks once only, as each look is a process:
    until then, whether the server's program runs is seen among the processes."""

    def server_runs() -> bool:
        return any("flwr-serverapp" in one for one in federation.processes.alive().values())

    run = federation.operator.submit(words, folder=str(folder))
    wait_until(server_runs, every=0.5)
    wait_until(lambda: not server_runs(), seconds=SECONDS, every=0.5)
    state = federation.operator.wait(run, SECONDS)
    assert state["status"] == COMPLETED, state["status-details"]
    return run


@contextmanager
def simulated(words: list[str], folder: Path) -> Iterator[None]:
    """The same run as a simulation on one core, beside what is done in the block; finished, and
    finished well, after it."""
    command = [
        sys.executable,
        "-m",
        "fedrobust.simulate",
        *words,
        PARTITION,
        "engine=inline",
        "engine.threads=1",
        f"hydra.run.dir={folder}",
    ]
    with started(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        yield
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, errors


def assert_same_weights(one: Path, other: Path) -> None:
    real, simulated = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert set(real) == set(simulated)
    assert all(torch.equal(real[name], simulated[name]) for name in real)


def test_the_weights_are_bit_equal_to_the_simulation_s(done: Done) -> None:
    assert_same_weights(done.folder, done.simulated)
    ours, theirs = read_report(done.folder), read_report(done.simulated)
    assert ours.evaluations == theirs.evaluations
    for one, other in zip(ours.clients, theirs.clients, strict=True):
        if one.site == COUNTING:
            assert one.disclosure == DisclosureSection(form="counts", min_cell=1)
            hidden = {"auroc": None, "ece": None}
            assert one.clean.model_dump() == pytest.approx(
                {**other.clean.model_dump(), **hidden}, abs=1e-3
            )
        else:
            assert one.model_copy(update={"site": None, "sites": other.sites}) == other


def test_the_folder_is_that_of_a_run_with_the_sites_named_and_no_twin(done: Done) -> None:
    report = read_report(done.folder)
    assert [client.site for client in report.clients] == ["charlie", "alpha", "bravo"]
    assert set(report.drops.present) == {"corruption", "clients"}
    assert report.engine == "flower, sites: 3"
    for name in (
        "manifest.json",
        "report.html",
        "rounds.jsonl",
        "clients.csv",
        "predictions.npz",
    ):
        assert (done.folder / name).stat().st_size > 0, name
    # what lies at the sites is not the server's to count
    assert report.setup is not None
    assert report.setup.client_images is None
    with (done.folder / "clients.csv").open() as file:
        assert {(row["round"], row["client"]) for row in csv.DictReader(file)} == {
            (str(r), str(c)) for r in (1, 2) for c in range(3)
        }


def test_secure_aggregation_ends_with_the_weights_of_the_simulation(
    done: Done, tmp_path: Path
) -> None:
    """Bit by bit: secrets differ, since real sites draw theirs from the system, but sums of whole
    numbers do not. Its four messages a round find what the hospital keeps between them in processes
    of their own."""
    kept = [word for word in WORDS if not word.startswith(("strategy=", "rounds="))]
    words = [*kept, "strategy=fedavg", "privacy=secure_aggregation", "rounds=1"]
    with simulated(words, tmp_path / "out"):
        complete(done.federation, words, tmp_path / "run")
    assert_same_weights(tmp_path / "run", tmp_path / "out")
    report = read_report(tmp_path / "run")
    assert report.privacy is not None
    assert report.privacy == read_report(tmp_path / "out").privacy
    assert (report.privacy.name, report.privacy.dropped) == ("secure_aggregation", 0)


def test_a_run_that_fails_ends_with_its_reason_and_an_exit_code(
    done: Done, capfd: pytest.CaptureFixture[str]
) -> None:
    home = done.federation.operator.home
    assert main(["run", "--home", str(home), "--seconds", str(SECONDS), *WORDS, "poisoned=1"]) == 1
    out, err = capfd.readouterr()
    assert "finished:failed" in err
    assert "this node refuses contamination" in err
    # what the run says is shown while it lasts
    assert "connected: 3 of 3 nodes: alpha, bravo, charlie" in out


def test_following_a_run_again_shows_it_and_ends_as_it_did(
    done: Done, capfd: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(done.federation.operator.home), "--seconds", "120"]
    assert main(["follow", *home, done.run]) == 0
    out = capfd.readouterr().out
    assert f"run {done.run}: finished:completed" in out
    assert "round 2" in out
    for client, name in enumerate(["charlie", "alpha", "bravo"]):
        assert f"client {client}: site {name}" in out
        assert f"{client} {name}" in out  # the table of each site's metrics
    assert main(["follow", *home, "12345"]) == 1
    out, err = capfd.readouterr()
    assert "finished:completed" not in out
    assert "Run ID not found" in err


def test_from_the_network_only_nodes_get_through(done: Done) -> None:
    link = done.federation.link
    assert [(one.what, one.ok) for one in connection(link)] == [
        ("connection", True),
        ("TLS", True),
        ("clock", True),
    ]
    context = ssl.create_default_context(cafile=str(link.ca))
    for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/docs"):
        assert httpx.post(f"https://{link.address}{path}", verify=context).status_code == 403
    nobody = {"content-type": "application/protobuf"}
    assert (
        httpx.post(
            f"https://{link.address}/v1/fleet/pull-messages", verify=context, headers=nobody
        ).status_code
        == 401
    )


def test_an_unknown_key_and_a_foreign_authority_are_turned_away(done: Done, tmp_path: Path) -> None:
    federation, processes = done.federation, done.federation.processes
    certificates.make_site_certificate(tmp_path / "stranger", "stranger")
    certificates.make_certificate_authority(tmp_path / "other")
    elsewhere = flower_commands.Link(
        federation.link.host, federation.link.port, tmp_path / "other" / certificates.CA_CERTIFICATE
    )
    stranger = flower_commands.supernode(
        federation.link, tmp_path / "stranger", {}, free_ports(1)[0]
    )
    misled = [
        *flower_commands.supernode(elsewhere, federation.folder / "alpha", {}, free_ports(1)[0]),
        "--max-retries",
        "1",
    ]
    processes.start("stranger", stranger, tmp_path)
    processes.start("misled", misled, tmp_path)
    for name in ("stranger", "misled"):
        processes.wait(name, SECONDS)
        assert processes.ended().get(name, 0) != 0, processes.log(name).read_text()[-2000:]
    nodes = json.loads(
        federation.operator.flwr(
            "supernode", "list", federation.operator.connection, "--format", "json"
        )
    )["nodes"]
    assert len([node for node in nodes if node["status"] == "online"]) == 3
