"""Goal: more clients than descriptors cost nobody who is served, no channel, and no worker.

Method: a real relay whose processes may open 1,024 files, and 1,400 clients with a stream each.
"""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.flow.rig import DONE, FINISH, SSE_HEAD, chunked, event, post
from tests.live.relay_process import RelayProcess, ask, question, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

FILES: Final = 1024
CLIENTS: Final = 1400
ALLOWED: Final = 480
"""(1,024 - 64) / 2, of each of two workers."""
CATALOG: Final = """
[[channel]]
name = "steady"
base_url = "http://127.0.0.1:{port}/v1"
models = ["steady"]
[[line]]
name = "town"
channels = ["steady"]
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "steady"
input = "0"
output = "0"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


class Upstream:
    """Begins a stream for each call, and goes on when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.begun = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=CLIENTS)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(SSE_HEAD + chunked(event("hello")))
            self.begun += 1
            await self.go_on.wait()
            writer.write(chunked(event("again")) + chunked(FINISH + DONE) + b"0\r\n\r\n")
            await writer.drain()
        writer.close()


async def stream(relay: RelayProcess, key: str, told: Counter[str]) -> None:
    """Ask for one stream, and note how it began and how it ended."""
    host, port = relay.address.split(":")
    writer = None
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(post("/v1/chat/completions", question(stream=True), key=key))
        head = await reader.readuntil(b"\r\n\r\n")
        told["begun"] += head.startswith(b"HTTP/1.1 200 ")
        rest = await reader.read()
        told["whole" if b"again" in rest and b"[DONE]" in rest else head[9:12].decode()] += 1
    except (ConnectionError, asyncio.IncompleteReadError):
        told["turned away"] += 1
    finally:
        if writer is not None:
            writer.close()


async def test_more_clients_than_descriptors_wait_and_are_served(reachable: Path) -> None:
    upstream, told = Upstream(), Counter[str]()
    async with (
        upstream.serving() as port,
        RelayProcess.start(reachable / "few-files", files=FILES) as relay,
    ):
        await relay.apply(CATALOG.format(port=port))
        key = await relay.make_key("many")
        pids = {slot: pid for slot, (pid, _) in relay.workers().items()}
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CLIENTS):
                tasks.create_task(stream(relay, key, told))
            await until(
                lambda: told["begun"] + told["503"] >= 2 * ALLOWED * 0.98, "all that fit begin"
            )
            await relay.figures_published()
            figures = [said.gauges for _, said in relay.workers().values()]
            assert all(said["connections"] <= ALLOWED for said in figures)
            assert {slot: pid for slot, (pid, _) in relay.workers().items()} == pids
            upstream.go_on.set()
        assert {slot: pid for slot, (pid, _) in relay.workers().items()} == pids
        assert told["begun"] == told["whole"], told
        assert told["whole"] + told["turned away"] + told["503"] == CLIENTS
        assert told["whole"] > 2 * ALLOWED * 0.95, told
        assert (await ask(relay, key, question(stream=True))).status == 200

        async def is_well() -> bool:
            return 'relay_channel_state{channel="steady",model="*"} 0.0' in await relay.metrics()

        await until_told(is_well, "the channel is told to be well")
        said = [
            json.loads(line) for line in relay.words.read_text().splitlines() if line[:1] == "{"
        ]
        assert [line["count"] for line in said if "limit of open files" in line["event"]] == [
            ALLOWED,
            ALLOWED,
        ]
