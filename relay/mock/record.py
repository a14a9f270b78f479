"""What a mock served, kept by itself: an oracle for tests of billing and of aborts.

It never holds content: numbers, names and the request's id.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from relay.mock.options import SERVED_MAX


class ServedRecord(msgspec.Struct, kw_only=True):
    """One call, from the upstream's side.

    `n`: counts from 1. `request_id`: of the asker's x-request-id header, "" = none. `resume`: the
    dialect in which it was asked to go on from a prefix, "" = none. `completion_tokens`: written
    to the socket, not those that a whole answer would have had. `at_event`: frames written.
    `aborted`: the client left before the plan was played out.
    """

    n: int
    request_id: str = ""
    endpoint: str = ""
    model: str = ""
    stream: bool = False
    resume: str = ""
    fault: str = ""
    status: int = 200
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    at_event: int = 0
    aborted: bool = False


class RecordState(msgspec.Struct, kw_only=True):
    """Counters of a mock's life; tokens and `aborted` are sums over the calls that have ended.

    `rejected`: requests that were no sound question (400, 401, 404, 405, 413). `pauses`: how often
    a client read so slowly that the mock stopped writing.
    """

    name: str
    fail: tuple[str, ...] = ()
    connections: int = 0
    open: int = 0
    calls: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    aborted: int = 0
    rejected: int = 0
    pauses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Record:
    """Takes note of connections and calls, and tells who waits for a change.

    Args:
        name: Of the mock.
        path: Where to append each ended call as a JSON line; None = nowhere.
    """

    def __init__(self, name: str, path: Path | None = None) -> None:
        self.state = RecordState(name=name)
        self._served: deque[ServedRecord] = deque(maxlen=SERVED_MAX)
        self._waiting: list[tuple[Callable[[RecordState], bool], asyncio.Future[None]]] = []
        # Unbuffered: a mock that is killed has told all it knew.
        self._file = path.open("ab", buffering=0) if path is not None else None

    @property
    def served(self) -> list[ServedRecord]:
        """The calls that ended, oldest first; at most SERVED_MAX of them."""
        return list(self._served)

    def connect(self) -> None:
        """Note a new connection."""
        self.state.connections += 1
        self.state.open += 1
        self._tell()

    def disconnect(self) -> None:
        """Note the end of a connection."""
        self.state.open -= 1
        self._tell()

    def begin(self) -> int:
        """Note a new call and return its number."""
        state = self.state
        state.calls += 1
        state.in_flight += 1
        state.in_flight_max = max(state.in_flight_max, state.in_flight)
        self._tell()
        return state.calls

    def end(self, served: ServedRecord) -> None:
        """Note how a call ended."""
        state = self.state
        state.in_flight -= 1
        state.aborted += served.aborted
        state.prompt_tokens += served.prompt_tokens
        state.completion_tokens += served.completion_tokens
        self._served.append(served)
        if self._file is not None:
            self._file.write(msgspec.json.encode(served) + b"\n")
        self._tell()

    def reject(self) -> None:
        """Note a request that was no sound question."""
        self.state.rejected += 1
        self._tell()

    def pause(self) -> None:
        """Note a client that is slower than the mock."""
        self.state.pauses += 1
        self._tell()

    def set_fail(self, texts: Iterable[str]) -> None:
        """Note the faults in force, as they were written."""
        self.state.fail = tuple(texts)
        self._tell()

    def clear(self) -> None:
        """Forget the calls that ended; what runs stays counted."""
        state = self.state
        self._served.clear()
        state.aborted = state.rejected = state.pauses = 0
        state.prompt_tokens = state.completion_tokens = 0
        state.in_flight_max = state.in_flight

    async def until(self, predicate: Callable[[RecordState], bool]) -> None:
        """Wait until `predicate` holds of the state; the caller brings the deadline."""
        if predicate(self.state):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (predicate, future)
        self._waiting.append(entry)
        try:
            await future
        finally:
            self._waiting.remove(entry)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _tell(self) -> None:
        for predicate, future in self._waiting:
            if not future.done() and predicate(self.state):
                future.set_result(None)
