"""Carries alarms to the operator's webhook: a few tries with a deadline each, then only the log.

The URL may hold a token, so it shows in no log; nor does what the receiver answers.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec
import orjson

from relay.config import Config
from relay.errors import ConfigError
from relay.model import Secret
from relay.outside import WEBHOOK
from relay.store.secrets import refs as secret_refs
from relay.tasks import first_of

DEADLINE_S: Final = 5.0
PAUSES_S: Final = (1.0, 4.0)
"""Between the three tries."""
COURIERS: Final = 4
"""Deliveries at once: one provider's outage refuses many channels."""
WAITING_MAX: Final = 1_000
"""Alarms not delivered yet; beyond it the log and the metric have to do."""

_log = logging.getLogger(__name__)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a POST. `event` says what happened. `time`: RFC 3339, UTC."""

    event: str
    time: str


class Alarm(Notice, frozen=True, kw_only=True):
    """A channel is in trouble. `model` "*": all of the channel."""

    channel: str
    model: str
    state: str
    reason: str


class Webhook:
    """One receiver of alarms.

    Args:
        url: As `find_webhook` returns it.
        pauses_s: Seconds between two tries; one try more than there are pauses.
    """

    def __init__(self, url: Secret, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._url = url
        self._pauses_s = pauses_s
        self._outbox: asyncio.Queue[Notice] = asyncio.Queue(WAITING_MAX)

    def send(self, notice: Notice) -> None:
        """Have a notice delivered; never waits."""
        with contextlib.suppress(asyncio.QueueFull):
            self._outbox.put_nowait(notice)

    async def run(self) -> None:
        """Deliver for ever."""
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await first_of(*(self._deliver_forever(session) for _ in range(COURIERS)))

    async def _deliver_forever(self, session: aiohttp.ClientSession) -> None:
        while True:
            notice = await self._outbox.get()
            body = orjson.dumps(msgspec.to_builtins(notice))
            if not await self._deliver(session, body):
                _log.error("the alert webhook took no alarm", extra=_where(notice))

    async def _deliver(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        for pause_s in (0.0, *self._pauses_s):
            await asyncio.sleep(pause_s)
            if await self._post(session, body):
                return True
        return False

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> bool:
        headers = {"Content-Type": "application/json", "User-Agent": "relay"}
        try:
            async with session.post(
                self._url.reveal(), data=body, headers=headers, allow_redirects=False
            ) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, OSError, ValueError):
            return False


def _where(notice: Notice) -> dict[str, str]:
    channel = getattr(notice, "channel", None)
    return {"reason": notice.event} if channel is None else {"channel": channel}


def find_webhook(config: Config, environ: Mapping[str, str]) -> Secret | None:
    """Return the URL that `[alerts] webhook` gives or refers to; None where it is empty.

    Raises:
        ConfigError: The reference leads nowhere, or to a URL under which others could read along.
    """
    setting = config.alerts.webhook
    if not setting:
        return None
    if WEBHOOK.fullmatch(setting) is not None:
        return Secret(setting)
    found = secret_refs.resolve(setting, environ, path="alerts.webhook")
    if WEBHOOK.fullmatch(found.reveal()) is None:
        raise ConfigError("alerts.webhook: refers to what is neither https nor to this machine")
    return found
