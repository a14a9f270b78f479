"""Asking one channel: an attempt is made, sent, heard to its end, and judged.

What comes of a failure is not decided here (flow.exchange); that it is held against the channel
is, where it is the channel's fault.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from relay.clock import wall_s
from relay.config import Switching
from relay.errors import (
    BadRequest,
    ChannelOutrun,
    ChannelSpent,
    ClientGone,
    ConnectionBroken,
    OwnFault,
    RelayError,
)
from relay.flow.attempts.attempt import Attempt, Report
from relay.flow.attempts.failed import note_failed_try, note_operator_cost
from relay.flow.attempts.plain import PlainAttempt
from relay.flow.attempts.spliced import SplicedAttempt
from relay.flow.attempts.stream import StreamAttempt
from relay.flow.attempts.unframed import UnframedAnswer
from relay.flow.balancer import Balancer
from relay.flow.bugs import BugLog
from relay.flow.call import Call
from relay.flow.ports import Sockets
from relay.flow.state.owners import Owners
from relay.flow.state.stateful import (
    LEARNED,
    StatefulPlain,
    StatefulSplice,
    StatefulStream,
)
from relay.flow.translated.conversed import ConversedAnswer
from relay.flow.translated.framing import frame_translated
from relay.flow.translated.plain import TranslatedPlain
from relay.flow.translated.plan import CallTranslation
from relay.flow.translated.stream import TranslatedStream
from relay.model import Channel
from relay.ports import AnswerListener, Connection, Connections
from relay.reach import ClaudeHost, Reach
from relay.routing.table import classify_error
from relay.splice.rewrite import Continuation
from relay.stage import ASKED
from relay.wire.dialects.known import TABLES
from relay.wire.http import kept_head
from relay.wire.kinds.claude import host_claude
from relay.wire.kinds.converse import host_converse
from relay.wire.kinds.sigv4 import sign_head
from relay.wire.state.paths import KeptPath

_BEDROCK: Final = ClaudeHost.BEDROCK
_CONVERSE: Final = ClaudeHost.CONVERSE


class Asker:
    """Makes attempts and asks their channels.

    Args:
        connections: The pool of upstream connections.
        balancer: Keeps what channels did.
        settle: Called with a call when its answer is whole, before its last bytes go out.
        limits: Bounds on what may be held back.
        owners: Learns who made what.
    """

    def __init__(
        self,
        connections: Connections,
        balancer: Balancer,
        settle: Callable[[Call], None],
        limits: Switching,
        owners: Owners,
    ) -> None:
        self._connections = connections
        self._balancer = balancer
        self._settle = settle
        self._committed = self._on_commit  # bound once, not for each attempt
        self._limits = limits
        self._owners = owners
        self._bugs = BugLog()

    def attempt_on(
        self, call: Call, channel: Channel, continuation: Continuation | None = None
    ) -> Attempt:
        """Return an attempt that carries an answer as it is, or carries on one that broke off."""
        call.attempt_count += 1
        plan = call.translation
        if plan is not None and plan.serves(channel):
            return self._translated_on(call, channel, plan)
        committed, settle, limits = self._committed, self._settle, self._limits
        if continuation is not None:
            return self._splice_on(call, channel, continuation)
        if call.head.endpoint in LEARNED:
            kind = StatefulStream if call.request.stream else StatefulPlain
            return kind(call, channel, committed, settle, limits, self._owners)
        if call.request.stream:
            return StreamAttempt(call, channel, committed, settle, limits)
        return PlainAttempt(call, channel, committed, settle, limits)

    def _splice_on(self, call: Call, channel: Channel, continuation: Continuation) -> Attempt:
        """Return an attempt that carries on an answer that broke off."""
        committed, settle, limits = self._committed, self._settle, self._limits
        if call.head.endpoint in LEARNED:
            return StatefulSplice(
                call, channel, committed, settle, continuation, limits, self._owners
            )
        return SplicedAttempt(call, channel, committed, settle, continuation, limits)

    def _translated_on(self, call: Call, channel: Channel, plan: CallTranslation) -> Attempt:
        """Return an attempt on a channel of another dialect."""
        kind = TranslatedStream if call.request.stream else TranslatedPlain
        return kind(call, channel, self._committed, self._settle, self._limits, plan)

    def attempt_beside(self, call: Call) -> Attempt | None:
        """Return an attempt on another channel for a call that is hedged; None if none may be."""
        other = self._balancer.choose(call)
        if other is None or not self._balancer.take_retry(call, other):
            return None
        return self.attempt_on(call, other)

    def take(self, call: Call, channel: Channel) -> Connection | None:
        """Return a kept connection to ask a call's channel over, None where there is none."""
        sockets = call.sockets
        if sockets is not None and _takes_sockets(call, channel, sockets):
            return sockets.take(call, channel)
        return self._connections.take(channel)

    async def _dial(self, call: Call, channel: Channel) -> Connection:
        """Return a new connection to ask a call's channel over; raises what dialling does."""
        sockets = call.sockets
        if sockets is not None and _takes_sockets(call, channel, sockets):
            connection = await sockets.dial(call, channel) or self._connections.take(channel)
            if connection is not None:
                return connection
        return await self._connections.dial(channel)

    def ask_over(self, connection: Connection, attempt: Attempt, report: Report) -> None:
        """Ask an attempt's channel over a connection that is there; `report` hears of its end.

        `end` is handed to whoever hears it.
        """
        self._begin(attempt)
        self._send(attempt, connection, report)

    async def begin(self, attempt: Attempt, report: Report) -> None:
        """Ask an attempt's channel as soon as that can be; `report` hears of its end.

        Nobody waits for a running answer: a task that did would take more memory than the stream
        itself. `end` is handed to whoever hears of the end.

        Raises:
            RelayError: It was not asked.
        """
        await self._take_quota(attempt)
        self._begin(attempt)
        await self._judged(attempt, self._begin_over(attempt, report))

    async def begin_again(self, failed: Attempt, report: Report) -> None:
        """Ask an attempt that failed once more, where its failure says nothing; see `begin`."""
        error = failed.error
        assert error is not None
        await self._judged(failed, self._begin_anew(failed, error, report))

    async def ask(self, attempt: Attempt) -> None:
        """Ask an attempt's channel; return when its answer is out, raise why it is not."""
        await self._take_quota(attempt)
        self._begin(attempt)
        await self._judged(attempt, self._ask(attempt))
        self.end(attempt)

    async def _take_quota(self, attempt: Attempt) -> None:
        if attempt.quota is not None:
            return  # it has waited for it
        call = attempt.call
        try:
            attempt.quota = await self._balancer.quotas.wait(call, attempt.channel)
        except ChannelSpent:
            # It was not asked, so it takes none of the call's tries; nor will it be for this call.
            call.asked_channels += (attempt.channel.id,)
            call.attempt_count -= 1
            raise

    def give_back_unasked(self, attempt: Attempt) -> None:
        """Put back what was taken for an attempt whose task was cancelled before it began."""
        quota = attempt.quota
        if quota is not None and attempt not in attempt.call.open_attempts:
            attempt.quota = None
            self._balancer.quotas.give_back(quota)

    async def _ask(self, attempt: Attempt) -> None:
        """Ask over a connection that is kept, or over a new one; wait for the end."""
        connection = self.take(attempt.call, attempt.channel)
        try:
            if connection is not None:
                await self._ask_over(connection, attempt)
        except ConnectionBroken as error:
            if not _may_ask_anew(attempt, error):
                raise
            attempt.renew()
            connection = None
        if connection is None:
            await self._ask_over(await self._dial(attempt.call, attempt.channel), attempt)

    async def _begin_over(self, attempt: Attempt, report: Report) -> None:
        call, channel = attempt.call, attempt.channel
        connection = self.take(call, channel) or await self._dial(call, channel)
        self._send_unless_stopped(attempt, connection, report)

    async def _begin_anew(self, failed: Attempt, error: RelayError, report: Report) -> None:
        """Ask over a new connection, where `error` says nothing of the channel."""
        if not _may_ask_anew(failed, error):
            raise error
        failed.renew()
        connection = await self._dial(failed.call, failed.channel)
        self._send_unless_stopped(failed, connection, report)

    async def _ask_over(self, connection: Connection, attempt: Attempt) -> None:
        done = asyncio.get_running_loop().create_future()

        def report(_: Attempt, error: RelayError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._send_unless_stopped(attempt, connection, report)
        await done

    def _send_unless_stopped(
        self, attempt: Attempt, connection: Connection, report: Report
    ) -> None:
        """Ask, unless the attempt was ended while it waited for its connection."""
        stopped = attempt.call.doom or attempt.error
        if stopped is not None:
            connection.abort()
            raise stopped
        self._send(attempt, connection, report)

    async def _judged(self, attempt: Attempt, asking: Awaitable[None]) -> None:
        """End an attempt that fails, and hold it against its channel where it is to blame."""
        try:
            await asking
        except RelayError as error:
            self.judge(attempt, error)
            self.end(attempt)
            raise
        except asyncio.CancelledError:
            if attempt.call.abandoned is None:  # else its answer is read on without us
                attempt.stop()
                self.judge(attempt, ClientGone("The client closed the connection."))
                self.end(attempt)
            raise
        except BaseException:
            self.end(attempt)
            raise

    def judge(self, attempt: Attempt, error: RelayError) -> None:
        """Hold what became of an attempt against its channel, where it is the channel's fault."""
        if isinstance(error, OwnFault):
            self._bugs.tell_cause(error, attempt.call.request_id)
        plan = attempt.call.translation
        if plan is None or not plan.counts:  # not all that answer count: no fault of theirs
            self._balancer.fail(attempt, classify_error(error), error)
        note_failed_try(attempt.call, attempt, error)

    def _send(self, attempt: Attempt, connection: Connection, report: Report) -> None:
        try:
            head, body = self._frame(attempt)
            reach = attempt.channel.reach
            if reach is not None:
                head, body = _fit(attempt.channel, reach, head, body)
        except BadRequest:
            connection.abort()
            attempt.stage = ASKED  # it cannot be said there: as if the upstream had refused it
            raise
        except BaseException:
            connection.abort()  # a bug of ours, and nobody else would know of it
            raise
        attempt.listen(connection, report)
        listener: AnswerListener = attempt
        if reach is not None and reach.claude_on is _BEDROCK:
            listener = UnframedAnswer(attempt)
        elif reach is not None and reach.claude_on is _CONVERSE:
            listener = ConversedAnswer(attempt, attempt.call.request.model)
        connection.ask(head, body, listener)

    def _begin(self, attempt: Attempt) -> None:
        call = attempt.call
        call.open_attempts.append(attempt)
        call.asked_s = call.asked_s or attempt.asked_s
        self._balancer.begin(attempt)

    def end(self, attempt: Attempt) -> None:
        """Note that an attempt is over, however it went."""
        self._balancer.end(attempt)
        self._balancer.quotas.close(attempt)
        attempt.call.open_attempts.remove(attempt)
        # What was raised leads through its frames to the attempt, and so to the call and its body:
        # held here as well, both would live until the garbage collector ran.
        attempt.error = attempt.report = None
        if attempt is not attempt.call.payer:
            note_operator_cost(attempt.call, attempt)

    def _frame(self, attempt: Attempt) -> tuple[bytes, bytes]:
        """Return head and body of the request that an attempt sends."""
        call, channel = attempt.call, attempt.channel
        reach = channel.reach
        call.channel = channel
        if call.head.kept is not None:
            return self._frame_kept(attempt, call.head.kept)
        call.served_model = model = channel.models[call.request.model]
        plan = call.translation
        if plan is not None and plan.serves(channel):
            return frame_translated(self._connections, call, plan, channel)
        content_type, body = attempt.question.frame(channel, model)
        by_path = TABLES[channel.protocol].verbs or (reach is not None and reach.names_model)
        named = model if by_path else ""  # else the body names it
        head = b"%b%d\r\nContent-Type: %b\r\n%b\r\n" % (
            self._connections.head(channel, call.head.endpoint, call.head.query, named),
            len(body),
            content_type,
            call.head.forwarded,
        )
        return head, body

    def _frame_kept(self, attempt: Attempt, kept: KeptPath) -> tuple[bytes, bytes]:
        """Return the same of a request about what the channel keeps."""
        content_type, body = attempt.question.frame(attempt.channel, "")
        path = kept.path
        if kept.begins_batch:
            call = attempt.call
            call.served_model = attempt.channel.models[call.request.model]
            if kept.model:
                path = TABLES[attempt.channel.protocol].path(kept.endpoint, call.served_model)
        head = kept_head(attempt.channel, kept.method, path)
        if body:
            head += b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, len(body))
        elif kept.method == "POST":
            head += b"Content-Length: 0\r\n"
        return head + attempt.call.head.forwarded + b"\r\n", body

    def _on_commit(self, attempt: Attempt) -> None:
        """An attempt has output: its channel is good, and whoever was asked beside it is late."""
        call = attempt.call
        if call.payer is None:
            call.payer = attempt
        self._balancer.succeed(attempt)
        if len(call.open_attempts) > 1:
            call.channel = attempt.channel
            call.served_model = attempt.channel.models[call.request.model]
            for rival in list(call.open_attempts):
                if rival is not attempt:
                    rival.fail(ChannelOutrun("Another channel was faster."))


def _takes_sockets(call: Call, channel: Channel, sockets: Sockets) -> bool:
    """Tell whether a channel may be asked over a socket of its call's session."""
    plan = call.translation
    return (plan is None or not plan.serves(channel)) and sockets.may_serve(call, channel)


def _fit(channel: Channel, reach: Reach, head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return head and body as a channel wants them that has ways of its own."""
    if reach.claude_on is _CONVERSE:
        head, body = host_converse(channel, head, body)
    elif reach.claude_on:
        head, body = host_claude(channel, head, body)
    if reach.signs:
        head = sign_head(channel, head, body, wall_s())
    return head, body


def _may_ask_anew(attempt: Attempt, error: RelayError) -> bool:
    """Tell whether a failure says nothing of the channel.

    A kept-alive connection may be closed by its server at the very moment we use it: without a byte
    of an answer the same question is asked again, over a new one.
    """
    connection = attempt.asked_over
    return (
        isinstance(error, ConnectionBroken)
        and connection is not None
        and connection.reused
        and connection.silent
        and attempt.call.doom is None
    )
