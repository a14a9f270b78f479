"""One worker process that offers calls to a line at a steady pace, and prints what it admitted.

Goal: real processes share a real server. Method: arguments in, one line of JSON out.
"""

import asyncio
import json
import random
import sys
import time

import uvloop

from relay.limits.bucket import Rule
from relay.limits.limit_set import Grant, LimitSet
from relay.limits.scopes import LINE_BURST_MS, Bucket, Limit, Measure, Scope
from relay.store.limits.limiter import Limiter
from relay.store.limits.nodes import one_node

CALL_TOKENS = 1_000


async def offer(
    url: str, number: int, per_s: int, calls_per_s: float, start_s: float, s: float
) -> None:
    """Offer calls from a time of the machine's clock on; print counts and tokens by second."""
    rule = Rule(per_s * 60, LINE_BURST_MS)
    line = Bucket("relay:{l:1}:tpm", "{l:1}", Scope.LINE, Measure.TOKENS, rule)
    limit_set = LimitSet((Limit((line,), None),))
    costs = [CALL_TOKENS]
    dice = random.Random(number)
    seconds = [0] * (int(s) + 1)
    counts = {"calls": 0, "refused": 0, "late": 0}
    waiting = set()

    async def locate() -> str:
        return url

    def note(*, admitted: bool) -> None:
        if admitted:
            seconds[min(int(time.monotonic() - start_s), int(s))] += CALL_TOKENS
        else:
            counts["refused"] += 1

    async def wait() -> None:
        began_s = time.monotonic()
        note(admitted=isinstance(await limiter.wait(limit_set, costs), Grant))
        counts["late"] += time.monotonic() - began_s > 0.005

    async with Limiter(one_node(locate), f"w{number}", lambda: time.monotonic() * 1_000) as limiter:
        await asyncio.sleep(max(0.0, start_s - time.monotonic()))
        due_s = start_s
        while (now_s := time.monotonic()) < start_s + s:
            while due_s <= now_s:
                due_s += dice.expovariate(calls_per_s)
                counts["calls"] += 1
                decision = limiter.admit(limit_set, costs)
                if decision is None:
                    task = asyncio.create_task(wait())
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)
                else:
                    note(admitted=isinstance(decision, Grant))
            await asyncio.sleep(0.001)
        await asyncio.gather(*waiting)
        told = {
            "seconds": seconds,
            "batches": limiter.batches,
            "alone_ms": limiter.fallback_ms,
            **counts,
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    given = sys.argv
    numbers = int(given[2]), int(given[3]), float(given[4]), float(given[5]), float(given[6])
    uvloop.run(offer(given[1], *numbers))
