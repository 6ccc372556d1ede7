"""A client app in a folder of its own, as far from the test modules as a user's package would be,
and one Ray for all tests."""

import sys
import textwrap

import pytest

APP = textwrap.dedent('''
    """Clients that echo, count, fail and hang as the message's config tells them."""

    import os
    import pathlib
    import signal
    import time

    import torch
    from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    from fedrobust.runtime.messages import records as wire
    from fedrobust.state import State

    app = ClientApp()
    CALLS = {}


    @app.train()
    def train(message, context):
        config = message.content["config"]
        client = context.node_config["partition-id"]
        misbehave(config.get(f"client-{client}", ""))
        CALLS[client] = CALLS.get(client, 0) + 1
        seen = context.state.setdefault("seen", MetricRecord({"calls": 0}))
        seen["calls"] += 1
        if config.get(f"client-{client}") == "raise late":
            raise ValueError("after all the work")
        record = message.content["state"]
        state = wire.read_state(record, (record["parameters"].shape[0], record["buffers"].shape[0]))
        trained = work(state, client)
        site = str(context.node_config.get("site", ""))
        info = {"etf-sha256": "", "pid": os.getpid(), "site": site, "nice": os.nice(0)}
        metrics = {"client": client, "calls": seen["calls"], "cache": CALLS[client]}
        metrics["threads"] = torch.get_num_threads()
        metrics["num-partitions"] = context.node_config["num-partitions"]
        return Message(wire.train_reply(trained, client + 1, metrics, info), reply_to=message)


    def work(state, client):
        """Enough arithmetic for a change in the number of threads to show: a step down a random
        convolution's gradient."""
        generator = torch.Generator().manual_seed(client)
        weight = state.parameters[: 8 * 3 * 9].reshape(8, 3, 3, 3).clone().requires_grad_()
        images = torch.randn(4, 3, 16, 16, generator=generator)
        torch.nn.functional.conv2d(images, weight).square().mean().backward()
        parameters = state.parameters.clone()
        parameters[: weight.numel()] -= 0.1 * weight.grad.reshape(-1)
        return State(parameters, state.buffers + client)


    def misbehave(order):
        if order == "raise":
            raise ValueError("the scanner is broken")
        if order == "leave":
            raise SystemExit(3)
        if order == "interrupt":
            raise KeyboardInterrupt
        if order == "die":
            os._exit(17)
        if order == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if order.startswith("sleep"):
            time.sleep(float(order.split()[1]))
        if order.startswith("die-once"):
            leave_a_mark(order, lambda: os._exit(17))
        if order.startswith("wait"):
            leave_a_mark(order, lambda: wait_for(pathlib.Path(order.split()[1]) / "go"))
        if order.startswith("meet"):
            word, folder, name, other = order.split()
            leave_a_mark(f"{word} {folder} {name}", lambda: wait_for(pathlib.Path(folder, other)))


    def leave_a_mark(order, action):
        """Do it the first time only, and leave this process's id in "FOLDER NAME" before."""
        mark = pathlib.Path(*order.split()[1:])
        if not mark.exists():
            mark.with_suffix(".new").write_text(str(os.getpid()))
            mark.with_suffix(".new").rename(mark)
            action()


    def wait_for(path):
        while not path.exists():
            time.sleep(0.01)


    @app.train("empty")
    def empty(message, context):
        for record in message.content.values():
            record.clear()
        return None


    @app.query()
    def echo(message, context):
        return Message(RecordDict({"state": message.content["state"]}), reply_to=message)


    @app.query("keep")
    def keep(message, context):
        """Remember what was sent, and say what was remembered before."""
        known = context.state.get("own")
        total = -1.0 if known is None else float(known["parameters"].vector.sum())
        context.state["own"] = message.content["state"]
        return Message(RecordDict({"info": ConfigRecord({"known": total})}), reply_to=message)


    @app.query("address")
    def address(message, context):
        """Where the received vector lies, counted from the start of Ray's memory, and in which
        process."""
        parameters = message.content["state"]["parameters"].vector
        info = {"address": parameters.ctypes.data, "pid": os.getpid()}
        info["writeable"] = int(parameters.flags.writeable)
        return Message(RecordDict({"info": ConfigRecord(info)}), reply_to=message)
''')


@pytest.fixture(scope="session")
def client_app(tmp_path_factory):
    """The name of an importable ClientApp."""
    folder = tmp_path_factory.mktemp("apps")
    (folder / "echo_hospital.py").write_text(APP)
    sys.path.insert(0, str(folder))
    yield "echo_hospital:app"
    sys.path.remove(str(folder))
