"""A worker process that takes seats and holds them until it is killed.

Goal: a test can kill it. Method: URL and number of seats in, one line out once it sits.
"""

import asyncio
import sys

import uvloop

from relay.limits.scheme import Grant
from tests.live.limit_rig import limiter_on, room, scheme_of


async def hold(url: str, seats: int) -> None:
    """Sit on all seats of a room, and say so."""
    async with limiter_on(url) as limiter:
        scheme, costs = scheme_of([], (room(seats),))
        grants = [await limiter.wait(scheme, costs) for _ in range(seats)]
        assert all(isinstance(grant, Grant) for grant in grants)
        sys.stdout.write("sits\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1], int(sys.argv[2])))
