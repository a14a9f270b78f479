"""Goal: an alarm reaches its receiver or the log says so, and the URL shows nowhere.

Method: a scripted receiver in the same loop; waits between tries cut short.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from relay.config import Alerts, Config
from relay.control.watch.webhook import Alarm, Webhook, find_webhook
from relay.errors import ConfigError
from relay.model import Secret
from tests.local_app import serve_app

ALARM = Alarm(
    event="channel_alarm", channel="a", model="*", state="open", reason="denied", time="T"
)
PATH = "/hook/CANARY"


class Receiver:
    """Answers each POST with the next of `statuses`, then with 204; keeps what came."""

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[bytes] = []
        self.types: set[str] = set()
        self.url = ""
        self._statuses = list(statuses)
        self._arrived = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.types.add(request.content_type)
        self._arrived.set()
        status = self._statuses.pop(0) if self._statuses else 204
        return web.Response(status=status, headers={"Location": f"{self.url}/elsewhere"})

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.bodies) < count:
                self._arrived.clear()
                await self._arrived.wait()


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(*statuses)
    app = web.Application()
    app.router.add_post(PATH, receiver.answer)
    async with serve_app(app) as port:
        receiver.url = f"http://127.0.0.1:{port}{PATH}"
        yield receiver


@asynccontextmanager
async def webhook_to(url: str, *pauses_s: float) -> AsyncIterator[Webhook]:
    webhook = Webhook(Secret(url), pauses_s)
    task = asyncio.create_task(webhook.run())
    try:
        yield webhook
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def logged(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    async with asyncio.timeout(10):
        while not caplog.records:
            await asyncio.sleep(0.005)
    return caplog.records[0]


async def test_an_alarm_is_posted_as_json_once() -> None:
    async with receiving() as receiver, webhook_to(receiver.url, 0.0, 0.0) as webhook:
        webhook.send(ALARM)
        webhook.send(ALARM)
        await receiver.until(2)
    assert json.loads(receiver.bodies[0]) == {
        "event": "channel_alarm",
        "channel": "a",
        "model": "*",
        "state": "open",
        "reason": "denied",
        "time": "T",
    }
    assert receiver.types == {"application/json"}
    assert len(receiver.bodies) == 2


async def test_a_receiver_that_fails_is_tried_three_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiving(500, 302) as receiver, webhook_to(receiver.url, 0.0, 0.0) as webhook:
        webhook.send(ALARM)
        await receiver.until(3)
    assert caplog.records == []
    async with receiving(500, 302, 404) as receiver, webhook_to(receiver.url, 0.0, 0.0) as webhook:
        webhook.send(ALARM)
        record = await logged(caplog)
    assert len(receiver.bodies) == 3
    assert record.__dict__["channel"] == "a"
    assert "CANARY" not in caplog.text + repr(record.__dict__)


async def test_nobody_there_is_said_and_the_next_alarm_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with receiving() as receiver:
        gone = receiver.url
    async with webhook_to(gone) as webhook:
        webhook.send(ALARM)
        await logged(caplog)
        caplog.clear()
        webhook.send(ALARM)
        await logged(caplog)
    assert "CANARY" not in caplog.text


def found(setting: str, **environ: str) -> Secret | None:
    return find_webhook(Config(alerts=Alerts(webhook=setting)), environ)


def test_the_url_is_given_or_referred_to() -> None:
    assert found("") is None
    for url in ("https://hooks.example/x?token=1", "http://127.0.0.1:9/x", "http://[::1]/x"):
        assert found(url) == Secret(url)
        assert found("env:HOOK", HOOK=url) == Secret(url)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HOOK": "http://hooks.example/CANARY"},
        {"HOOK": "http://127.0.0.1.example/CANARY"},
        {"HOOK": "http://localhost@hooks.example/CANARY"},
        {"HOOK": "CANARY"},
    ],
)
def test_a_reference_to_nothing_good_is_a_configuration_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^alerts\.webhook: ") as caught:
        found("env:HOOK", **environ)
    assert "CANARY" not in caught.value.message
