"""Faults for a soak: each minute one of them, drawn by seeded dice, struck and mended again.

    upstream killed      SIGKILL to one of the upstreams, a new one on its port some seconds later
    upstream frozen      SIGSTOP, SIGCONT
    upstream refusing    503 to every second call
    Valkey frozen        limits live on their leases
    Postgres frozen      rows wait in the journal, credit on its leases
    all upstreams killed where asked for: no channel is well, calls fail and say so

None of them but the last may fail a call where a line has a second channel.
"""

import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.targets.place import Server
from benchmarks.targets.processes import NotStarted
from benchmarks.targets.upstream import Script, Upstream, start_upstream

EVERY_S: Final = 60.0
LAST_S: Final = 5.0
"""Of a fault; a frozen one is let go on before anything that waits for it gives up for good."""

Say = Callable[[str], None]


class Stand(NamedTuple):
    """How an upstream is started anew: what it says, on which cores, where it writes its log."""

    script: Script
    cores: set[int]
    folder: Path


class Mischief:
    """Strikes in a thread of its own from `__enter__` to `__exit__`; what it did is in `struck`.

    Args:
        server: The relay.
        upstreams: What is behind it, at least two.
        stand: How one of them is started anew.
        seed: Of the dice.
        say: Told of each fault.
        outages: Whether there are moments without any upstream, too.
    """

    def __init__(
        self,
        server: Server,
        upstreams: list[Upstream],
        stand: Stand,
        *,
        seed: int,
        say: Say,
        outages: bool = False,
    ) -> None:
        assert len(upstreams) > 1, "one channel is to be well"
        self.struck: list[dict[str, Any]] = []
        self._server = server
        self._upstreams = list(upstreams)
        self._stand = stand
        self._dice = random.Random(seed)  # noqa: S311  which fault, no secret
        self._say = say
        self._outages = outages
        self._stack = ExitStack()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Mischief":
        self._begun_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._stack.close()

    def _run(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "upstream killed": lambda: self._kill([self._draw()]),
            "upstream frozen": self._freeze_upstream,
            "upstream refusing": self._refuse,
            "Valkey frozen": lambda: self._freeze("valkey"),
            "Postgres frozen": lambda: self._freeze("postgres"),
        }
        if self._outages:
            kinds["all upstreams killed"] = lambda: self._kill(range(len(self._upstreams)))
        while not self._stopped.wait(EVERY_S):
            name = self._dice.choice(list(kinds))
            at_s = round(time.monotonic() - self._begun_s, 1)
            self._say(f"soak {at_s:.0f} s: {name}")
            self.struck.append({"at_s": at_s, "fault": name})
            try:
                kinds[name]()
            except (OSError, NotStarted) as error:
                self.struck[-1]["not_struck"] = str(error)
                self._say(f"soak: {name}: {error}")

    def _draw(self) -> int:
        return self._dice.randrange(len(self._upstreams))

    def _kill(self, which: Sequence[int]) -> None:
        for each in which:
            os.kill(self._upstreams[each].pid, signal.SIGKILL)
        self._stopped.wait(LAST_S)
        script, cores, folder = self._stand
        for each in which:
            port = self._upstreams[each].port
            self._upstreams[each] = self._stack.enter_context(
                start_upstream(script, cores=cores, folder=folder, port=port)
            )

    def _freeze_upstream(self) -> None:
        self._hold([self._upstreams[self._draw()].pid])

    def _freeze(self, program: str) -> None:
        self._hold([pid for pid in self._server.pids() if program in _name(pid)])

    def _hold(self, pids: list[int]) -> None:
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            self._stopped.wait(LAST_S)
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _refuse(self) -> None:
        upstream = self._upstreams[self._draw()]
        try:
            _tell(upstream, ["status:503@0.5"])
            self._stopped.wait(LAST_S)
        finally:
            _tell(upstream, [])


def _tell(upstream: Upstream, faults: list[str]) -> None:
    """Set what a scripted upstream does wrong."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{upstream.port}/_mock/fail", json.dumps({"fail": faults}).encode()
    )
    with urllib.request.urlopen(request, timeout=5):
        pass


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""
