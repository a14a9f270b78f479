"""The door of a worker: which addresses get in, how many connections they have, what they may ask.

The rules are limits.addresses'. A connection is looked up once, when it is made; a request is
looked at only while there is a blocklist or a bound on requests, and then costs a comparison of two
numbers where nothing has changed. Who is refused gets a code; the log has code and address once in
a minute.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s, wall_s
from relay.door_rules import DoorRules
from relay.edge.client.arrivals import Arrivals
from relay.edge.client.body_room import BodyRoom
from relay.edge.client.socket import DOOR_HOLDS, ClientSocket
from relay.edge.overload.gate import Gate
from relay.edge.overload.glance import Glance, glance_at, split_head
from relay.edge.overload.own_time import OwnTime
from relay.edge.overload.refusals import Refusals, overloaded
from relay.edge.shutter import Shutter
from relay.errors import AddressLimited, AddressRefused, RelayError
from relay.flow.call import Call
from relay.flow.counters import Counters
from relay.flow.request import RequestHead
from relay.limits.addresses import Addresses, Rule, Verdict, Visitor, rule_code
from relay.limits.lending import CLASSES
from relay.limits.pressure import BEAT_S, DEDICATED, TRAINING, Pressure
from relay.model import Account, Key, Snapshot, lines_of
from relay.wire.client_ip import Network

HOLD_S: Final = 1.0
"""How long a connection that tries keys is not read, and a new one of a refused address."""
REFUSED_CONNECTIONS_MAX: Final = 64
"""Connections that a refused address may have: so many wrong keys a second are looked at."""
SEEN_MAX: Final = 512
"""Heads of requests that are remembered in overload: some MB at most."""
TICK_S: Final = 0.005
"""In overload it is counted so often how many calls run."""

_log = logging.getLogger("relay.edge")


class Door:
    """Looks at addresses for one worker.

    Args:
        rules: `[door]`.
        trusted: Proxies, which bring other people's requests.
        counters: What is refused is counted.
        room: The memory that bodies take.
        digest: Returns what a presented key is known by.
    """

    def __init__(
        self,
        rules: DoorRules,
        trusted: tuple[Network, ...],
        counters: Counters,
        room: BodyRoom,
        digest: Callable[[str], bytes | None],
    ) -> None:
        self.addresses = Addresses(rules)
        self.room = room
        """The memory that bodies take."""
        self.shutter = Shutter()
        """Keeps away who dials on and on while it is refused."""
        self.pressure = Pressure()
        self.gate = Gate(rules.shed_lag_ms / 1_000)
        self.arrivals = Arrivals()
        """Who waits where too many come at once."""
        self.on_gate: Callable[[bool], None] = _nothing
        """Told when an overload begins, and when it is over."""
        self.calls_max = 0
        """So many calls have a connection each; 0 = nobody knows yet."""
        self.beats = False
        """Whether the worker's pressure is felt, which it is while calls run."""
        self._due_s = 0.0
        self._own_time = OwnTime()
        self._entered = 0
        """Connections that were made since the last beat."""
        self._digest = digest
        self._refusals = Refusals()
        self._seen: dict[bytes, tuple[int, Glance | None]] = {}
        """What heads say that were looked at unparsed, and the class of their calls."""
        self._snapshot: Snapshot | None = None
        self._ranks: dict[tuple[int, str], int] = {}
        self._has_dedicated = False
        """Only then are connections kept from the calls of other lines."""
        self._trusted = trusted
        self._counters = counters
        self.watches = self.addresses.watches
        """Whether requests are to be looked at."""

    def swap(self, snapshot: Snapshot) -> None:
        """Go by another catalog from now on."""
        self._snapshot = snapshot
        self._ranks.clear()
        self._seen.clear()
        kinds = {line.kind for line in snapshot.lines.values()}
        self._has_dedicated = CLASSES[DEDICATED] in kinds
        self.addresses.swap(snapshot.blocks)
        self._look_out()

    def _look_out(self) -> None:
        self.watches = self.addresses.watches or self.pressure.felt or self.gate.shut

    # --- pressure ------------------------------------------------------------------------------

    def begin_beats(self) -> None:
        """Feel the pressure from now on, until nothing runs."""
        self.beats = True
        self._entered = 0
        self._own_time.begin()
        self.gate.lateness.forget()
        self._next_beat()

    def _next_beat(self) -> None:
        self._due_s = clock_s() + BEAT_S
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        now_s, inflight = clock_s(), self._counters.inflight
        late_s = now_s - self._due_s
        guarded = self.calls_max if self._has_dedicated else 0
        self.pressure.beat(max(self.room.share, inflight / guarded if guarded else 0.0))
        gate, was_shut = self.gate, self.gate.shut
        gate.beat(self._own_lateness_s(late_s), inflight, now_s)
        if gate.shut:
            self._refusals.renew()
        if gate.shut != was_shut:
            self._turn_gate()
        self._look_out()
        if inflight > 0 or self.pressure.felt or gate.shut:
            self._next_beat()
        else:
            self.beats = False

    def _own_lateness_s(self, late_s: float) -> float:
        """Return how late this worker is by its own work: with its beat, or with who waits.

        The loop takes a connection a turn, and of requests a slice: so a crowd waits in the kernel
        or for its slice, and no beat is late.
        """
        waiting = 0 if self.gate.shut else self.shutter.waiting()
        queue = waiting / max(self._entered, 1)
        arrivals = self.arrivals
        slices = arrivals.waiting / max(arrivals.begun_late, 1)
        self._entered = arrivals.begun_late = 0
        queued_s = (BEAT_S + late_s) * max(queue, slices)
        return self._own_time.own_lateness_s(late_s, queued_s)

    def _turn_gate(self) -> None:
        """Say that an overload has begun, or is over."""
        shut = self.gate.shut
        _log.warning("overload" if shut else "no overload any more")
        self.on_gate(shut)
        self._seen.clear()
        if shut:
            self._tick()

    def _tick(self) -> None:
        if self.gate.shut:
            self.gate.count(self._counters.inflight)
            asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def judge(self, read: bytes, *, last: bool, late: bool = False) -> tuple[bytes, bool] | None:
        """Look at what a client sent, unparsed; only in overload.

        Args:
            read: It may be a request.
            last: Its connection ends behind a refusal.
            late: It has waited for too long to be let in.

        Returns:
            The refusal, b"" where it is let in, and whether its connection has to end, as more of
            the request is still to come; None: the usual way tells what it is.
        """
        split = split_head(read)
        if split is None or split[1] > 0:
            return None
        head, rest = split
        seen = self._seen.get(head)
        if seen is None:
            seen = self._look_at_head(head)
        rank, glance = seen
        if glance is None:
            return None
        if self.gate.lets_in(rank, late=late):
            return b"", False
        counters = self._counters
        counters.refused["overload"] += 1
        counters.requests["", glance.endpoint.value, "5xx"] += 1
        counters.unlogged += 1
        closing = last or rest < 0 or glance.closes
        return self._refusals.answer(glance.endpoint.dialect, closing=closing), rest < 0

    def _look_at_head(self, head: bytes) -> tuple[int, Glance | None]:
        """Return the class of the calls that have a head, and what else it says."""
        glance, rank = glance_at(head), TRAINING
        if glance is not None:
            rank = self._class_behind(self._digest(glance.key), glance.line)
        if len(self._seen) >= SEEN_MAX:
            self._seen.clear()
        self._seen[head] = rank, glance
        return rank, glance

    def _relieve(self, connection: ClientSocket | None, call: Call) -> None:
        """Send a call away where the worker cannot carry all that it is offered."""
        rank = self._rank_of(call)
        if self.pressure.sheds(rank) or (self.gate.shut and not self._lets_in(connection, rank)):
            self._counters.refused["overload"] += 1
            raise overloaded()

    def _lets_in(self, connection: ClientSocket | None, rank: int) -> bool:
        if connection is not None and connection.let_in:
            connection.let_in = False  # it was judged unparsed
            return True
        return self.gate.lets_in(rank)

    def _rank_of(self, call: Call) -> int:
        """Return the class of the line that a call is about to take, as far as its head says."""
        key, account = call.rights.key, call.rights.account
        return (
            TRAINING
            if key is None or account is None
            else self._class_of(key, account, call.head.line)
        )

    def goes_first(self, head: RequestHead) -> bool:
        """Tell whether a request is one of a dedicated line, as far as its head says."""
        if not self._has_dedicated:
            return False
        return self._class_behind(head.credential, head.line) == DEDICATED

    def _class_behind(self, credential: bytes | None, line_name: str) -> int:
        """Return the class of the line that a key's calls take; who has none is in training."""
        if self._snapshot is None or credential is None:
            return TRAINING
        key = self._snapshot.keys.get(credential)
        account = self._snapshot.accounts.get(key.account_id) if key is not None else None
        if key is None or account is None:
            return TRAINING
        return self._class_of(key, account, line_name)

    def _class_of(self, key: Key, account: Account, line_name: str) -> int:
        if self._snapshot is None:
            return TRAINING
        place = (key.id, line_name)
        rank = self._ranks.get(place)
        if rank is None:
            lines = lines_of(self._snapshot, key, account)
            line = next((one for one in lines if one.name == line_name), None)
            line = line or (lines[0] if lines else None)
            rank = CLASSES.index(line.kind) if line is not None else TRAINING
            self._ranks[place] = rank
        return rank

    # --- connections ---------------------------------------------------------------------------

    def enter(self, connection: ClientSocket) -> None:
        """Count a connection that was just made; cut it where its address has too many."""
        self._entered += 1
        if not connection.peer_ip or self._brings_others(connection.peer_ip):
            return
        visitor = connection.visitor = self.addresses.enter(connection.peer_ip)
        now_s = clock_s()
        if visitor.wrong and self.addresses.is_throttled(visitor, now_s) and not connection.told_ip:
            self.shutter.note_dial(visitor.key)
        if self.addresses.crowds(visitor, now_s, refused_max=REFUSED_CONNECTIONS_MAX):
            self._tell(visitor, Rule.CONNECTIONS, rule_code(Rule.CONNECTIONS, visitor.key))
            connection.cut()
        elif self.addresses.is_refused(visitor, now_s):
            # The loop begins to read a connection when this callback has returned.
            asyncio.get_running_loop().call_soon(hold, connection)

    def leave(self, connection: ClientSocket) -> None:
        """Count a connection no more."""
        if connection.visitor is not None:
            self.addresses.leave(connection.visitor, clock_s())
            connection.visitor = None

    # --- requests ------------------------------------------------------------------------------

    def look(self, connection: ClientSocket | None, call: Call) -> None:
        """Refuse a request whose address may not make it, or that is too much for the worker.

        Raises:
            AddressRefused: CLIENT; it is on the blocklist.
            AddressLimited: CLIENT; it asks too much.
            Unavailable: RELAY; the worker has too much to do.
        """
        if self.addresses.watches:
            self._look_at_address(connection, call.head)
        if self.pressure.felt or self.gate.shut:
            self._relieve(connection, call)

    def _look_at_address(self, connection: ClientSocket | None, head: RequestHead) -> None:
        visitor = self._visitor_of(connection, head)
        verdict = self.addresses.look(visitor, head.path, clock_s(), wall_s())
        if verdict is not None:
            self._tell(visitor, verdict.rule, verdict.code)
            raise _error(verdict)

    def meet_stranger(
        self, connection: ClientSocket | None, head: RequestHead, *, wrong: bool
    ) -> None:
        """Refuse who is about to be told 401 otherwise, where its address is to be.

        Args:
            connection: Whose it is; None: a turn of a session.
            head: What it asks.
            wrong: It showed a key that nobody has.

        Raises:
            AddressRefused: CLIENT; it is on the blocklist, or has tried too many keys.
            AddressLimited: CLIENT; it tries too many.
        """
        if self.addresses.watches:
            self._look_at_address(connection, head)
        if not wrong:
            return
        visitor = self._visitor_of(connection, head)
        verdict = self.addresses.note_wrong_key(visitor, clock_s(), wall_s())
        if verdict is None:
            return
        self._tell(visitor, verdict.rule, verdict.code)
        if connection is not None and connection.visitor is not None:  # else it is many people's
            hold(connection)
            connection.keeps_alive = connection.keeps_alive and not verdict.refuses
        raise _error(verdict)

    def _visitor_of(self, connection: ClientSocket | None, head: RequestHead) -> Visitor:
        visitor = None if connection is None else connection.visitor
        if connection is not None and visitor is not None and head.ip == connection.peer_ip:
            return visitor
        return self.addresses.find(head.ip)

    def _brings_others(self, ip: str) -> bool:
        if not self._trusted:
            return False
        address = ipaddress.ip_address(ip.partition("%")[0])
        return any(address in network for network in self._trusted)

    def _tell(self, visitor: Visitor, rule: Rule, code: str) -> None:
        self._counters.refused[rule.name.lower()] += 1
        if self.addresses.is_news(visitor, clock_s()):
            _log.warning("an address is refused", extra={"address": visitor.key, "code": code})


def hold(connection: ClientSocket) -> None:
    """Do not read a connection for a moment."""
    connection.hold_reading(DOOR_HOLDS)
    asyncio.get_running_loop().call_later(HOLD_S, connection.let_read, DOOR_HOLDS)


def _nothing(_: bool) -> None:  # noqa: FBT001
    """Stand where nobody listens."""


def _error(verdict: Verdict) -> RelayError:
    lookup = f"Quote the code {verdict.code} to the support of this relay."
    if verdict.refuses:
        found: dict[Rule, str] = {Rule.WRONG_KEYS: "for a while: it tried too many wrong API keys"}
        why = found.get(verdict.rule, "by its operator")
        return AddressRefused(f"This address is refused here {why}. {lookup}", verdict.code)
    why = "requests" if verdict.rule is Rule.REQUESTS else "requests with wrong API keys"
    return AddressLimited(
        f"Too many {why} from this address. {lookup}",
        verdict.code,
        retry_after_s=verdict.wait_s or HOLD_S,
    )
