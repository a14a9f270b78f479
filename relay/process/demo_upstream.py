"""The demonstration's scripted upstream, as a child of the supervisor."""

import asyncio
import signal
from typing import Final

import uvloop

from relay.mock.options import MockOptions
from relay.mock.server import start
from relay.process.demo import MODEL
from relay.process.lifeline import Lifeline
from relay.tasks import first_of

HOST: Final = "127.0.0.1"
CHUNKS: Final = 40
INTERVAL_MS: Final = 40.0
TTFT_MS: Final = 200.0
"""About as fast as a hosted model, so that the stream is seen to be one."""


def run_demo_upstream(lifeline: Lifeline, port: int) -> None:
    """Answer on 127.0.0.1:`port` until SIGTERM or until the supervisor is gone.

    Raises:
        Unavailable: RELAY; the supervisor went before this process had started.
    """
    settings, _ = lifeline.receive_settings()
    options = MockOptions(
        name=settings.name, models=(MODEL,), chunks=CHUNKS, interval_ms=INTERVAL_MS, ttft_ms=TTFT_MS
    )
    uvloop.run(_serve(lifeline, options, port))


async def _serve(lifeline: Lifeline, options: MockOptions, port: int) -> None:
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    server = await start(options, HOST, port)
    lifeline.tell_ready()
    await first_of(asked.wait(), lifeline.beat_until_alone())
    await server.close()
