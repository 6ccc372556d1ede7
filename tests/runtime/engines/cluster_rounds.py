"""Rounds on a cluster of several Ray nodes on this machine, one of which is killed: run by
test_ray_cluster.py in a process of its own.

python -m tests.runtime.engines.cluster_rounds APPS FOLDER: prints one JSON object of what happened.
"""

import json
import sys
import threading
from pathlib import Path

import torch
from ray._private import services
from ray.cluster_utils import Cluster

from fedrobust.runtime.engines import inline_engine, ray_engine
from tests.helpers.engine_messages import by_client, meeting, messages
from tests.helpers.processes import PATIENCE_SECONDS, wait_until

CLIENTS = 6
NODE = {"object_store_memory": 100_000_000}


def main(apps, folder):
    sys.path.insert(0, apps)
    wait_for_nodes()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 0, "temp_dir": str(folder / "ray")},
    )
    sites = [cluster.add_node(wait=False, num_cpus=1, **NODE) for _ in range(2)]
    both_wait = {client: f"wait {folder} {client}" for client in (0, 1)}
    with ray_engine(workers=2, threads=1, address=cluster.address).open(
        "echo_hospital:app", CLIENTS
    ) as grid:
        rounds = [answers(grid, meeting(folder / "first", 0, 1))]
        killer = threading.Thread(
            target=kill_the_node_of_client_0, args=(cluster, sites, folder), daemon=True
        )
        killer.start()
        rounds.append(answers(grid, both_wait))
        killer.join()
        rounds.append(answers(grid))
        cluster.add_node(wait=False, num_cpus=1, **NODE)
        # a machine that joins is used: the two clients do not meet in one worker
        came_back = len(pids(answers(grid, meeting(folder / "last", 0, 1)))) == 2
        remembered = grid.states
    cluster.shutdown()
    with inline_engine(threads=1).open("echo_hospital:app", CLIENTS) as inline:
        expected = [answers(inline) for _ in rounds]
    same = [equal(*pair) for pair in zip(rounds, expected, strict=True)]
    calls = {client: state["seen"]["calls"] for client, state in remembered.items()}
    found = {
        "same": same,
        "workers": [len(pids(one)) for one in rounds],
        "came_back": came_back,
    }
    print(
        json.dumps(
            {**found, "calls_agree": len(set(calls.values())) == 1, "clients": sorted(calls)}
        )
    )


def wait_for_nodes():
    """Ray gives up a node that is not there within half a minute, which is short on a busy
    machine."""
    get_node = services.get_node

    def wait_for_node(*words):
        def found():
            try:
                return get_node(*words)
            except RuntimeError:  # not yet
                return None

        return wait_until(found)

    services.get_node = wait_for_node


def answers(grid, orders=None):
    sent = messages(range(CLIENTS), orders)
    good, bad = by_client(grid.send_and_receive(sent, timeout=PATIENCE_SECONDS))
    assert not bad, bad
    return good


def pids(good):
    return {reply.info["pid"] for reply in good.values()}


def equal(good, expected):
    """Whether the replies are the same bit by bit, which worker gave them apart."""
    return set(good) == set(expected) and all(
        torch.equal(good[client].state.parameters, one.state.parameters)
        and torch.equal(good[client].state.buffers, one.state.buffers)
        and good[client].metrics["calls"] == one.metrics["calls"]
        for client, one in expected.items()
    )


def kill_the_node_of_client_0(cluster, sites, folder):
    """While it runs there, then let the other continue."""
    wait_until(lambda: (folder / "0").exists() and (folder / "1").exists())
    stat = Path(f"/proc/{(folder / '0').read_text()}/stat").read_text()
    parent = int(stat.rpartition(")")[2].split()[1])
    (site,) = [site for site in sites if site.all_processes["raylet"][0].process.pid == parent]
    cluster.remove_node(site, allow_graceful=False)
    (folder / "go").touch()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
