"""Goal: four real workers on one real server admit the line's rate and burst, and no more.

Method: processes with skewed loads offer calls; what all of them admitted is added up.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from relay.limits.scopes import LINE_BURST_MS
from tests.live.limit_rig import own_server

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[3]
PER_S = 500_000
CALL_TOKENS = 1_000
SKEW = (0.5, 0.25, 0.15, 0.1)


async def run_workers(url: str, load: float, seconds: float) -> list[dict[str, Any]]:
    start_s = time.monotonic() + 1.5

    async def worker(number: int, part: float) -> dict[str, Any]:
        rate = load * part * PER_S / CALL_TOKENS
        numbers = (number, PER_S, rate, start_s, seconds)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.live.limit_worker",
            url,
            *map(str, numbers),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        found: dict[str, Any] = json.loads(told)
        return found

    return await asyncio.gather(*(worker(n, part) for n, part in enumerate(SKEW)))


@pytest.mark.parametrize(("load", "seconds"), [(0.9, 15.0), (2.5, 15.0)])
async def test_four_workers_hold_a_line(reachable: Path, load: float, seconds: float) -> None:
    async with own_server(reachable) as server:
        told = await run_workers(server.url, load, seconds)
    total = {word: sum(worker[word] for worker in told) for word in told[0] if word != "seconds"}
    admitted = sum(sum(worker["seconds"]) for worker in told)
    # A worker that gets no CPU for 50 ms takes its Redis for lost, and lives on its share a while.
    alone_s = total["alone_ms"] / 1_000
    bound = PER_S * (seconds + LINE_BURST_MS / 1_000)
    assert admitted <= bound * 1.01 + PER_S * alone_s, total
    if load < 1:
        assert total["refused"] == 0 or alone_s > 0, total
    else:
        # 0.99 on a quiet machine; workers that get no CPU offer late and in clumps.
        assert admitted >= bound * 0.85, total
        assert total["batches"] <= 0.1 * total["calls"], total


TRIES = 3


async def test_four_workers_use_all_of_a_line(reachable: Path) -> None:
    """Within 1 % of the bound: rate and burst. A busy machine gets more than one try."""
    seconds, best = 15.0, 0.0
    bound = PER_S * (seconds + LINE_BURST_MS / 1_000)
    for _ in range(TRIES):
        async with own_server(reachable) as server:
            told = await run_workers(server.url, 2.5, seconds)
        admitted = sum(sum(worker["seconds"]) for worker in told)
        alone_s = sum(worker["alone_ms"] for worker in told) / 1_000
        assert admitted <= bound * 1.01 + PER_S * alone_s
        best = max(best, admitted / bound)
        if best >= 0.99:
            break
    assert best >= 0.99, f"{best:.4f} of the bound at best"
