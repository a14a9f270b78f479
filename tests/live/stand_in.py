"""A worker with nothing to serve but its pid: what the supervisor's tests run instead of one.

It speaks HTTP/1.0 on the inherited socket. GET /slow sends its head at once and the rest a second
later, GET /hold never the rest; GET /stuck blocks the loop for good. On SIGTERM it stops accepting
and finishes what it has; on a second one it drops it.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import uvloop

from relay.process.lifeline import Lifeline, Settings
from relay.tasks import first_of


async def serve(lifeline: Lifeline, settings: Settings, listener: socket.socket) -> None:
    running: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path == b"/stuck":
            threading.Event().wait()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        if path == b"/slow":
            await asyncio.sleep(1)
        if path == b"/hold":
            await asyncio.Event().wait()
        writer.write(
            f"{settings.name} {os.getpid()} {settings.config.timeouts.total_s:.0f}".encode()
        )
        await writer.drain()
        writer.close()
        running.discard(task)

    server = await asyncio.start_server(answer, sock=listener)
    stopped, hurried = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (hurried if stopped.is_set() else stopped).set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    lifeline.tell_ready()
    alone = asyncio.create_task(lifeline.beat_until_alone())
    await first_of(alone, stopped.wait())
    server.close()
    await first_of(alone, hurried.wait(), asyncio.gather(*running))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lifeline", type=int, required=True)
    chosen = parser.parse_args()
    lifeline = Lifeline(chosen.lifeline)
    settings, listener = lifeline.receive_settings()
    assert listener is not None
    for name, code in (("refuse", 78), ("broken", 1)):
        if Path(settings.data_dir, name).exists():
            sys.exit(code)
    # As the real one: asyncio's own loop forgets a connection accepted just before close().
    uvloop.run(serve(lifeline, settings, listener))


if __name__ == "__main__":
    main()
