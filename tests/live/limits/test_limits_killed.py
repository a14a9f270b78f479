"""Goal: permits of a worker that was killed are free within 15 s; those of one that left, at once.

Method: a process that holds all permits of a limit on a real server, and one that asks for them.
"""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from relay.limits.limit_set import Grant
from relay.limits.permits import TTL_MS
from tests.live.limit_rig import concurrency, limit_set_of, limiter_on, until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(60)]

ROOT = Path(__file__).parents[3]
SEATS = 4


async def test_killed(redis_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.live.seat_holder", redis_url, str(SEATS)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"sits\n"
        limit_set, costs = limit_set_of([], (concurrency(SEATS),))
        async with limiter_on(redis_url) as limiter:
            assert not isinstance(await limiter.wait(limit_set, costs), Grant)
            process.kill()
            killed_s = time.monotonic()
            while not isinstance(await limiter.wait(limit_set, costs), Grant):
                await asyncio.sleep(0.1)
            assert time.monotonic() - killed_s <= TTL_MS / 1_000 + 0.5
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_left(redis_url: str) -> None:
    limit_set, costs = limit_set_of([], (concurrency(SEATS),))
    async with limiter_on(redis_url) as other:
        async with limiter_on(redis_url) as leaving:
            for _ in range(SEATS):
                assert isinstance(await leaving.wait(limit_set, costs), Grant)
        await until(lambda: not leaving._banks[0]._connection)
        assert isinstance(await other.wait(limit_set, costs), Grant)
