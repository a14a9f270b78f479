"""A scripted upstream for long streams that cost little: an event each fifth of a second."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from tests.live.relay_process import RELAY


@contextlib.asynccontextmanager
async def slow_upstream(interval_ms: int = 200, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Run it; yield its base URL."""
    process = await asyncio.create_subprocess_exec(
        RELAY,
        *(
            "mock",
            "--host",
            host,
            "--port",
            "0",
            "--chunks",
            "2000",
            "--interval-ms",
            str(interval_ms),
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        found = re.search(r"listens on (\S+)", (await process.stderr.readline()).decode())
        assert found is not None
        yield found[1]
    finally:
        process.terminate()
        await process.wait()
