"""Goal: whatever process is killed at whatever moment, the books are exact and no call is lost.

Method: crash_rig. A seed decides what is killed and when; it is printed, and RELAY_CRASH_SEED sets
it. One relay life goes through all crashes of a test, and everything is checked after each.
"""

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.live.crash_rig import Mine

pytestmark = pytest.mark.live

CRASHES = 20
SLOW_SEEDS = range(1, 11)
"""Ten times twenty crashes: the 200 of `make faults`."""


async def crash_again_and_again(folder: Path, seed: int, crashes: int) -> None:
    """Go through so many crashes; say the seed and what came of it."""
    dice = random.Random(seed)
    begun_s = time.monotonic()
    async with Mine(folder) as mine:
        for number in range(crashes):
            victim = "nothing yet"
            try:
                victim = await mine.crash(dice)
                await mine.check()
            except BaseException:
                print(f"seed {seed}, crash {number + 1} ({victim})")  # noqa: T201
                raise
        took_s = time.monotonic() - begun_s
        print(  # noqa: T201
            f"seed {seed}: {crashes} crashes in {took_s:.0f} s, killed {dict(mine.killed)}, "
            f"statuses {dict(Counter(call.status for call in mine.calls))} (0 = not connected), "
            f"rows {dict(mine.outcomes)}, drift 0"
        )


@pytest.mark.timeout(240)
async def test_the_books_survive_any_crash(reachable: Path) -> None:
    seed = int(os.environ.get("RELAY_CRASH_SEED", "20261124"))
    await crash_again_and_again(reachable / "mine", seed, CRASHES)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SLOW_SEEDS)
async def test_the_books_survive_two_hundred_crashes(reachable: Path, seed: int) -> None:
    await crash_again_and_again(reachable / f"mine-{seed}", seed, CRASHES)
