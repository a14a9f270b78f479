"""Goal: a newcomer's first minutes, and every way a relay can end: nothing is lost or left behind.

Method: `relay serve --demo` is started again and again on one data dir, and its printed curl run
as it stands; it is stopped once, twice, and with kill -9, each time in the middle of streams. The
demonstration's answers take two seconds.
"""

import asyncio
import os
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.live.relay_process import (
    PATIENCE_S,
    RelayProcess,
    all_gone,
    ask,
    family,
    left_of,
    question,
    streaming,
    until,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

STREAMS = 10
QUESTION = question("demo-model", max_tokens=40)
STAND_IN = Path(__file__).parents[1] / "curl_stand_in.py"
CURLS = ["stand-in", "curl"] if shutil.which("curl") else ["stand-in"]


@pytest.fixture(scope="module")
def data_dir(reachable: Path) -> Path:
    """The data dir of all relays of this file, one after the other."""
    return reachable / "demo"


def path_with(curl: str, folder: Path) -> str:
    """Return a PATH on which `curl` is the real one or our stand-in."""
    if curl == "stand-in":
        program = folder / "curl"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
        program.chmod(stat.S_IRWXU)
    return f"{folder}:{os.environ['PATH']}"


async def paste(command: str, path: str) -> list[tuple[float, bytes]]:
    """Run a command in a shell; return its lines of output, each with when it came."""
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-c", command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PATH": path},
    )
    assert shell.stdout is not None
    lines = [(time.monotonic(), line) async for line in shell.stdout]
    assert await shell.wait() == 0
    return [(at_s, line.rstrip(b"\n")) for at_s, line in lines if line != b"\n"]


def check_pasted(lines: list[tuple[float, bytes]]) -> None:
    """See that tokens came one after the other, and then the end."""
    events = [event for _, event in lines]
    assert all(event.startswith(b"data: {") for event in events[:-1])
    assert events[-1] == b"data: [DONE]"
    assert len(events) > 40
    assert lines[-1][0] - lines[0][0] > 1


async def test_the_printed_curl_streams_and_sigterm_lets_streams_finish(
    data_dir: Path, tmp_path: Path
) -> None:
    async with RelayProcess.start(data_dir) as relay:
        for curl in CURLS:
            check_pasted(await paste(relay.curl, path_with(curl, tmp_path)))
        assert relay.complaints() == []
        async with streaming(relay, relay.key, STREAMS, QUESTION) as streams:
            members = family(relay.process.pid)
            connected = [connect(relay) for _ in range(STREAMS)]
            relay.process.send_signal(signal.SIGTERM)
            await until(lambda: is_refused(relay), "the port closes")
            greeted = [greet(client) for client in connected]
            assert not any(stream.ended_s for stream in streams), "it closed at once"
        assert all(stream.whole for stream in streams)
        assert await relay.exited() == 0
        assert left_of(members) == set()
        assert {"postgres", "valkey-server"} <= {member.program for member in members}
    # Who had connected could not know of the end: the first request may have been on its way.
    assert greeted == [b"HTTP/1.1 200 OK"] * STREAMS


def is_refused(relay: RelayProcess) -> bool:
    """Return whether nobody takes connections any more."""
    try:
        connect(relay).close()
    except ConnectionRefusedError:
        return True
    return False


def connect(relay: RelayProcess) -> socket.socket:
    host, port = relay.address.split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def greet(client: socket.socket) -> bytes:
    """Send a request on a connection and return the first line of its answer; b"" = none came."""
    with client:
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: relay\r\n\r\n")
        return client.recv(4096).partition(b"\r\n")[0]


async def test_a_second_sigterm_ends_streams_with_an_error_event(data_dir: Path) -> None:
    async with RelayProcess.start(data_dir) as relay:
        async with streaming(relay, relay.key, STREAMS, QUESTION) as streams:
            members = family(relay.process.pid)
            relay.process.send_signal(signal.SIGTERM)
            await until(lambda: is_refused(relay), "the port closes")
            relay.process.send_signal(signal.SIGTERM)
        for stream in streams:
            assert not stream.broken
            assert stream.error is not None, stream.events[-1]
            assert stream.error["code"] == "service_unavailable"
        assert await relay.exited() == 0
        assert left_of(members) == set()


async def test_nothing_outlives_a_killed_supervisor_and_the_next_start_loses_no_call(
    data_dir: Path, tmp_path: Path
) -> None:
    async with RelayProcess.start(data_dir) as relay:
        key = await relay.make_key("last", account="demo")
        made = {(await ask(relay, key, QUESTION)).request_id for _ in range(3)}
        async with streaming(relay, key, STREAMS, QUESTION) as streams:
            members = family(relay.process.pid)
            relay.process.kill()
            killed_s = time.monotonic()
            await all_gone(members, 5)
        for stream in streams:
            assert stream.ended_s < killed_s + 3
            assert stream.error is not None, "its worker was told, and could tell"
    cut = {stream.request_id for stream in streams}
    left = journals(data_dir)
    assert len(left) == 2
    async with RelayProcess.start(data_dir, address=relay.address, admin=relay.admin) as second:
        assert second.curl == relay.curl
        check_pasted(await paste(second.curl, path_with(CURLS[-1], tmp_path)))
        assert (await ask(second, key, QUESTION)).status == 200
        await until(lambda: not left & journals(data_dir), "the old journals are shipped")
        rows = await second.rows("last", len(made) + len(cut) + 1)
    reasons = {row["request_id"]: row["reason"] for row in rows}
    assert len(rows) == len(reasons) == len(made) + len(cut) + 1
    assert {reasons[at] for at in made} == {"completed"}
    assert {reasons[at] for at in cut} <= {"shut_down", "truncated"}


def journals(data_dir: Path) -> set[str]:
    """Return the names of the folders that workers write their calls to, one for each life."""
    return {folder.name for folder in (data_dir / "journal").glob("worker-*")}
