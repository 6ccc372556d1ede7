"""One round of messages through Ray's workers: one in each worker, replies as they come, lost ones
again, and no way to hang."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple, Protocol, final

import ray
from flwr.app import ArrayRecord, Message, RecordDict

from fedrobust.runtime.engines.client_runner import (
    CRASHED,
    NO_REPLY,
    NO_SUCH_NODE,
    RAISED,
    error_answer,
)
from fedrobust.runtime.engines.ray_pool import WorkerPool
from fedrobust.runtime.messages.arrays import FlatArray
from fedrobust.utils.notices import note

AHEAD = 64  # messages drawn before a worker is free for them; they share their arrays
SHIPPED = 4  # different array records kept in Ray's memory for further messages
# for a reply that is here already: only one that was lost the very moment takes longer
GET_SECONDS = 60.0


class ClientMemory(Protocol):
    """Memory of the clients between messages."""

    def load_memory(self, client: int) -> RecordDict | None: ...

    def save_memory(self, client: int, state: RecordDict | None) -> None: ...


class PendingMessage(NamedTuple):
    """A message to be answered, and how many workers have been lost over it."""

    message: Message
    lost: int = 0

    @property
    def client(self) -> int:
        return int(self.message.metadata.dst_node_id)


class RunningTask(NamedTuple):
    """A task in a worker, and the promise of its answer."""

    task: PendingMessage
    promise: Any


@final
class MessageScheduler:
    """The bookkeeping of one `send_and_receive`.

    Worker n prefers the clients i with i mod W = n, since the app's caches lie there, but takes
    others' rather than idle. A worker holds one message only, so that nothing waits behind a slow
    client, and a client has one message at a time, since what it remembers is known when its last
    answer is here.
    """

    def __init__(
        self,
        pool: WorkerPool,
        memory: ClientMemory,
        num_clients: int,
        retries: int,
        timeout: float | None,
    ) -> None:
        self._pool, self._memory, self._num_clients, self._retries, self._timeout = (
            pool,
            memory,
            num_clients,
            retries,
            timeout,
        )
        self._start = time.monotonic()
        self._queues: list[deque[PendingMessage]] = [deque() for _ in range(len(pool))]
        self._running: dict[int, RunningTask] = {}
        self._shipped: deque[tuple[ArrayRecord, Any]] = deque(maxlen=SHIPPED)

    def replies(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Exactly one reply per message. Raises RunError when no worker is left and none comes
        up."""
        source, done = iter(messages), deque[Message]()
        self._pool.check()
        while True:
            done.extend(self._draw(source))
            self._dispatch()
            while done:  # only now, so that the workers are busy while the caller is
                yield done.popleft()
            if not self._running and not any(self._queues):
                return
            number = self._wait()
            if number is None:
                yield from self._expire(source)
                return
            if number not in self._running:
                self._pool.arrived(number)
            elif (reply := self._collect(number)) is not None:
                done.append(reply)
                del reply  # a reference to a reply keeps its memory in Ray

    def _left(self) -> float | None:
        return (
            None
            if self._timeout is None
            else max(0.0, self._timeout - (time.monotonic() - self._start))
        )

    def _draw(self, source: Iterator[Message]) -> Iterator[Message]:
        """Share out the next messages among the workers' queues; those to unknown clients come back
        at once."""
        while sum(map(len, self._queues)) < AHEAD and (message := next(source, None)) is not None:
            client = message.metadata.dst_node_id
            if 0 <= client < self._num_clients:
                self._queues[client % len(self._queues)].append(PendingMessage(message))
            else:
                yield error_answer(message, f"there is no client {client}", NO_SUCH_NODE)

    def _dispatch(self) -> None:
        """Give every idle worker something: of its own first, then what others have not come to."""
        if self._left() == 0:
            return
        for number in self._idle():
            self._give(number, [self._queues[number]])
        for number in self._idle():
            self._give(number, sorted(self._queues, key=len, reverse=True))

    def _idle(self) -> list[int]:
        return [number for number in self._pool.usable if number not in self._running]

    def _give(self, number: int, queues: list[deque[PendingMessage]]) -> None:
        """The worker gets the first task whose client is not at work already."""
        busy = {running.task.client for running in self._running.values()}
        for queue in queues:
            for position, task in enumerate(queue):
                if task.client not in busy:
                    del queue[position]
                    self._running[number] = RunningTask(task, self._send(number, task))
                    return

    def _send(self, number: int, task: PendingMessage) -> Any:
        content = task.message.content
        arrays = {
            name: record for name, record in content.items() if isinstance(record, ArrayRecord)
        }
        rest = RecordDict({name: record for name, record in content.items() if name not in arrays})
        light, state = (
            Message(content=rest, metadata=task.message.metadata),
            self._memory.load_memory(task.client),
        )
        return self._pool.worker(number).answer.remote(
            light, state, list(arrays), *(self._ship(record) for record in arrays.values())
        )

    def _ship(self, record: ArrayRecord) -> Any:
        """The record's place in Ray's memory; a record that was there a moment ago is not put
        again."""
        for known, place in self._shipped:
            if known is record:
                return place
        for array in record.values():
            if isinstance(array, FlatArray):
                # looked up here once, not by every worker for every message
                array.fault  # noqa: B018
        place = ray.put(record)
        self._shipped.append((record, place))
        return place

    def _wait(self) -> int | None:
        """The worker that has something to say, or None when the time is up."""
        promises = {
            running.promise: number for number, running in self._running.items()
        } | self._pool.promises
        while True:
            limits = [
                seconds for seconds in (self._left(), self._pool.patience()) if seconds is not None
            ]
            done = (
                ray.wait(list(promises), num_returns=1, timeout=min(limits, default=None))[0]
                if promises
                else []
            )
            if done:
                return promises[done[0]]
            if self._left() == 0:
                return None

    def _collect(self, number: int) -> Message | None:
        """The worker's reply; None when it was lost and the client is tried again."""
        task, promise = self._running.pop(number)
        try:
            reply, state = ray.get(promise, timeout=GET_SECONDS)
        except ray.exceptions.RayTaskError as error:  # such as a reply that cannot be pickled
            return error_answer(task.message, str(error), RAISED)
        except ray.exceptions.RayError as error:
            crash = self._pool.crash(number)
            self._pool.replace(number)
            return self._again(task, error, "died" if crash is None else f"died ({crash})")
        self._memory.save_memory(task.client, None if state is None else _own_memory(state))
        answered: Message = reply
        return answered

    def _again(self, task: PendingMessage, error: Exception, end: str) -> Message | None:
        """A worker, or the reply on its way, was lost: the next worker gets the message, and the
        client's state from before."""
        lost = task.lost + 1
        if lost <= self._retries:
            note(
                f"the worker process {end} while client {task.client} was running: trying it again"
            )
            self._queues[task.client % len(self._queues)].appendleft(
                PendingMessage(task.message, lost)
            )
            return None
        reason = (
            f"the worker process {end} while client {task.client} was running (attempts: {lost})"
        )
        return error_answer(task.message, f"{error}\n{reason}", CRASHED)

    def _expire(self, source: Iterator[Message]) -> Iterator[Message]:
        """The time is up: error replies for all that is open, and new workers for those that are
        still busy."""
        after = f"timed out after {self._timeout:g} s"
        for number in self._running:
            self._pool.replace(number)
        yield from (
            error_answer(running.task.message, f"{after}; its worker was replaced", NO_REPLY)
            for running in self._running.values()
        )
        waiting = (task.message for queue in self._queues for task in queue)
        yield from (
            error_answer(message, f"{after}, before it was started", NO_REPLY)
            for message in chain(waiting, source)
        )


def _own_memory(state: RecordDict) -> RecordDict:
    """With arrays in this process's memory: a view would keep the whole answer in Ray's."""
    for record in state.values():
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                record[name] = (
                    FlatArray(array.vector.copy()) if isinstance(array, FlatArray) else array
                )
    return state
