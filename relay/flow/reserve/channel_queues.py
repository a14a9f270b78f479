r"""Where calls wait whose channels have all spent their own quota, as long as their line lets them.

    find   a channel with quota left --> Room: asked at once
      \--> all of them spent --> the line's queue (reserve.call_queues) --> Room | ChannelSpent

The limits of relay.flow.reserve.line_queues these calls have passed. What a channel has is left to
whoever waits for it longest: who comes now, or wants less of it, stands behind.
"""

from collections.abc import Callable

from relay.clock import clock_s
from relay.errors import ChannelSpent
from relay.flow.call import Call
from relay.flow.reserve.call_queues import (
    POLL_MS_MIN,
    CallQueue,
    CallQueues,
    Search,
    WaitingCall,
)
from relay.flow.reserve.channel_quotas import ChannelQuotas, spent_for
from relay.flow.reserve.limits import note_wait, speak
from relay.limits.decision import Denied, Why
from relay.limits.limit_set import Grant
from relay.model import Channel

Choose = Callable[[Call], Channel | None]
OnRefusal = Callable[[Call, ChannelSpent], None]


class Room:
    """A channel, and what a call has taken of its quota."""

    __slots__ = ("channel", "grant")

    def __init__(self, channel: Channel, grant: Grant) -> None:
        self.channel = channel
        self.grant = grant


class RoomlessCall(WaitingCall):
    """A ticket of a call whose channels are spent."""

    __slots__ = ("call", "room", "spent")

    def __init__(self, call: Call, account_id: int, denied: Denied, spent: set[int]) -> None:
        tokens, begun_s = call.reserved[0] + call.reserved[2], clock_s()
        size = call.request.body_bytes
        super().__init__(account_id, tokens, size, denied, lambda: speak(call, begun_s))
        self.call = call
        self.spent = spent
        """Channels that were found spent before it came here."""
        self.room: Room | None = None
        """What was found for it; None too where no channel is in service."""


class ChannelSearch(Search):
    """Looks for channels for the calls of one queue.

    Args:
        line_id: Whose queue it is.
        choose: Returns the channel that a call should be asked on; none whose quota is known to be
            spent.
        quotas: Of the channels.
    """

    __slots__ = ("_choose", "_line_id", "_quotas", "_spent")

    def __init__(self, line_id: int, choose: Choose, quotas: ChannelQuotas) -> None:
        self._line_id = line_id
        self._choose = choose
        self._quotas = quotas
        self._spent: set[int] = set()
        """Channels that are left to those who were found no room since the last rest."""

    async def look(self, ticket: WaitingCall) -> Denied | None:
        """Take of the quota of a channel that nobody waits for longer; see Search."""
        assert isinstance(ticket, RoomlessCall)
        found = await find_room(ticket.call, self._choose, self._quotas, self._spent)
        if isinstance(found, Denied):
            return found
        ticket.room = found
        return None

    def stand(self, ticket: WaitingCall) -> None:
        """Leave the channels that are spent to this call and those before it; see Search."""
        assert isinstance(ticket, RoomlessCall)
        self._quotas.waited.setdefault(self._line_id, set()).update(ticket.spent)

    def give_back(self, ticket: WaitingCall) -> None:
        """Put back what was taken for a call that has gone; see Search."""
        assert isinstance(ticket, RoomlessCall)
        room, ticket.room = ticket.room, None
        if room is not None:
            self._quotas.give_back(room.grant)

    def helps(self, denied: Denied) -> bool:
        """Tell whether waiting helps; see Search."""
        return _helps(denied)

    async def must_rest(self, queue: CallQueue, ticket: WaitingCall) -> bool:
        """Serve who waits for other channels, then rest in any case; see Search."""
        for other in queue.waiting.firsts():
            assert isinstance(other, RoomlessCall)
            if other.waits and not _wants_only(other.call, self._spent):
                await queue.serve(other)
        self._quotas.waited[self._line_id] = self._spent
        self._spent = set()
        return True

    def pace(self, ticket: WaitingCall) -> int:
        """Return the rate of all channels of a call; see Search."""
        assert isinstance(ticket, RoomlessCall)
        rights = ticket.call.rights
        return sum(channel.tpm for channel in (*rights.channels, *rights.foreign))

    def end(self) -> None:
        """Leave the channels to who comes now; see Search."""
        self._quotas.waited.pop(self._line_id, None)


class ChannelQueues(CallQueues):
    """Where the calls of one worker wait for a channel's quota.

    Args:
        choose, quotas: See ChannelSearch.
        on_refusal: Told of a call that waits no more.
        speak_s: Between two signs of life to a stream that waits.
    """

    def __init__(
        self, choose: Choose, quotas: ChannelQuotas, on_refusal: OnRefusal, speak_s: float
    ) -> None:
        super().__init__(lambda line_id: ChannelSearch(line_id, choose, quotas), speak_s)
        self._choose = choose
        self._quotas = quotas
        self._on_refusal = on_refusal

    def may_wait(self, call: Call) -> bool:
        """Tell whether a call's line lets it wait for a quota, and a channel has one."""
        rights = call.rights
        if rights.line is None or not rights.line.wait_ms:
            return False
        return any(c.limited for c in rights.channels) or any(c.limited for c in rights.foreign)

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
        spent = set(self._quotas.waited.get(line.id, ()))
        found = await find_room(call, self._choose, self._quotas, spent)
        if not isinstance(found, Denied):
            return found
        if _helps(found):
            ticket, begun_s = RoomlessCall(call, account.id, found, spent), clock_s()
            denied = await self.enter(line, ticket)
            note_wait(call, begun_s)
            if denied is None:
                return ticket.room
            found = denied
        error = spent_for(found)
        self._on_refusal(call, error)
        raise error


async def find_room(
    call: Call, choose: Choose, quotas: ChannelQuotas, spent: set[int]
) -> Room | Denied | None:
    """Return room for a call; why there is none; None where no channel is in service.

    Args:
        call: The call.
        choose: See ChannelSearch.
        quotas: Of the channels.
        spent: Ids of channels that others wait for; those found spent are added.
    """
    denied: Denied | None = None
    barring: Denied | None = None
    while True:
        channel = choose(call)
        if channel is None and (barring := quotas.barring(call)) is None:
            channel = choose(call)  # quota may have come back between the two looks
            if channel is None:
                return denied
        if channel is None or channel.id in spent:
            break
        decision = await quotas.decide(call, channel)
        if isinstance(decision, Grant):
            return Room(channel, decision)
        denied = decision
        spent.add(channel.id)
    if channel is None:
        spent.update(one.id for one in (*call.rights.channels, *call.rights.foreign))
    return barring or denied or Denied(Why.EMPTY, POLL_MS_MIN)


def _wants_only(call: Call, spent: set[int]) -> bool:
    """Tell whether all channels of a call are spent, as is known."""
    rights = call.rights
    return all(one.id in spent for one in (*rights.channels, *rights.foreign))


def _helps(denied: Denied) -> bool:
    """Tell whether waiting helps against what a call was told."""
    return denied.why is Why.EMPTY or denied.why is Why.CROWDED
