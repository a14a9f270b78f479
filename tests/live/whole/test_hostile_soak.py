"""Goal: what outsiders do to a relay ten thousand times leaves nothing behind in it, and no trace.

Method: a real relay, a client that pays, and beside it each way in which strangers, customers and
upstreams misbehave, again and again. Memory, descriptors and tasks of the workers are compared
after a tenth, a half and all of it; everything there is (canary.py) and every answer is searched
for prompts, keys and upstream keys; a planted one is found. RELAY_SOAK_CALLS makes it shorter.
"""

import asyncio
import contextlib
import itertools
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.flow.rig import post
from tests.live.canary import all_places, traces
from tests.live.relay_process import PATIENCE_S, RelayProcess, question, until
from tests.live.whole.hostile_upstream import FAULTS, HostileUpstream

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(3000)]

CALLS: Final = int(os.environ.get("RELAY_SOAK_CALLS", "10000"))
SHARES: Final = (0.1, 0.5, 1.0)
"""Of it all, after which is looked what is left."""
AT_ONCE: Final = 16
BURST: Final = 50
"""Requests of a pipeline."""
BIG: Final = 192 * 1024
GROWTH_BYTES_MAX: Final = 2 * 1024 * 1024
"""Of a worker in the second half: some 25 bytes for each thing that was done, where a ring that is
left to the collector takes 20 KB of the heap until then. In the first half the heap finds its size,
by what happened to be there at once of what was largest."""
FILES_MORE_MAX: Final = 8
TASKS_MORE_MAX: Final = 8
LINES_MAX: Final = 200
LINES_A_MINUTE_MAX: Final = 60
"""Of the log: each of two workers tells ten a minute of each of three channels. What a hundred
thousand faults come to is for how long they last, and not how many they are."""

RUN: Final = secrets.token_hex(8)
CREDENTIAL: Final = f"sk-upstream-{RUN}"
STRANGER: Final = f"relay_{RUN}{RUN}"
PLANTED: Final = f"planted-{RUN}"
CATALOG: Final = """
[[channel]]
name = "foe"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:FOE_KEY"
models = [{models}]
[[channel]]
name = "half-dead"
base_url = "http://localhost:{port}/v1"
api_key = "env:FOE_KEY"
models = ["half-dead=fine"]
[[channel]]
name = "dead"
base_url = "http://127.0.0.1:9/v1"
api_key = "env:FOE_KEY"
models = ["fine"]
[[line]]
name = "town"
channels = ["foe", "half-dead", "dead"]
[[group]]
name = "folk"
lines = ["town"]
[[account]]
name = "folk"
group = "folk"
credit_limit = "1000"
"""
PRICE: Final = '[[price]]\nmodel = "{model}"\ninput = "0.01"\noutput = "0.02"\n'
CHAT: Final = "/v1/chat/completions"

ADDRESSES: Final = itertools.count(1)
Once = Callable[["Crowd"], Awaitable[None]]


class Crowd:
    """Those who misbehave in one way, and what they are told."""

    def __init__(self, name: str, relay: RelayProcess, key: str) -> None:
        self.name, self.key = name, key
        self.words = f"prompt-{RUN}-{name}"
        host, port = relay.address.split(":")
        self._relay = host, int(port)
        self._own = f"127.0.4.{1 + len(name)}"
        self.statuses: Counter[str] = Counter()
        self.told: set[bytes] = set()
        self.unexpected: list[bytes] = []
        """The first answers whose status is not one of this row."""
        self.left = False
        """Whether the last one went without its answers."""

    async def say(
        self, raw: bytes, *, leaves: bool = False, count: int = 1, address: str = ""
    ) -> None:
        """Send bytes on a connection of its own, and read to the end; or leave at once."""
        own = (address or self._own, 0)
        reader, writer = await asyncio.open_connection(*self._relay, local_addr=own)
        try:
            writer.write(raw)
            if leaves:
                await writer.drain()
                return
            async with asyncio.timeout(PATIENCE_S):
                answer = await reader.read()
        except ConnectionError:
            answer = b""
        finally:
            writer.transport.abort()
        for part in answer.split(b"HTTP/1.1 ")[1:]:
            self.statuses[part[:3].decode()] += 1
        if len(self.told) < 2000:
            self.told.add(answer)
        if len(self.unexpected) < 3 and answer and answer[9:12].decode() not in STATUSES[self.name]:
            self.unexpected.append(answer)
        assert answer.count(b"HTTP/1.1 ") <= count
        assert not leaks(answer, self), self.name

    def call(self, model: str, *, stream: bool = False, pad: int = 0) -> bytes:
        """Return a call that carries this crowd's words."""
        return post(CHAT, self.body(model, stream=stream, pad=pad), key=self.key)

    def body(self, model: str, *, stream: bool, pad: int) -> dict[str, Any]:
        """Return its body."""
        said = {"role": "user", "content": self.words + "x" * pad}
        return question(model, messages=[said], stream=stream, user=self.words)


def leaks(answer: bytes, crowd: Crowd) -> list[str]:
    """Return what an answer holds that is not for this crowd to read."""
    found = [name for name in (CREDENTIAL, STRANGER, crowd.key) if name.encode() in answer]
    return found + [w for w in answer.decode("latin-1").split("prompt-")[1:] if not_of(crowd, w)]


def not_of(crowd: Crowd, rest: str) -> bool:
    return not f"prompt-{rest}".startswith(crowd.words)


# --- what they do ---------------------------------------------------------------------------------


async def pipeline(crowd: Crowd) -> None:
    """Send requests ahead without a key; every other time the answers are never read."""
    one = f"GET /{crowd.words} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    crowd.left = not crowd.left
    await crowd.say(one * (BURST - 1) + last, count=BURST, leaves=crowd.left)


async def heads(crowd: Crowd) -> None:
    """Send heads that are none, and some that are too long."""
    line = f"GET /{crowd.words} HTTP/1.1\r\nHost: a\r\n".encode()
    for raw in (
        line + b"%b: %b\r\n\r\n" % (crowd.words.encode(), b"h" * 33_000),
        line + b"a: b\r\n" * 200 + b"\r\n",
        crowd.words.encode() + b" HTTP/9.9\r\n\r\n",
        line + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
    ):
        await crowd.say(raw)


async def trailers(crowd: Crowd) -> None:
    """Send chunks whose extensions and trailers do not end."""
    head, _, body = crowd.call("fine").partition(b"\r\n\r\n")
    head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    start = head + b"\r\n\r\n%x" % len(body)
    words = crowd.words.encode()
    for raw in (
        start + b"\r\n" + body + b"\r\n0\r\n" + b"x: %b\r\n" % (words * 20) * 200 + b"\r\n",
        start + b";" + words * 4000,
        start + b"\r\n" + body + b"\r\nzz\r\n",
    ):
        await crowd.say(raw)


async def half_bodies(crowd: Crowd) -> None:
    """Announce a body, send a half, and leave."""
    raw = crowd.call("fine", pad=BIG)
    await crowd.say(raw[: len(raw) // 2], leaves=True)
    await crowd.say(crowd.call("fine") + b"x" * 10)


async def wrong_keys(crowd: Crowd) -> None:
    """Guess, each time from another address: one that goes on is told to wait, and is not read."""
    number = next(ADDRESSES)
    address = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
    for key in (STRANGER, STRANGER[:-1] + "\u00e9", STRANGER * 20):
        raw = post(CHAT, crowd.body("fine", stream=False, pad=0), key=key)
        await crowd.say(raw, address=address)


def answered(*models: str, stream: bool = False, pad: int = 0) -> Once:
    """Return a crowd that asks models which an upstream answers as it should not."""
    turn = itertools.cycle(models)

    async def once(crowd: Crowd) -> None:
        await crowd.say(crowd.call(next(turn), stream=stream, pad=pad))

    return once


ROWS: Final[dict[str, Once]] = {
    "pipelining": pipeline,
    "heads": heads,
    "trailers": trailers,
    "half-bodies": half_bodies,
    "wrong-keys": wrong_keys,
    "early-answers": answered("early", pad=BIG),
    "upstream-trailers": answered("trailers"),
    "upstream-extensions": answered("extensions", stream=True),
    "garbled": answered("garbled", "long-head", "fine"),
    "garbled-streams": answered("garbled-chunk", "streamed", stream=True),
    "echoed-secrets": answered("echo-400", "echo-500", "fine"),
    "echoed-in-streams": answered("echo-event", "streamed", stream=True),
    "cut-streams": answered("cut", "streamed", stream=True),
    "dead-addresses": answered("half-dead", "fine"),
}
DOES: Final = {"pipelining": BURST, "heads": 4, "trailers": 3, "half-bodies": 2, "wrong-keys": 3}
"""How many things are done at once."""
STATUSES: Final = {
    "pipelining": {"404"},
    "heads": {"400", "431"},
    "trailers": {"400", "431"},
    "half-bodies": {"200", "400"},
    "wrong-keys": {"401"},
    "early-answers": {"413", "400"},
    "upstream-trailers": {"200"},
    "upstream-extensions": {"200", "502", "503"},
    "garbled": {"200", "502", "503"},
    "garbled-streams": {"200", "502", "503"},
    "echoed-secrets": {"200", "400", "500", "502", "503"},
    "echoed-in-streams": {"200", "502", "503"},
    "cut-streams": {"200", "502", "503"},
    "dead-addresses": {"200"},
    "payer": {"200"},
}


async def repeat(crowd: Crowd, count: int) -> None:
    """Do one thing so often, some at once."""
    left = iter(range(-(-count // DOES.get(crowd.name, 1))))

    async def one() -> None:
        for _ in left:
            await ROWS[crowd.name](crowd)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(one())


# --- what is left of it ---------------------------------------------------------------------------


async def held(relay: RelayProcess) -> dict[str, tuple[int, int, int]]:
    """Return slot -> memory, descriptors and tasks of its worker, when all is quiet."""

    def quiet() -> bool:
        found = [said.gauges for _, said in relay.workers().values()]
        return all(said["inflight"] == 0 and said["connections"] <= 1 for said in found)

    await relay.figures_published()
    await until(quiet, "nothing is under way any more")
    await asyncio.sleep(4.0)  # idle connections to upstreams, which are kept for a second here
    await relay.figures_published()
    return {
        slot: (
            int(said.gauges["resident_memory_bytes"]),
            len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - names, not paths
            int(said.gauges["tasks"]),
        )
        for slot, (pid, said) in sorted(relay.workers().items())
    }


@contextlib.asynccontextmanager
async def besieged(folder: Path, asked: Counter[bytes]) -> AsyncIterator[tuple[RelayProcess, str]]:
    """Run a relay before the hostile upstream; yield it, and a customer's key."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HostileUpstream(asked), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    environ = {"RELAY_TIMEOUTS__POOL_IDLE_S": "1"}
    models = [model.decode() for model in FAULTS]
    catalog = CATALOG.format(port=port, models=", ".join(f'"{model}"' for model in models))
    prices = "".join(PRICE.format(model=model) for model in [*models, "half-dead"])
    try:
        async with RelayProcess.start(folder / f"soak-{RUN}", environ=environ) as relay:
            await relay.apply(catalog + prices, environ={"FOE_KEY": CREDENTIAL})
            yield relay, await relay.make_key(PLANTED)
    finally:
        server.close()


async def pays(relay: RelayProcess, key: str, enough: asyncio.Event) -> Counter[int]:
    """Make good calls beside them all; return what they were answered with."""
    crowd, count = Crowd("payer", relay, key), Counter[int]()
    while not enough.is_set():
        await crowd.say(crowd.call("fine"))
        await asyncio.sleep(0.05)
    for status, times in crowd.statuses.items():
        count[int(status)] += times
    sys.stdout.write(f"the payer was told {crowd.unexpected}\n")
    return count


async def test_what_is_done_ten_thousand_times_leaves_nothing(reachable: Path) -> None:
    asked, begun_s = Counter[bytes](), time.monotonic()
    async with besieged(reachable, asked) as (relay, key):
        pids = {slot: pid for slot, (pid, _) in relay.workers().items()}
        crowds = [Crowd(name, relay, key) for name in ROWS]
        enough = asyncio.Event()
        payer = asyncio.create_task(pays(relay, key, enough))
        states, done = [], 0
        for share in SHARES:
            count = int(CALLS * share) - done
            for crowd in crowds:
                row_s = time.monotonic()
                await repeat(crowd, count)
                tell(relay, crowd, time.monotonic() - row_s)
            done += count
            states.append(await held(relay))
            sys.stdout.write(f"after {done} of each: {states[-1]}\n")
        enough.set()
        served = await payer
        sys.stdout.write(f"paying client {dict(served)}, asked upstream {dict(asked)}\n")
        assert {slot: pid for slot, (pid, _) in relay.workers().items()} == pids
        for slot, (memory_bytes, files, tasks) in states[-1].items():
            assert memory_bytes - states[-2][slot][0] < GROWTH_BYTES_MAX
            assert files - states[0][slot][1] < FILES_MORE_MAX
            assert tasks - states[0][slot][2] < TASKS_MORE_MAX
        for crowd in crowds:
            assert set(crowd.statuses) <= STATUSES[crowd.name], crowd.unexpected
        assert set(served) == {200}
        check_log(relay, (time.monotonic() - begun_s) / 60)
        await check_traces(relay, key)


def tell(relay: RelayProcess, crowd: Crowd, took_s: float) -> None:
    """Say how it went."""
    memory = [
        int(said.gauges["resident_memory_bytes"]) >> 20 for _, said in relay.workers().values()
    ]
    sys.stdout.write(
        f"{crowd.name}: {took_s:.0f} s, {dict(crowd.statuses)}, {memory} MiB {crowd.unexpected}\n"
    )
    sys.stdout.flush()


def check_log(relay: RelayProcess, minutes: float) -> None:
    """See that the log tells little of them, and of no bug of ours."""
    lines = relay.words.read_text().splitlines()
    sys.stdout.write(f"{len(lines)} lines of log in {minutes:.1f} minutes\n")
    assert not [line for line in lines if "unexpected failure" in line]
    assert len(lines) < LINES_MAX + LINES_A_MINUTE_MAX * minutes


async def check_traces(relay: RelayProcess, key: str) -> None:
    """See that no prompt and no key stays anywhere, and that the search finds what does."""
    places = await all_places(relay)
    for secret in (f"prompt-{RUN}", CREDENTIAL, STRANGER[:-1], key):
        assert traces(secret, places) == set(), secret[:8]
    planted = traces(PLANTED, places)
    assert ("table keys", "plain") in planted
    assert any(place.startswith("pg") or "/base/" in place for place, _ in planted)
