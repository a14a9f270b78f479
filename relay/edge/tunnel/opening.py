"""Which channel a session of voice is held over, and the socket to it.

A session's channel is found as a call's is: by rights, price, health and load, and another one is
tried where one does not open it. It stays with that one: what was said is there alone.
"""

import asyncio
from typing import Final

from relay.billing.unpriced import unpriced_unit
from relay.edge.tunnel.ports import TurnService
from relay.edge.tunnel.turn import NOBODY
from relay.edge.tunnel.turn_sockets import SocketDesk
from relay.edge.tunnel.upstream_socket import SocketListener, UpstreamSocket
from relay.errors import (
    BadRequest,
    ChannelRefused,
    ConnectFailed,
    ModelNotFound,
    RelayError,
    Unavailable,
    forget_frames,
)
from relay.extras import REACHES_OUT
from relay.flow.admission import Admission
from relay.flow.call import Call
from relay.flow.request import RequestFacts, RequestHead
from relay.flow.tunnelled import TunnelledCalls
from relay.model import Channel
from relay.records import Endpoint
from relay.upstream.pool import UpstreamPool
from relay.wire.turns.realtime import session_path

OPEN_S: Final = 15.0
"""What an upstream has to open a session: agents give it as long."""
TRIES_MAX: Final = 3


class VoiceDesk:
    """Opens sessions and the calls of their responses.

    Args:
        admission: Says who may do what.
        calls: Begins and ends calls.
        pool: Dials upstreams.
    """

    def __init__(self, admission: Admission, calls: TunnelledCalls, pool: UpstreamPool) -> None:
        self._admission = admission
        self.calls = calls
        self._pool = pool
        self.sockets = SocketDesk(pool)
        """Opens those of turns."""

    def begin(self, service: TurnService, head: RequestHead, facts: RequestFacts) -> Call:
        """Return a new call with its rights; it has paid nothing.

        Raises:
            RelayError: It may not run; it is settled, and over.
        """
        call = service.begin_turn(NOBODY, head)
        try:
            call.request = facts
            self._admission.admit(call)
        except RelayError as error:
            self.calls.refuse(call, error)
            service.let_go(call)
            raise
        return call

    async def open(
        self, service: TurnService, head: RequestHead, model: str, listener: SocketListener
    ) -> tuple[Channel, UpstreamSocket]:
        """Open a session with one of the channels that have a model.

        Raises:
            RelayError: None will.
        """
        call = self.begin(service, head, facts_of(model))
        try:
            return await self._open(call, head, model, listener)
        except RelayError as error:
            self.calls.refuse(call, error)
            raise
        finally:
            service.let_go(call)

    def check_transcriber(
        self, service: TurnService, head: RequestHead, channel: Channel, model: str
    ) -> None:
        """Refuse a model that writes down what is said where it could not be charged.

        Raises:
            RelayError: The key may not have it, it has no price, or not over this channel.
        """
        call = self.begin(service, head, facts_of(model))
        try:
            serves = any(one.id == channel.id for one in call.rights.channels)
            if not serves or channel.models.get(model) != model:
                raise ModelNotFound(
                    f"'{model}' writes nothing down in this session: its channel lacks it."
                )
            tariff = call.rights.tariff
            unit = unpriced_unit(Endpoint.TRANSCRIPTIONS, tariff.price) if tariff else None
            if unit is not None:
                raise BadRequest(f"The model '{model}' has no price for {unit} here.")
        finally:
            service.let_go(call)

    async def _open(
        self, call: Call, head: RequestHead, model: str, listener: SocketListener
    ) -> tuple[Channel, UpstreamSocket]:
        failure: RelayError | None = None
        for _ in range(TRIES_MAX):
            channel = self.calls.choose(call)
            if channel is None or (failure is not None and not failure.switch):
                break
            if failure is not None:
                forget_frames(failure)
            attempt = self.calls.try_channel(call, channel)
            failure = None
            try:
                socket = await self._dial(channel, head, model, listener)
            except RelayError as error:
                failure = error
            except BaseException:
                self.calls.tried(attempt, None)
                raise
            self.calls.tried(attempt, failure)
            if failure is None:
                return channel, socket
        raise failure or Unavailable("No channel serves this model now.", retry_after_s=5.0)

    async def _dial(
        self, channel: Channel, head: RequestHead, model: str, listener: SocketListener
    ) -> UpstreamSocket:
        if channel.reach is not None and channel.reach.signs:
            raise ChannelRefused("This channel has no sessions.")
        switches = self.calls.limits.model_gone_switches
        socket = UpstreamSocket(channel, listener, model_gone_switches=switches)
        served = channel.models[model]
        path = session_path(channel, served, transcribes=head.query != "")
        try:
            async with asyncio.timeout(OPEN_S):
                connection = await self._pool.dial(channel)
                await socket.open(connection, path, head.forwarded)
        except TimeoutError:
            raise ConnectFailed("The upstream did not open a session in time.") from None
        return socket


def facts_of(
    model: str,
    *,
    output_tokens_max: int | None = None,
    input_estimate: int = 0,
    body_bytes: int = 0,
) -> RequestFacts:
    """Return what is known of one response: what was said before is in none of its bytes."""
    return RequestFacts(
        model,
        stream=True,
        output_tokens_max=output_tokens_max,
        input_estimate=input_estimate,
        body_bytes=body_bytes,
        asked=REACHES_OUT,
    )
