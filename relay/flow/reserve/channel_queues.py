r"""Where calls wait whose channels have all spent their own quota, as long as their line lets them.

    find   a channel with quota left --> Room: asked at once
      \--> all of them spent --> a ticket in the line's queue --> its turn --> Room
                                   | too late, or no room   --> ChannelSpent, with a true wait
                                   \ its client goes: gone at once, nothing is taken

As in relay.flow.reserve.line_queues, whose limits these calls have passed: fair by account, bounded
in calls and bytes, served by one task for a line that has a queue. What a channel has is left to
whoever waits for it longest: who comes now, or wants less of it, stands behind.
"""

import asyncio
import logging
from collections.abc import Callable

from relay.clock import clock_s
from relay.errors import ChannelSpent
from relay.flow.call import Call
from relay.flow.reserve.channel_quotas import ChannelQuotas, spent_for
from relay.flow.reserve.limits import note_wait, speak
from relay.flow.reserve.line_queues import (
    BYTES_MAX,
    CALLS_MAX,
    POLL_MS_MAX,
    POLL_MS_MIN,
    TURN_CALLS,
)
from relay.limits.bucket import MINUTE_MS
from relay.limits.decision import Denied, Why
from relay.limits.fair_queue import FairQueue, Ticket
from relay.limits.limit_set import Grant
from relay.model import Channel, Line

_log = logging.getLogger(__name__)

Choose = Callable[[Call], Channel | None]
OnRefusal = Callable[[Call, ChannelSpent], None]


class Room:
    """A channel, and what a call has taken of its quota."""

    __slots__ = ("channel", "grant")

    def __init__(self, channel: Channel, grant: Grant) -> None:
        self.channel = channel
        self.grant = grant


class WaitingCall(Ticket):
    """A ticket with the call's side of it."""

    __slots__ = ("answer", "call", "denied")

    def __init__(self, call: Call, account_id: int, denied: Denied) -> None:
        reserved = call.reserved
        super().__init__(account_id, reserved[0] + reserved[2], call.request.body_bytes)
        self.call = call
        self.denied = denied
        """What it was told last."""
        self.answer: asyncio.Future[Room | Denied | None] = (
            asyncio.get_running_loop().create_future()
        )

    def tell(self, found: "Room | Denied | None") -> bool:
        """Tell the call; False: it has gone."""
        if self.answer.done():
            return False
        self.answer.set_result(found)
        return True


class ChannelQueue:
    """The queue of one line, and the task that serves it."""

    def __init__(
        self, line_id: int, finder: "RoomFinder", on_end: "Callable[[ChannelQueue], None]"
    ) -> None:
        self.waiting = FairQueue(CALLS_MAX, BYTES_MAX)
        self.line_id = line_id
        self._finder = finder
        self._on_end = on_end
        self._served = 0
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="channel queue")
        self._task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """Hear of a defect of ours too: those who come now need another queue."""
        self._on_end(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("a line's queue for channels stopped", exc_info=error)

    async def _serve(self) -> None:
        """Look for room for whoever's turn it is, until nobody waits."""
        spent: set[int] = set()
        await asyncio.sleep(0)  # the first ticket is put in behind us
        while (ticket := self.waiting.first()) is not None:
            assert isinstance(ticket, WaitingCall)
            wait_ms = await self._try(ticket, spent)
            if not wait_ms:
                continue
            for other in self.waiting.firsts():  # who waits for other channels need not wait here
                assert isinstance(other, WaitingCall)
                if other.waits and not _wants_only(other.call, spent):
                    await self._try(other, spent)
            self._finder.quotas.waited[self.line_id] = spent
            await asyncio.sleep(min(max(wait_ms, POLL_MS_MIN), POLL_MS_MAX) / 1_000)
            spent = set()
        self._on_end(self)

    async def _try(self, ticket: WaitingCall, spent: set[int]) -> int:
        """Let a call go that there is room for; return for how long there is none, 0 if it went."""
        found = await self._finder.look(ticket.call, spent)
        if not ticket.waits:
            if isinstance(found, Room):
                self._finder.give_back(found)
            return 0
        if isinstance(found, Denied) and _helps(found):
            ticket.denied = found
            return max(found.wait_ms, POLL_MS_MIN)
        self.waiting.take(ticket)
        if not ticket.tell(found) and isinstance(found, Room):
            self._finder.give_back(found)
        self._served += 1
        if not self._served % TURN_CALLS:
            await asyncio.sleep(0)
        return 0


class RoomFinder:
    """Looks for a channel that a call may be asked on now, and takes of its quota.

    Args:
        choose: Returns the channel that a call should be asked on; none whose quota is known to be
            spent.
        quotas: Of the channels.
    """

    def __init__(self, choose: Choose, quotas: ChannelQuotas) -> None:
        self._choose = choose
        self.quotas = quotas

    async def look(self, call: Call, spent: set[int]) -> Room | Denied | None:
        """Return room for a call; why there is none; None where no channel is in service.

        Args:
            call: The call.
            spent: Ids of channels that others wait for; those found spent are added.
        """
        denied: Denied | None = None
        barring: Denied | None = None
        while True:
            channel = self._choose(call)
            if channel is None and (barring := self.quotas.barring(call)) is None:
                channel = self._choose(call)  # quota may have come back between the two looks
                if channel is None:
                    return denied
            if channel is None or channel.id in spent:
                break
            decision = await self.quotas.decide(call, channel)
            if isinstance(decision, Grant):
                return Room(channel, decision)
            denied = decision
            spent.add(channel.id)
        if channel is None:
            spent.update(one.id for one in (*call.rights.channels, *call.rights.foreign))
        return barring or denied or Denied(Why.EMPTY, POLL_MS_MIN)

    def give_back(self, room: Room) -> None:
        """Put back what was taken for a call that has gone."""
        self.quotas.give_back(room.grant)


class ChannelQueues:
    """The queues of one worker, by line; a line that nobody waits for has none.

    Args:
        choose: See RoomFinder.
        quotas: Of the channels.
        on_refusal: Told of a call that waits no more.
        speak_s: Between two signs of life to a stream that waits.
    """

    def __init__(
        self, choose: Choose, quotas: ChannelQuotas, on_refusal: OnRefusal, speak_s: float
    ) -> None:
        self._finder = RoomFinder(choose, quotas)
        self._on_refusal = on_refusal
        self._speak_s = speak_s
        self._queues: dict[int, ChannelQueue] = {}

    def may_wait(self, call: Call) -> bool:
        """Tell whether a call's line lets it wait for a quota, and a channel has one."""
        rights = call.rights
        if rights.line is None or not rights.line.wait_ms:
            return False
        return any(c.limited for c in rights.channels) or any(c.limited for c in rights.foreign)

    def waiting(self) -> int:
        """Return how many calls wait."""
        return sum(len(queue.waiting) for queue in self._queues.values())

    async def find(self, call: Call) -> Room | None:
        """Return room for a call that may wait, as soon as it is its turn and there is any.

        Returns:
            None: no channel is in service.

        Raises:
            ChannelSpent: CHANNEL; it has waited for as long as its line lets it, or would.
            asyncio.CancelledError: Its client has gone; nothing is taken.
        """
        line, account = call.rights.line, call.rights.account
        assert line is not None and account is not None, "it was admitted"
        found = await self._finder.look(call, set(self._finder.quotas.waited.get(line.id, ())))
        if not isinstance(found, Denied):
            return found
        if _helps(found):
            begun_s = clock_s()
            found = await self._queue_up(call, line, WaitingCall(call, account.id, found))
            note_wait(call, begun_s)
        if isinstance(found, Denied):
            error = spent_for(found)
            self._on_refusal(call, error)
            raise error
        return found

    async def _queue_up(self, call: Call, line: Line, ticket: WaitingCall) -> Room | Denied | None:
        queue = self._queues.get(line.id)
        refused = self._refused(queue, ticket)
        if refused.wait_ms > line.wait_ms:
            return refused
        if queue is None:
            queue = self._queues[line.id] = ChannelQueue(line.id, self._finder, self._forget)
        gone = queue.waiting.push(ticket)
        if gone is None:
            return refused
        for other in gone:
            assert isinstance(other, WaitingCall)
            other.tell(self._refused(queue, other))
        try:
            return await self._wait(call, line, queue, ticket)
        finally:
            queue.waiting.drop(ticket)

    async def _wait(
        self, call: Call, line: Line, queue: ChannelQueue, ticket: WaitingCall
    ) -> Room | Denied | None:
        answer, begun_s = ticket.answer, clock_s()
        ends_s = begun_s + line.wait_ms / 1_000
        try:
            while not answer.done() and (left_s := ends_s - clock_s()) > 0:
                await asyncio.wait([answer], timeout=min(left_s, self._speak_s))
                if not answer.done() and clock_s() < ends_s:
                    speak(call, begun_s)
        except asyncio.CancelledError:
            if answer.done() and isinstance(room := answer.result(), Room):
                self._finder.give_back(room)
            answer.cancel()
            raise
        if answer.done():
            return answer.result()
        answer.cancel()
        return self._refused(queue, ticket)

    def _forget(self, queue: ChannelQueue) -> None:
        if self._queues.get(queue.line_id) is queue:
            del self._queues[queue.line_id]
            self._finder.quotas.waited.pop(queue.line_id, None)

    def _refused(self, queue: ChannelQueue | None, ticket: WaitingCall) -> Denied:
        """Return what a call is told that does not wait, or no more: when its turn would be."""
        ahead_ms = 0
        rights = ticket.call.rights
        per_minute = sum(c.tpm for c in (*rights.channels, *rights.foreign))
        if queue is not None and per_minute:
            cost = 0 if ticket.waits else ticket.cost
            ahead_ms = queue.waiting.ahead(ticket.account_id, cost) * MINUTE_MS // per_minute
        wait_ms = max(ticket.denied.wait_ms + ahead_ms, POLL_MS_MIN)
        return Denied(Why.EMPTY, wait_ms, ticket.denied.limit)


def _wants_only(call: Call, spent: set[int]) -> bool:
    """Tell whether all channels of a call are spent, as is known."""
    rights = call.rights
    return all(one.id in spent for one in (*rights.channels, *rights.foreign))


def _helps(denied: Denied) -> bool:
    """Tell whether waiting helps against what a call was told."""
    return denied.why is Why.EMPTY or denied.why is Why.CROWDED
