"""Which channel a call has to go to, for what it refers to; and what it is told otherwise.

    marks of the request --> owner known here --> bound, within the same callback
                         --> not known here   --> Redis is asked first (find)
    bound to a channel in service    it alone is asked: over load, affinity and price
    bound to one that is not         the dialect's own error, after which its clients begin anew;
                                     or, where the line says so and the context is all there, the
                                     call without what only that channel can read
    another account's                as if it were not there
    nobody's                         as any other call

Nothing here runs for a call that refers to nothing.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from relay.billing.tariff import Tariff
from relay.clock import now_us
from relay.errors import DependencyDown, RelayError, Unavailable
from relay.flow.balancer import Balancer
from relay.flow.call import Call
from relay.flow.request import RequestFacts, Rights
from relay.flow.state.bound import Bound, Owner
from relay.flow.state.owners import Owners
from relay.model import FREE_PRICE, Channel, LostState, Snapshot
from relay.records import Endpoint
from relay.routing.breaker import Availability
from relay.routing.table import Outcome
from relay.wire.state.loss import hard_mark, lost, may_be_left_out, without_reasoning
from relay.wire.state.marks import ENCRYPTED, KIND_BYTES, SIGNATURE, THOUGHT

DEAD: Final = frozenset({Outcome.REFUSED, Outcome.DENIED, Outcome.MODEL_GONE, Outcome.FORBIDDEN})
"""What shows at once that a channel cannot be asked; anything else has to come again first."""
FAILED: Final = frozenset({Outcome.SERVER_ERROR, Outcome.CUT, Outcome.STALLED, Outcome.ERROR_EVENT})
DROPPED: Final = b"x-relay-dropped: reasoning\r\n"
_JOBS: Final = frozenset(
    {
        *(Endpoint.RESPONSE, Endpoint.VIDEO, Endpoint.FILE),
        *(Endpoint.MESSAGE_BATCH, Endpoint.CONTENT_BATCH),
    }
)
"""What is charged by what its provider keeps: that is not deleted before it was looked at."""
_OPAQUE: Final = (ENCRYPTED, SIGNATURE, THOUGHT)


class StateRouter:
    """Binds the calls of one worker to who holds what they refer to.

    Args:
        owners: Who made what.
        balancer: What is known of the channels.
        snapshot: Returns the catalog as it is.
    """

    def __init__(
        self, owners: Owners, balancer: Balancer, snapshot: Callable[[], Snapshot | None]
    ) -> None:
        self.owners = owners
        self.last_look: Callable[[Call], Awaitable[None]] | None = None
        """Asked before a job is deleted: what it used is told with it, and nowhere else."""
        self.source_looks: dict[Endpoint, Callable[[Call], Awaitable[None]]] = {}
        """Asked before something is begun whose source alone tells what it costs."""
        self.pages: dict[Endpoint, Callable[[Call], Awaitable[bytes]]] = {}
        """Asked for the answer to a call for a list."""
        self._balancer = balancer
        self._snapshot = snapshot

    def bind(self, call: Call) -> bool:
        """Bind a call by what this worker knows.

        Returns:
            False: it does not know, and `find` has to be waited for.

        Raises:
            RelayError: What the call refers to cannot be reached.
        """
        bound = call.bound
        assert bound is not None
        if bound.looked:
            return True
        if _deletes_job(call) or call.head.endpoint in self.source_looks or _lists(call):
            return False
        owner = self.owners.known(bound.marks)
        if owner is None and bound.marks and self.owners.store is not None:
            return False
        self._take(call, bound, owner)
        return True

    async def find(self, call: Call) -> None:
        """Bind a call by what all workers know; see `bind`."""
        bound = call.bound
        assert bound is not None
        if bound.looked:
            return
        try:
            owner = await self.owners.find(bound.marks)
        except DependencyDown:
            if call.head.kept is not None:
                raise Unavailable(
                    "The relay cannot find out now who has this; try again.", retry_after_s=1.0
                ) from None
            owner = None
        self._take(call, bound, owner)
        if self.last_look is not None and _deletes_job(call):
            await self.last_look(call)
        source_look = self.source_looks.get(call.head.endpoint)
        if source_look is not None:
            await source_look(call)
        if _lists(call):
            bound.told = await self.pages[call.head.endpoint](call)

    def release(self, call: Call, outcome: Outcome) -> None:
        """Let a call go whose channel has failed, where its line lets it go on without state."""
        bound = call.bound
        if bound is None or bound.free is None or outcome not in DEAD | FAILED:
            return
        if self._leave_out(call, bound) and not call.committed:
            call.response.note(DROPPED)

    def preferred(self, call: Call, channel_id: int) -> Channel | None:
        """Return a channel of the call's, where it is in service and has quota left."""
        among = tuple(one for one in call.rights.channels if one.id == channel_id)
        if not among or not self._serves(call, among[0]):
            return None
        return self._balancer.choose(call, among)

    def told(self, call: Call, outcome: Outcome, error: RelayError) -> RelayError:
        """Return the error that a call ends with: the one its client knows what to do about."""
        bound = call.bound
        if bound is None or bound.free is None or call.committed:
            return error
        dead = outcome in DEAD and outcome is not Outcome.FORBIDDEN
        if outcome in FAILED and call.rights.channels:
            dead = not self._serves(call, call.rights.channels[0])
        return lost(hard_mark(bound.marks)) if dead else error

    def _take(self, call: Call, bound: Bound, owner: Owner | None) -> None:
        bound.looked = True
        bound.owner = owner
        if call.head.kept is not None:
            self._take_kept(call, bound, owner)
            return
        if owner is None:
            return
        mark = hard_mark(bound.marks)
        account = call.rights.account
        assert account is not None
        if mark and mark[:KIND_BYTES] not in _OPAQUE and owner.account_id != account.id:
            raise lost(mark)
        rights = call.rights
        channel = next((one for one in rights.channels if one.id == owner.channel_id), None)
        if not mark:
            bound.preferred = owner.channel_id if channel is not None else 0
            return
        bound.free = rights
        if channel is not None and (len(rights.channels) == 1 or self._serves(call, channel)):
            call.rights = _only(rights, channel)
            return
        if not self._leave_out(call, bound):
            raise lost(mark)
        call.notes += DROPPED

    def _serves(self, call: Call, channel: Channel) -> bool:
        """Tell whether a channel is in service for the call's model, or a trial of it is due."""
        health = self._balancer.health
        return (
            health.availability(channel.id, call.request.model, now_us())
            is not Availability.COOLING
        )

    def _leave_out(self, call: Call, bound: Bound) -> bool:
        """Have a call go on without its state, where line and request allow that."""
        line, free, fields = call.rights.line, bound.free, call.question.fields
        if line is None or free is None or fields is None or line.lost_state is not LostState.DROP:
            return False
        if not may_be_left_out(bound.marks):
            return False
        kept = without_reasoning(fields)
        if kept is None:
            return False
        call.question = call.question.continue_with(kept)
        call.rights = free
        bound.free = None
        return True

    def _take_kept(self, call: Call, bound: Bound, owner: Owner | None) -> None:
        """Find the rights of a call to a thing that is kept: its maker's, if it is its account's.

        Raises:
            StateLost: CLIENT; it is nobody's, or another account's, or its channel is no more.
        """
        if not bound.marks:
            return  # something new is made: admission has found the channels
        rights, snapshot = call.rights, self._snapshot()
        mark = bound.marks[-1]
        if (
            owner is None
            or snapshot is None
            or rights.account is None
            or owner.account_id != rights.account.id
        ):
            raise lost(mark)
        channel = snapshot.channels.get(owner.channel_id)
        line = snapshot.lines.get(owner.line_id)
        if channel is None or channel.evicted or line is None or rights.group is None:
            raise lost(mark)
        request = call.request
        call.request = RequestFacts(
            owner.model, stream=request.stream, body_bytes=request.body_bytes
        )
        tariff = Tariff(FREE_PRICE, rights.group.multiplier_ppm)
        call.rights = Rights(rights.key, rights.account, rights.group, line, tariff, (channel,))


def _only(rights: Rights, channel: Channel) -> Rights:
    """Return the same rights with one channel left."""
    return Rights(rights.key, rights.account, rights.group, rights.line, rights.tariff, (channel,))


def _deletes_job(call: Call) -> bool:
    kept = call.head.kept
    return kept is not None and kept.method == "DELETE" and kept.endpoint in _JOBS


def _lists(call: Call) -> bool:
    kept = call.head.kept
    return kept is not None and kept.lists
