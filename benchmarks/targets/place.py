"""Where a target runs, and the running target: what all measurements share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.targets import processes
from benchmarks.targets.guard import descendants

MODEL: Final = "mock-model"
KEY: Final = "relay_benchmark-key"
"""Opens nothing but the relay of one run, which listens on loopback."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a target runs, and what is behind it.

    `upstreams`: ports of scripted upstreams; peers get the first. `trust`: PEM that vouches for
    them; "" = plain HTTP. `line_tpm`: of the relay's one line, which is a
    dedicated one; `splice`: whether it carries broken streams on. `messages`: whether the upstream
    speaks Anthropic's dialect, whatever clients speak. `quota_tpm`: of each channel, 0 = none; then
    there are a standard and a training line on the same channels, named after their kinds.
    `database`: the URL of its Postgres, "" = one of its own. `console`: whether it has one, which
    it has too where a database is named. `environ`: what else the relay is told.
    """

    folder: Path
    cores: frozenset[int]
    upstreams: tuple[int, ...]
    trust: str = ""
    workers: int = 1
    line_tpm: int = 10_000_000_000
    messages: bool = False
    splice: bool = False
    quota_tpm: int = 0
    database: str = ""
    console: bool = False
    environ: dict[str, str] = {}

    @property
    def scheme(self) -> str:
        """Of the upstreams' URLs."""
        return "https" if self.trust else "http"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A target that runs.

    `redis`: the socket of its Redis, None = it has none of its own. `logged`: asks how many calls
    its request log holds, None = it keeps none; `bounded`: how many refused calls it has left out;
    `audited`: has its books audited; `maintain`: the command that has it do the night's work now,
    [] = none. `headers`: what a call must carry besides the key.
    `console`, `admin`: the ports of its console and of its admin listener, 0 = it has none.
    `data_dir`: the relay's.
    """

    port: int
    pid: int
    does: str
    redis: Path | None = None
    logged: Callable[[], int] | None = None
    bounded: Callable[[], int] | None = None
    audited: Callable[[], dict[str, Any]] | None = None
    maintain: list[str] = []
    headers: dict[str, str] = {}
    console: int = 0
    admin: int = 0
    data_dir: Path | None = None

    def pids(self) -> list[int]:
        """Return the whole process tree."""
        return descendants(self.pid)

    def carriers(self) -> list[int]:
        """Return those processes that carry traffic: the relay's workers, else all."""
        everything = self.pids()
        workers = [pid for pid in everything if b"\0worker\0" in processes.command_line(pid)]
        return workers or everything
