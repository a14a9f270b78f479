"""Goal: a worker that hangs delays new calls for seconds only; clients that take nothing are cut.

Method: a whole relay; one of its two workers is stopped, new connections go on. Then streams are
asked for over sockets with the smallest buffers, and never read.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.live.relay_process import RELAY, RelayProcess, ask, question, until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(120)]

FOUND_S = 6.0
"""Silent for 2.5 s, looked for each second, a spare one told to serve; room for a busy machine."""
WRITE_S = 3.0
STREAMS = 4
CHUNKS, BYTES = 16_000, 64_000_000
"""4 KB every 2 ms: more than any kernel buffers, within seconds."""
CATALOG = """
[[channel]]
name = "loud"
base_url = "{upstream}"
models = ["loud"]
[[line]]
name = "loud"
channels = ["loud"]
[[group]]
name = "folk"
lines = ["loud"]
[[price]]
model = "loud"
input = "0.1"
output = "0.1"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


@pytest.fixture
async def own_relay(reachable: Path) -> AsyncIterator[RelayProcess]:
    environ = {
        "RELAY_TIMEOUTS__WRITE_S": str(WRITE_S),
        "RELAY_TIMEOUTS__KEEPALIVE_COMMENT_S": "0.5",
    }
    async with RelayProcess.start(reachable / "overrun", environ=environ) as relay:
        yield relay


async def test_calls_of_a_worker_that_hangs_are_answered_by_the_next(
    own_relay: RelayProcess,
) -> None:
    pid, _ = own_relay.workers()["worker-0"]
    os.kill(pid, signal.SIGSTOP)
    took_s = []
    try:
        began_s = time.monotonic()
        while time.monotonic() < began_s + 2 * FOUND_S:
            at_s = time.monotonic()
            answers = await asyncio.gather(
                *(ask(own_relay, own_relay.key, question("demo-model")) for _ in range(4))
            )
            took_s.append(time.monotonic() - at_s)
            assert {answer.status for answer in answers} == {200}
    finally:
        with contextlib.suppress(ProcessLookupError):  # killed as stuck, after ten seconds
            os.kill(pid, signal.SIGCONT)
    assert max(took_s) < FOUND_S, sorted(took_s)[-3:]
    assert sum(one > 1.0 for one in took_s) <= 3  # found out once, and then over


@contextlib.contextmanager
def loud_upstream() -> Iterator[str]:
    """Base URL of an upstream that says very much."""
    command = [RELAY, "mock", "--port", "0", "--chunks", str(CHUNKS), "--interval-ms", "2"]
    command += ["--body-bytes", str(BYTES)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"listens on (\S+)", process.stderr.readline())
        assert found is not None
        yield found[1]
        process.terminate()


def open_unread_stream(relay: RelayProcess, key: str) -> socket.socket:
    """Ask for a long stream over a socket that takes next to nothing."""
    host, _, port = relay.address.rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect((host, int(port)))
    body = json.dumps(question("loud", stream=True, max_tokens=CHUNKS)).encode()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: relay\r\nContent-Type: application/json\r\n"
        + f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return sock


async def test_clients_that_take_nothing_are_cut_though_we_have_comments_for_them(
    own_relay: RelayProcess,
) -> None:
    with loud_upstream() as upstream:
        await own_relay.apply(CATALOG.format(upstream=upstream))
        key = await own_relay.make_key("unread")
        socks = [open_unread_stream(own_relay, key) for _ in range(STREAMS)]
        try:
            await until(
                lambda: sum(own_relay.in_flight().values()) == STREAMS, "all streams are under way"
            )
            await until(lambda: sum(own_relay.in_flight().values()) == 0, "all are cut", 40.0)
        finally:
            for sock in socks:
                sock.close()
        rows = await own_relay.rows("unread", STREAMS)
        assert {row["reason"] for row in rows} == {"client_gone"}
        assert all(row["output_tokens"] > 0 for row in rows)
