"""Goal: a probe finds a healed channel, and only what is news makes a hint.

Method: scripted upstreams that answer what a test says, conditions made up, hints read off a real
Valkey; the prober's pauses cut short.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from relay.control.watch.prober import Prober
from relay.errors import DependencyDown
from relay.model import Channel, Dialect, Secret
from relay.routing.breaker import BreakerState
from relay.routing.health import Condition
from relay.routing.policy import Reason
from relay.store.health.gossip import Gossip
from relay.wire.kinds.address import models_url
from tests.live.limit_rig import until
from tests.local_app import serve_app

pytestmark = pytest.mark.live

FAR_S = 60.0


class Upstream:
    """An upstream whose list of models has a status of the test's choice."""

    def __init__(self) -> None:
        self.status = 503
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.path_qs, request.headers.get("authorization", "")))
        headers = {"Location": f"{self.url}/elsewhere"} if self.status == 302 else {}
        return web.Response(status=self.status, headers=headers)

    async def asked_again(self, times: int = 2) -> None:
        """Wait until it has answered `times` more questions under its present status."""
        seen = len(self.asked)
        await until(lambda: len(self.asked) >= seen + times)


@asynccontextmanager
async def serving() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    app = web.Application()
    app.router.add_get("/{path:.*}", upstream.answer)
    async with serve_app(app) as port:
        upstream.url = f"http://127.0.0.1:{port}/v1"
        yield upstream


def channel(url: str, **fields: Any) -> Channel:
    plain: dict[str, Any] = {
        "id": 1,
        "name": "a",
        "base_url": url,
        "api_key": Secret("sk-1"),
        "models": {"m": "m"},
    }
    return Channel(**(plain | fields))


def out(
    reason: Reason = Reason.FAILING,
    state: BreakerState = BreakerState.OPEN,
    trial_in_s: float = FAR_S,
) -> Condition:
    return Condition(1, "m", state, reason, trial_in_s, 1)


class Watched:
    """A prober with what it sees, and the hints that workers get from it."""

    def __init__(self, redis_url: str, found: Channel) -> None:
        self.conditions: list[Condition] = [out()]
        self.hints: list[int] = []
        self.channels = {found.id: found}
        self._prober = Prober(
            lambda: self.channels, self._see, lambda: redis_url, pause_s=0.02, tick_s=0.01
        )
        self._ears = Gossip(lambda: redis_url, "ears", lambda _: None, self.hints.append)
        self.looks = 0

    def _see(self) -> Iterable[Condition]:
        self.looks += 1
        return self.conditions

    async def look_again(self, times: int = 3) -> None:
        seen = self.looks
        await until(lambda: self.looks >= seen + times)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Watched"]:
        self._ears.start()
        await until(lambda: self._ears.connected)
        task = asyncio.create_task(self._prober.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._ears.stop()


async def test_a_channel_that_answers_again_is_hinted_at_once(redis_url: str) -> None:
    async with serving() as up, Watched(redis_url, channel(up.url)).running() as watched:
        await up.asked_again()
        assert set(up.asked) == {("/v1/models", "Bearer sk-1")}
        assert watched.hints == []
        up.status = 200
        await until(lambda: watched.hints == [1])
        await up.asked_again(3)
        assert watched.hints == [1]


async def test_a_trial_that_failed_in_spite_of_a_good_answer_is_left_to_the_back_off(
    redis_url: str,
) -> None:
    """Its balance is spent, or one of its models is ill: the list of models says nothing of it."""
    async with serving() as up:
        up.status = 200
        async with Watched(redis_url, channel(up.url)).running() as watched:
            await up.asked_again(4)
            assert watched.hints == []


async def test_the_next_outage_is_another_one(redis_url: str) -> None:
    async with serving() as up, Watched(redis_url, channel(up.url)).running() as watched:
        await up.asked_again()
        watched.conditions = [out(state=BreakerState.CLOSED)]
        await watched.look_again()
        up.status = 200
        watched.conditions = [out()]
        await up.asked_again(3)
        assert watched.hints == []
        up.status = 503
        await up.asked_again()
        up.status = 200
        await until(lambda: watched.hints == [1])


@pytest.mark.parametrize("status", [204, 301, 302, 401, 403, 404, 500])
async def test_only_a_list_of_models_is_an_answer(redis_url: str, status: int) -> None:
    async with serving() as up, Watched(redis_url, channel(up.url)).running() as watched:
        await up.asked_again()
        up.status = status
        await up.asked_again(3)
        assert watched.hints == []
        assert {path for path, _ in up.asked} == {"/v1/models"}


UNASKED: list[tuple[list[Condition], dict[str, Any]]] = [
    ([], {}),
    ([out(state=BreakerState.CLOSED)], {}),
    ([out(state=BreakerState.HALF_OPEN)], {}),
    ([out(Reason.LIMITED)], {}),
    ([out(trial_in_s=0.5)], {}),
    ([out()], {"drained": True}),
    ([out()], {"id": 2}),
]


@pytest.mark.parametrize(("conditions", "fields"), UNASKED)
async def test_who_is_not_waiting_is_not_asked(
    redis_url: str, conditions: list[Condition], fields: dict[str, Any]
) -> None:
    async with serving() as up:
        watched = Watched(redis_url, channel(up.url, **fields))
        watched.conditions = conditions
        async with watched.running():
            await watched.look_again()
        assert up.asked == []


async def test_nobody_there_at_first(redis_url: str) -> None:
    async with serving() as up:
        gone = up.url
    async with Watched(redis_url, channel(gone)).running() as watched:
        await watched.look_again()
        async with serving() as up:
            up.status = 200
            watched.channels = {1: channel(up.url)}
            await until(lambda: watched.hints == [1])


async def test_without_redis_the_prober_goes_on() -> None:
    def nowhere() -> str:
        raise DependencyDown("start `relay serve` first")

    async with serving() as up:
        found = {1: channel(up.url)}
        prober = Prober(lambda: found, lambda: [out()], nowhere, pause_s=0.02, tick_s=0.01)
        task = asyncio.create_task(prober.run())
        for status in (503, 200, 503, 200):
            up.status = status
            await up.asked_again()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_each_dialect_s_question() -> None:
    assert models_url(channel("https://a.example/v1")) == "https://a.example/v1/models"
    gemini = channel("https://g.example/v1beta", protocol=Dialect.GEMINI)
    assert models_url(gemini) == "https://g.example/v1beta/models?pageSize=1000"
