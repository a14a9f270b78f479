"""Goal: operators see what the workers see: used, leased, owed, asked for, and what binds.

Method: a limiter spends on a real server; the levels are read as commands read them.
"""

import asyncio

import pytest

from relay.limits.limit_set import Grant, LimitSet
from relay.limits.scopes import Scope, limit_of
from relay.model import Allowance
from relay.store.limits.levels import read_levels, show_level, show_occupancy, tightest
from relay.store.limits.nodes import Nodes, one_node
from tests.live.limit_rig import limiter_on

pytestmark = pytest.mark.live


def nodes_at(url: str) -> Nodes:
    async def locate() -> str:
        return url

    return one_node(locate)


async def test_what_is_used_and_what_binds(redis_url: str) -> None:
    wide = limit_of(Scope.LINE, 1, Allowance(tpm=600_000, concurrency=10))
    small = limit_of(Scope.KEY, 2, Allowance(tpm=6_000), part="key3")
    limit_set = LimitSet((wide, small))
    async with limiter_on(redis_url) as limiter:
        grant = await limiter.wait(limit_set, [3_000, 3_000])
        assert isinstance(grant, Grant)
        found = await read_levels(nodes_at(redis_url), [wide, small])
        assert found is not None
        levels, held = found
        rows = [*map(show_level, levels), *map(show_occupancy, held)]
        assert [row["scope"] for row in rows] == ["line", "key", "line"]
        assert 0 <= rows[0]["at_once"] - rows[0]["remaining"] <= 3_000
        assert 2_950 <= rows[1]["remaining"] <= 3_100 and rows[1]["debt"] == 0
        assert rows[2]["what"] == "concurrency" and rows[2]["load"] >= 1
        assert tightest(rows) == 1
        limiter.settle(grant, [3_000, 8_000])
        debt = 0
        async with asyncio.timeout(5):
            while not debt:  # it rides on the next batch
                found = await read_levels(nodes_at(redis_url), [small])
                assert found is not None
                debt = show_level(found[0][0])["debt"]
        assert 1_500 <= debt <= 2_000


async def test_a_redis_that_does_not_answer_is_told() -> None:
    limits = [limit_of(Scope.LINE, 1, Allowance(tpm=600_000))]
    assert await read_levels(nodes_at("unix:///nowhere/redis.sock"), limits) is None
