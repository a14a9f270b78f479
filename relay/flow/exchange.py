"""One call from admission to settlement: the loop over attempts, and every way out of it.

pick a channel -> connect -> ask -> the pump carries the answer -> done
     ^                                    | failed before the first byte, may switch
     +------------------------------------+
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from relay.call import CallStart, Stage
from relay.config import Switching
from relay.errors import (
    ClientGone,
    ConnectionBroken,
    RelayError,
    Unavailable,
)
from relay.flow.active import ActiveCall
from relay.flow.counters import Counters
from relay.flow.outlet import Outlet
from relay.flow.ports import Connection, Connections, Journal
from relay.flow.pump import Pump
from relay.flow.settle import Settlement
from relay.flow.watch import Vigil, Watch
from relay.model import Channel
from relay.wire.answer import error_event

RETRY_AFTER_S: Final = 5.0
"""What a client is told when every channel failed and none said when to come back."""

Framing = Callable[[Channel, str], tuple[bytes, bytes]]
"""(channel, its name for the model) -> (content type, body) of the request to send."""


class Exchange:
    """Serves admitted calls over the channels of their line."""

    def __init__(
        self,
        connections: Connections,
        journal: Journal,
        watch: Watch,
        counters: Counters,
        settlement: Settlement,
        limits: Switching,
    ) -> None:
        self._connections = connections
        self._journal = journal
        self._watch = watch
        self._counters = counters
        self._settlement = settlement
        self._limits = limits

    async def run(
        self,
        call: ActiveCall,
        channels: tuple[Channel, ...],
        framing: Framing,
        *,
        strip_usage: bool,
    ) -> None:
        """Carry the call out; when this returns, its answer is out and it is settled.

        Raises:
            RelayError: Nothing has reached the client; the edge answers with it. The call is
                settled.
            asyncio.CancelledError: The client hung up; its upstream is cancelled, the call settled.
        """
        outlet = Outlet(call.client, call.request_id)
        pump = Pump(call, outlet, self._limits, self._settlement.complete, strip_usage=strip_usage)
        vigil = self._watch.add(call, pump, asyncio.get_running_loop().time())
        call.client.watch(pump)
        self._journal.start(_start_record(call))
        try:
            await self._try_channels(call, channels, framing, pump, vigil)
        except asyncio.CancelledError:
            pump.stop()
            self._settlement.fail(call, ClientGone("The client closed the connection."))
            raise
        except RelayError as error:
            pump.stop()
            self._settlement.fail(call, error)
            if not outlet.opened:
                raise
            self._tell_in_band(call, outlet, error)
        finally:
            call.client.watch(None)
            self._watch.remove(call)

    async def _try_channels(
        self,
        call: ActiveCall,
        channels: tuple[Channel, ...],
        framing: Framing,
        pump: Pump,
        vigil: Vigil,
    ) -> None:
        """Ask one channel after the other until one has answered; raise the last one's error."""
        untried = list(channels)
        error: RelayError = Unavailable(
            "No channel serves this model now.", retry_after_s=RETRY_AFTER_S
        )
        while untried and call.attempts < self._limits.attempts_max:
            channel = _choose(untried)
            untried.remove(channel)
            call.attempts += 1
            self._counters.attempts += 1
            vigil.asked_s = asyncio.get_running_loop().time()
            try:
                await self._attempt(call, channel, framing, pump)
                return
            except RelayError as failure:
                if call.doom is not None or not failure.switch:
                    raise
                self._counters.upstream_errors[channel.name, failure.code or failure.kind] += 1
                if call.stage is Stage.COMMITTED:
                    raise
                error = failure
        if error.retry_after_s is None:
            # Our tries are spent: without this every client would multiply them by its own.
            error.should_retry = False
        raise error

    async def _attempt(
        self, call: ActiveCall, channel: Channel, framing: Framing, pump: Pump
    ) -> None:
        """Ask one channel; return when its answer is out."""
        call.channel = channel
        call.served_model = channel.models[call.model]
        content_type, body = framing(channel, call.served_model)
        head = b"%b%d\r\nContent-Type: %b\r\n\r\n" % (
            self._connections.head(channel, call.endpoint),
            len(body),
            content_type,
        )
        connection = self._connections.take(channel)
        if connection is not None:
            try:
                await self._ask(call, connection, head, body, pump)
                return
            except ConnectionBroken:
                # A kept-alive connection may be closed by its server at the very moment we use
                # it. Without a byte of an answer that says nothing of the channel: ask anew.
                if not (connection.reused and connection.silent) or call.doom is not None:
                    raise
        await self._ask(call, await self._connections.dial(channel), head, body, pump)

    async def _ask(
        self, call: ActiveCall, connection: Connection, head: bytes, body: bytes, pump: Pump
    ) -> None:
        if call.doom is not None:
            connection.abort()
            raise call.doom
        call.stage = Stage.ASKED
        done = call.done = asyncio.get_running_loop().create_future()
        pump.begin(connection)
        connection.ask(head, body, pump)
        try:
            await done
        finally:
            call.done = None

    def _tell_in_band(self, call: ActiveCall, outlet: Outlet, error: RelayError) -> None:
        """End an answer that has begun: a stream with an error event, a body by breaking off."""
        call.client.keeps_alive = False
        if call.stream:
            outlet.send_events(error_event(error, call.request_id, call.endpoint), last=True)
        else:
            call.client.cut()


def _choose(channels: list[Channel]) -> Channel:
    """Return one of the lowest tier's channels, by weight."""
    tier = min(channel.tier for channel in channels)
    candidates = [channel for channel in channels if channel.tier == tier]
    if len(candidates) == 1:
        return candidates[0]
    weights = [channel.weight for channel in candidates]
    return random.choices(candidates, weights)[0]  # noqa: S311 - a load balancer's dice


def _start_record(call: ActiveCall) -> CallStart:
    assert call.key is not None and call.account is not None and call.line is not None
    return CallStart(
        call.number.to_bytes(16, "big"),
        call.time_us,
        call.account.id,
        call.key.id,
        call.ip,
        call.endpoint.value,
        call.model,
        call.line.id,
        call.stream,
        call.input_estimate,
    )
