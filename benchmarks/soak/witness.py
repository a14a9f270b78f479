"""Asks the upstreams themselves whether they are well, so that errors can be told apart.

A call that fails while a channel is well is the relay's fault; one that fails while none is, or
just after, is not. The relay is not asked: what it believes of its channels is looked at too.
"""

import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from benchmarks.load.diary import Failure

EVERY_S: Final = 0.25
TIMEOUT_S: Final = 2.0
RECOVERY_S: Final = 5.0
"""After an outage, in which the relay finds out that it is over."""


class Outage(msgspec.Struct, frozen=True):
    """A time in which no upstream was well, by time.monotonic()."""

    begun_s: float
    ended_s: float


class Witness:
    """Watches upstreams in a thread; `outages` are the times in which none of them answered.

    Args:
        ports: Where they listen on loopback.
        ask: Tells whether the one on a port is well.
    """

    def __init__(self, ports: Sequence[int], ask: Callable[[int], bool]) -> None:
        self.outages: list[Outage] = []
        self._ports = ports
        self._ask = ask
        self._well_s = time.monotonic()
        self._was_well = True
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Witness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if not self._was_well:
            self.outages.append(Outage(self._well_s, time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.wait(EVERY_S):
            self.look(time.monotonic)

    def look(self, now_s: Callable[[], float]) -> None:
        """Ask them once; an outage reaches from the last good answer to the next."""
        begun_s = now_s()
        if not any(self._ask(port) for port in self._ports):
            self._was_well = False
            return
        if not self._was_well:
            self.outages.append(Outage(self._well_s, now_s()))
        self._was_well, self._well_s = True, begun_s


def is_well(port: int) -> bool:
    """Tell whether the scripted upstream on a port answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=TIMEOUT_S):
            return True
    except OSError:
        return False


def tell_apart(failures: list[Failure], outages: list[Outage]) -> dict[str, Any]:
    """Return which failed calls had a well channel all the while, and which had none for a time."""
    blamed, excused = [], 0
    for failure in failures:
        if any(
            outage.begun_s <= failure.at_s and failure.since_s <= outage.ended_s + RECOVERY_S
            for outage in outages
        ):
            excused += 1
        else:
            blamed.append(failure)
    return {
        "errors_while_a_channel_was_well": len(blamed),
        "errors_while_none_was": excused,
        "outage_s": round(sum(outage.ended_s - outage.begun_s for outage in outages), 1),
        "outages": len(outages),
        "blamed": msgspec.to_builtins(blamed[:100]),
    }
