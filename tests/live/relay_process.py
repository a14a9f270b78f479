"""A whole relay as its users and its operators meet it: the real command, called from outside.

RelayProcess.start   `relay serve --demo`, its words kept in a file
.cli, .api           the commands and the admin API
ask, streaming       calls, each over a connection of its own, so that every worker gets some
settle               asks until every worker gives the same answer
until, until_told    wait for a condition, within a deadline
family, left_of      processes that were started, and those that still live
"""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp

from relay.store.metrics import WorkerMetrics, read_all

T = TypeVar("T")

RELAY = str(Path(sys.executable).with_name("relay"))
PATIENCE_S = 40.0
POLL_S = 0.02
RUN_OF_ANSWERS = 16
"""So many new connections all reach the same one of two workers once in 2^15 times."""
ANYWHERE = "127.0.0.1:0"


async def until(condition: Callable[[], T], what: str, wait_s: float = PATIENCE_S) -> T:
    """Look again and again until `condition` gives something true; return that."""

    async def look() -> T:
        return condition()

    return await until_told(look, what, wait_s)


async def until_told(
    condition: Callable[[], Awaitable[T]], what: str, wait_s: float = PATIENCE_S
) -> T:
    """Ask again and again until `condition` gives something true; return that."""
    until_s = time.monotonic() + wait_s
    while not (found := await condition()):
        assert time.monotonic() < until_s, f"in vain for {wait_s} s: {what}"
        await asyncio.sleep(POLL_S)
    return found


class RelayProcess:
    """A running `relay serve --demo`.

    `address` and `admin` are HOST:PORT; `curl` is the command it printed, `key` the key in that.
    """

    def __init__(self, data_dir: Path, words: Path, process: subprocess.Popen[bytes]) -> None:
        self.patience_s = PATIENCE_S
        self.data_dir = data_dir
        self.words = words
        self.process = process
        self.catalog_file = data_dir.with_name(f"{data_dir.name}.toml")
        self.address = self.admin = self.curl = self.key = ""

    @classmethod
    def start(
        cls,
        data_dir: Path,
        *,
        address: str = ANYWHERE,
        admin: str = ANYWHERE,
        environ: dict[str, str] | None = None,
        files: int = 0,
        workers: int = 2,
    ) -> Self:
        """Start it; entering its context waits until it serves.

        `files`: so many descriptors may each of its processes open; 0 = as many as we may.
        """
        words = data_dir.with_name(f"{data_dir.name}.words")
        command = [RELAY, "serve", "--demo", "--data-dir", str(data_dir)]
        with words.open("wb") as out:
            process = subprocess.Popen(
                [*command, "--workers", str(workers), "--listen", address, "--admin", admin],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, "RELAY_LOG": "json", **(environ or {})},
            )
        if files:  # those it starts inherit it
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, files))
        return cls(data_dir, words, process)

    async def __aenter__(self) -> Self:
        """Wait until it has said how to call it: it serves then."""
        try:
            said = "the relay prints how to call it"
            await until(self._has_introduced_itself, said, self.patience_s)
        except BaseException:
            await self.end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    def _has_introduced_itself(self) -> bool:
        said = self.words.read_text()
        assert self.process.poll() is None, said
        if "api_key=" not in said:
            return False
        self.address = _find(r"^relay \S+ http://(\S+)/v1$", said)
        self.admin = _find(r"^admin +http://(\S+) ", said)
        self.curl = _find(r"(?s)^  (curl .+?)\n\n", said)
        self.key = _find(r"Bearer (\S+)'", self.curl)
        return True

    @property
    def url(self) -> str:
        """The base URL that clients are given."""
        return f"http://{self.address}/v1"

    async def end(self) -> None:
        """End it and all it started, whatever state it is in."""
        if self.process.poll() is None:
            members = family(self.process.pid)
            # The second signal makes it hurry; two of one kind might arrive as one.
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGINT)
            try:
                await self.exited()
            finally:
                kill(members)

    async def exited(self) -> int:
        """Wait for its end; return its exit code."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    # --- the operator's side ------------------------------------------------------------------

    async def cli(self, *words: str, code: int = 0, environ: dict[str, str] | None = None) -> str:
        """Run a command of `relay` to its end; return its stdout."""
        command = await asyncio.create_subprocess_exec(
            RELAY,
            *words,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "RELAY_DATA_DIR": str(self.data_dir), **(environ or {})},
        )
        said, complaint = await command.communicate()
        assert command.returncode == code, complaint.decode()
        return said.decode()

    async def apply(self, catalog: str, *flags: str, environ: dict[str, str] | None = None) -> str:
        """Run `relay apply` on this text; return what it printed."""
        self.catalog_file.write_text(catalog)
        return await self.cli("apply", str(self.catalog_file), *flags, environ=environ)

    async def api(self, path: str, body: Any = None, *, method: str = "") -> Any:
        """Ask the admin API for what must succeed; return the JSON of its answer."""
        token = (self.data_dir / "secrets" / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://{self.admin}/admin/v1/{path}"
        answer = await send(url, body, headers, method=method)
        assert 200 <= answer.status < 300, answer.body
        return json.loads(answer.body)

    async def make_key(self, name: str, account: str = "folk") -> str:
        """Make a key by the admin API; return it when every worker knows it."""
        made = await self.api("keys", {"account": account, "name": name})
        key: str = made["key"]
        await settle(self, key, 200)
        return key

    async def rows(self, key_name: str, count: int, query: str = "") -> list[dict[str, Any]]:
        """Return a key's rows in the request log, once there are `count`; newest first."""

        async def shipped() -> list[dict[str, Any]]:
            path = f"logs?limit=500&key={key_name}&{query}"
            found: list[dict[str, Any]] = (await self.api(path))["logs"]
            return found if len(found) >= count else []

        return await until_told(shipped, f"{count} rows of {key_name} {query}")

    def complaints(self) -> list[str]:
        """Return the lines of its log that are more than information.

        What it says of the machine's limit of open files is true, and not its fault.
        """
        said = self.words.read_text().splitlines()
        lines = [line for line in said if line.startswith("{") and '"level":"info"' not in line]
        return [line for line in lines if "limit of open files" not in line]

    async def metrics(self) -> str:
        """Return what /metrics says."""
        return (await send(f"http://{self.admin}/metrics")).body.decode()

    def workers(self) -> dict[str, tuple[int, WorkerMetrics]]:
        """Return slot -> pid and figures of the worker that serves it."""
        folder = self.data_dir / "run" / "metrics"
        files = {path.name for path in folder.glob("worker-*-[0-9]*")}
        figures = {slot: found[0] for slot, found in read_all(folder).items()}
        pids = dict(name.rsplit("-", 1) for name in files)
        return {slot: (int(pid), figures[slot]) for slot, pid in pids.items() if slot in figures}

    async def figures_published(self) -> None:
        """Wait until every worker has published figures that are younger than this moment."""
        now_s = time.time_ns() / 1e9

        def all_young() -> bool:
            figures = [said for _, said in self.workers().values()]
            return all(said.gauges["time_seconds"] > now_s for said in figures)

        await until(all_young, "every worker publishes its figures again")

    def in_flight(self) -> dict[str, int]:
        """Return slot -> calls under way, as last published (once a second)."""
        return {slot: int(said.gauges["inflight"]) for slot, (_, said) in self.workers().items()}


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, text
    return found[1]


# --- the client's side ------------------------------------------------------------------------


class Answer(NamedTuple):
    """What a call got; `at_s` is when, on the monotonic clock."""

    status: int
    body: bytes
    headers: dict[str, str]
    at_s: float

    @property
    def error(self) -> dict[str, Any]:
        """The error object of the body."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found

    @property
    def request_id(self) -> str:
        """The id under which the request log knows the call."""
        return self.headers["x-request-id"]


def question(model: str = "steady", **fields: Any) -> dict[str, Any]:
    """Return the body of a chat call with a short answer."""
    plain = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    return {**plain, **fields}


def _session(local_ip: str | None = None) -> aiohttp.ClientSession:
    """Return a session that makes a new connection for each call."""
    local = None if local_ip is None else (local_ip, 0)
    connector = aiohttp.TCPConnector(force_close=True, limit=0, local_addr=local)
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


async def send(
    url: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
    *,
    method: str = "",
    local_ip: str | None = None,
) -> Answer:
    """Send one request, `body` as JSON, over a connection of its own; return the whole answer."""
    method = method or ("GET" if body is None else "POST")
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json", **(headers or {})}
    async with (
        _session(local_ip) as session,
        session.request(method, url, data=content, headers=headers) as answer,
    ):
        found = await answer.read()
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, found, headers, time.monotonic())


async def ask(
    relay: RelayProcess, key: str, body: Any = None, *, local_ip: str | None = None
) -> Answer:
    """Make a chat call."""
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{relay.url}/chat/completions"
    return await send(url, body or question(), headers, local_ip=local_ip)


async def settle(
    relay: RelayProcess, key: str, status: int, path: str = "models", body: Any = None
) -> float:
    """Ask for `path` until every worker answers with `status`; return when one last did not.

    That is a moment of the monotonic clock, 0.0 where every answer was as wanted.
    """
    url, headers = f"{relay.url}/{path}", {"Authorization": f"Bearer {key}"}
    different_s, run = 0.0, 0
    until_s = time.monotonic() + PATIENCE_S
    while run < RUN_OF_ANSWERS:
        answers = await asyncio.gather(
            *(send(url, body, headers) for _ in range(RUN_OF_ANSWERS // 2))
        )
        others = [answer for answer in answers if answer.status != status]
        run = 0 if others else run + len(answers)
        different_s = max([different_s, *(answer.at_s for answer in others)])
        assert not others or time.monotonic() < until_s, f"still {others[0].status}, not {status}"
    return different_s


class Stream:
    """A streamed chat call that is read as it comes.

    `broken`: the connection broke instead of ending. `ended_s`: when it ended, monotonic.
    """

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.body = b""
        self.status = 0
        self.request_id = ""
        self.broken = False
        self.ended_s = 0.0

    @property
    def events(self) -> list[bytes]:
        """The payloads of its events."""
        return [event.removeprefix(b"data: ") for event in self.body.split(b"\n\n")[:-1]]

    @property
    def whole(self) -> bool:
        """Whether it ended as an answer ends."""
        return not self.broken and self.body.endswith(b"data: [DONE]\n\n")

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object of its last event, if that is one."""
        last = self.events[-1] if self.events else b""
        found = json.loads(last).get("error") if last.startswith(b"{") else None
        return found if isinstance(found, dict) else None

    async def run(self, relay: RelayProcess, key: str, body: dict[str, Any]) -> None:
        """Make the call and read until its end."""
        try:
            async with (
                _session() as session,
                session.post(
                    f"{relay.url}/chat/completions",
                    json={**body, "stream": True},
                    headers={"Authorization": f"Bearer {key}"},
                ) as answer,
            ):
                self.status = answer.status
                self.request_id = answer.headers["x-request-id"]
                async for chunk in answer.content.iter_any():
                    self.body += chunk
                    self.started.set()
        except aiohttp.ClientError:
            self.broken = True
        finally:
            self.ended_s = time.monotonic()
            self.started.set()


@contextlib.asynccontextmanager
async def streaming(
    relay: RelayProcess, key: str, count: int, body: dict[str, Any] | None = None
) -> AsyncIterator[Sequence[Stream]]:
    """Run `count` streams that have all begun; at the end of the block they must have ended."""
    streams = [Stream() for _ in range(count)]
    async with asyncio.TaskGroup() as tasks:
        for stream in streams:
            tasks.create_task(stream.run(relay, key, body or question(max_tokens=2000)))
        async with asyncio.timeout(PATIENCE_S):
            for stream in streams:
                await stream.started.wait()
        assert [stream.status for stream in streams] == [200] * count
        yield streams


# --- processes --------------------------------------------------------------------------------


class Process(NamedTuple):
    """A process and the moment it started, which tells it from a later one of the same pid."""

    pid: int
    parent: int
    program: str
    started: str


def processes() -> list[Process]:
    """Return all processes there are, zombies left out.

    Source: proc(5), /proc/PID/stat: pid (comm) state ppid ... starttime is field 22.
    """
    found = []
    for entry in os.scandir("/proc"):
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                text = Path(entry.path, "stat").read_text()
                head, _, tail = text.rpartition(")")
                state, parent, *rest = tail.split()
                if state != "Z":
                    program = head.partition("(")[2]
                    found.append(Process(int(entry.name), int(parent), program, rest[17]))
    return found


def family(pid: int) -> set[Process]:
    """Return a process and all that it started, directly or not."""
    everyone = processes()
    members = {process for process in everyone if process.pid == pid}
    while True:
        pids = {member.pid for member in members}
        more = {process for process in everyone if process.parent in pids} - members
        if not more:
            return members
        members |= more


def left_of(members: set[Process]) -> set[Process]:
    """Return those of `members` that still live, whoever is their parent now."""
    alive = {(process.pid, process.started) for process in processes()}
    return {member for member in members if (member.pid, member.started) in alive}


def kill(members: set[Process]) -> None:
    """End what is left of `members`: a test that fails must not disturb the next one."""
    for member in left_of(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)


async def all_gone(members: set[Process], wait_s: float) -> None:
    """Wait until none of `members` lives."""
    try:
        await until(lambda: not left_of(members), "nothing is left of what was started", wait_s)
    finally:
        kill(members)
