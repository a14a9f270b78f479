"""Goal: a worker's death costs its own streams only, and no worker has anything written in Rust.

Method: workers of a real relay under the load of many streams; one is killed with kill -9.
"""

import asyncio
import importlib.util
import os
import signal
import time
from pathlib import Path

import pytest

from tests.live.relay_process import (
    RUN_OF_ANSWERS,
    Answer,
    RelayProcess,
    ask,
    question,
    streaming,
    until,
    until_told,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

STREAMS = 24
CALLERS = 4
RUST_MARKS = (b"/rustc/", b"rustc version", b"rust_eh_personality", b"rust_begin_unwind")
"""What rustc leaves in what it makes: source paths, its version note, runtime symbols."""


async def spread(relay: RelayProcess, count: int) -> dict[str, int]:
    """Return slot -> streams, once the workers have published that they have `count`."""
    return await until(
        lambda: found if sum((found := relay.in_flight()).values()) == count else {},
        f"{count} streams are under way",
    )


async def test_a_killed_worker_takes_only_its_own_streams_with_it(relay: RelayProcess) -> None:
    key = await relay.make_key("killed")
    async with streaming(relay, key, STREAMS, question(max_tokens=200)) as streams:
        had = await spread(relay, STREAMS)
        assert min(had.values()) > 0
        pid = relay.workers()["worker-0"][0]
        os.kill(pid, signal.SIGKILL)
        killed_s = time.monotonic()
        # So many that some queue on the socket of the dead: they wait for its successor.
        answers = await asyncio.gather(*(ask(relay, key) for _ in range(RUN_OF_ANSWERS)))
        assert max(answer.at_s for answer in answers) < killed_s + 1
        while calls_of_successor(relay, pid) == 0:
            answers.append(await ask(relay, key))
            await relay.figures_published()
    assert {answer.status for answer in answers} == {200}

    broken = {stream.request_id for stream in streams if stream.broken}
    assert len(broken) == had["worker-0"]
    assert all(stream.whole for stream in streams if not stream.broken)

    count = STREAMS + len(answers)
    rows = {row["request_id"]: row for row in await relay.rows("killed", count)}
    assert len(rows) == count
    assert {at for at, row in rows.items() if row["reason"] == "interrupted"} == broken
    assert {row["reason"] for row in rows.values()} == {"interrupted", "completed"}
    assert {rows[at]["cost_usd"] for at in broken} == {"0"}


def calls_of_successor(relay: RelayProcess, pid: int) -> int:
    """Return how many calls the worker has answered that took the place of `pid`."""
    now, figures = relay.workers().get("worker-0", (pid, None))
    return 0 if now == pid or figures is None else sum(figures.counters["requests"].values())


async def test_a_roll_of_all_workers_is_noticed_by_nobody(relay: RelayProcess) -> None:
    key = await relay.make_key("rolled")
    answers: list[Answer] = []
    async with streaming(relay, key, STREAMS, question(max_tokens=150)) as streams:
        before = relay.workers()
        relay.process.send_signal(signal.SIGHUP)
        while any(relay.workers().get(slot, was)[0] == was[0] for slot, was in before.items()):
            answers += await asyncio.gather(*(ask(relay, key) for _ in range(CALLERS)))
    assert {answer.status for answer in answers} == {200}
    assert all(stream.whole for stream in streams)
    count = STREAMS + len(answers)
    await until_told(lambda: logged(relay, "rolled", count), f"{count} calls are in the log")


async def logged(relay: RelayProcess, key_name: str, count: int) -> bool:
    """Return whether a key has so many calls in the log; more are one too many."""
    spans = (await relay.api(f"usage?by=day&key={key_name}"))["usage"]
    found = sum(span["requests"] for span in spans)
    assert found <= count
    return bool(found == count)


async def test_no_worker_maps_anything_written_in_rust(
    relay: RelayProcess, testimony: Path
) -> None:
    key = await relay.make_key("maps")
    async with streaming(relay, key, 8, question(max_tokens=100)):
        await asyncio.gather(*(ask(relay, key) for _ in range(RUN_OF_ANSWERS)))
        pids = [pid for pid, _ in relay.workers().values()]
        for pid in pids:
            os.kill(pid, signal.SIGUSR1)
        maps = [testimony / f"{pid}.maps" for pid in pids]
        await until(lambda: all(path.exists() for path in maps), "the workers testify")
    assert len(maps) == 2
    for path in maps:
        mapped = mapped_files(path.read_text())
        names = " ".join(map(str, mapped))
        assert all(part in names for part in ("libc.so", "uvloop", "msgspec", "httptools")), names
        assert {file.name for file in mapped if is_rust(file)} == set()


def mapped_files(maps: str) -> set[Path]:
    """Return the files in the text of a /proc/PID/maps.

    Source: proc(5): address perms offset dev inode pathname; the name may hold spaces.
    """
    names = {line.split(maxsplit=5)[5] for line in maps.splitlines() if len(line.split()) > 5}
    return {Path(name) for name in names if name.startswith("/") and Path(name).is_file()}


def is_rust(file: Path) -> bool:
    """Return whether rustc had a hand in it."""
    content = file.read_bytes()
    return any(mark in content for mark in RUST_MARKS)


def test_what_is_written_in_rust_is_recognised() -> None:
    """The control plane's orjson is; the data plane's msgspec is not."""
    for module, rust in (("orjson.orjson", True), ("msgspec._core", False)):
        found = importlib.util.find_spec(module)
        assert found is not None and found.origin is not None
        assert is_rust(Path(found.origin)) == rust
