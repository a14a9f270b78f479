"""A worker process that takes permits and holds them until it is killed.

Goal: a test can kill it. Method: URL and number of permits in, one line out once it sits.
"""

import asyncio
import sys

import uvloop

from relay.limits.limit_set import Grant
from tests.live.limit_rig import concurrency, limit_set_of, limiter_on


async def hold(url: str, permits: int) -> None:
    """Sit on all permits of a concurrency limit, and say so."""
    async with limiter_on(url) as limiter:
        limit_set, costs = limit_set_of([], (concurrency(permits),))
        grants = [await limiter.wait(limit_set, costs) for _ in range(permits)]
        assert all(isinstance(grant, Grant) for grant in grants)
        sys.stdout.write("sits\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1], int(sys.argv[2])))
