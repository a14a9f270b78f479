"""What a relay is compared with: an upstream, and a way to it that only passes bytes on.

    python -m tests.live.plain_way upstream       answers every call at once
    python -m tests.live.plain_way forward PORT   connects each client to that port

Each is a process of its own, as a relay and its upstream are; it tells its port on stdout, and goes
when its stdin ends. A client waits for the same four wake-ups on either way. By how much this one
becomes slower beside something is the machine's doing.
"""

import asyncio
import contextlib
import os
import sys

import uvloop

from tests.live.flood import Upstream


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on in one direction until they end."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
    writer.close()


async def main(kind: str, port: int) -> None:
    """Serve until stdin ends."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    loop = asyncio.get_running_loop()
    if kind == "upstream":
        server = await loop.create_server(lambda: Upstream(10, 5), "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(forward, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)  # whoever is connected still is of no interest


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0))
