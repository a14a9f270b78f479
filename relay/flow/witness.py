"""A second witness against a channel whose refusals say nothing: it is asked what needs no prompt.

    403, 403, 403 ... without a word of why, and nobody served in between
        --> its list of models is asked for, with our credential, once a minute at most
        --> refused as well: no client's words did that, the channel is out, with an alarm
        --> answered, or anything else: nothing is known, nothing happens

One customer's prompts can have a firewall answer so as often as it likes; a list has no prompt.
"""

import asyncio
import logging
from typing import Final

from relay.clock import clock_s, wall_s
from relay.errors import ChannelDenied, ChannelForbade, RelayError
from relay.flow.balancer import Balancer
from relay.flow.state.fetch import fetch
from relay.model import Channel
from relay.ports import Connections
from relay.wire.dialects.known import TABLES
from relay.wire.kinds.address import NO_LISTING
from relay.wire.refusals.upstream_errors import read_refusal

PAUSE_S: Final = 60.0
ASKED_AT_ONCE: Final = 8
KNOWN_MAX: Final = 10_000
FORBIDDEN: Final = 403
SCOPES: Final = (b"scope", b"permission")
"""A key may be good for calls and not for lists: a refusal that says so is no witness."""

_log = logging.getLogger(__name__)


class Witness:
    """Asks channels that one account after the other, or one for ever, is forbidden at.

    Args:
        connections: The pool of upstream connections.
        balancer: Is told where a channel refuses us as well.
    """

    def __init__(self, connections: Connections, balancer: Balancer) -> None:
        self._connections = connections
        self._balancer = balancer
        self._asked_s: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def suspect(self, channel: Channel) -> None:
        """Ask a channel soon, unless it was asked of late or cannot be asked simply."""
        now_s = clock_s()
        path = _listing_of(channel)
        if not path or now_s - self._asked_s.get(channel.id, -PAUSE_S) < PAUSE_S:
            return
        if len(self._tasks) >= ASKED_AT_ONCE:
            return
        if len(self._asked_s) >= KNOWN_MAX:
            self._asked_s.clear()
        self._asked_s[channel.id] = now_s
        task = asyncio.get_running_loop().create_task(self._ask(channel, path), name="witness")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, channel: Channel, path: str) -> None:
        headers = TABLES[channel.protocol].probe_headers
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
        try:
            status, body = await fetch(self._connections, channel, path, lines)
        except (RelayError, TimeoutError):
            return
        if refuses_us(channel, status, body):
            _log.warning("a channel refuses its own credential", extra={"channel": channel.name})
            self._balancer.testify(channel)


def refuses_us(channel: Channel, status: int, body: bytes) -> bool:
    """Tell whether an answer to a question without a prompt refuses whoever asks. Pure."""
    if status < 400:
        return False
    error = read_refusal(status, {}, body, now_s=wall_s(), dialect=channel.protocol)
    if isinstance(error, ChannelDenied):
        return True
    said = body.lower()
    bare = isinstance(error, ChannelForbade) and status == FORBIDDEN
    return bare and not any(word in said for word in SCOPES)


def _listing_of(channel: Channel) -> str:
    """Return where its models are listed, below its root; "" = nowhere, or not simply."""
    reach = channel.reach
    listing = "" if reach is None else reach.listing
    if listing == NO_LISTING or ".." in listing or (reach is not None and reach.signs):
        return ""
    return f"/{(listing or 'models').lstrip('/')}{TABLES[channel.protocol].models_query}"
