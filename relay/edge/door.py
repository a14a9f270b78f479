"""The door of a worker: which addresses get in, how many connections they have, what they may ask.

The rules are limits.addresses'. A connection is looked up once, when it is made; a request is
looked at only while there is a blocklist or a bound on requests, and then costs a comparison of two
numbers where nothing has changed. Who is refused gets a code; the log has code and address once in
a minute.
"""

import asyncio
import ipaddress
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s, wall_s
from relay.door_rules import DoorRules
from relay.edge.allowance import Allowance, Waits
from relay.edge.client.body_room import RETRY_AFTER_S, BodyRoom
from relay.edge.client.socket import DOOR_HOLDS, ClientSocket
from relay.edge.screen import Refusals, look_at
from relay.edge.shutter import Shutter
from relay.errors import AddressLimited, AddressRefused, RelayError, Unavailable
from relay.flow.call import Call
from relay.flow.counters import Counters
from relay.flow.request import RequestHead
from relay.limits.addresses import Addresses, Rule, Verdict, Visitor, rule_code
from relay.limits.intake import Intake
from relay.limits.lending import CLASSES
from relay.limits.pressure import BEAT_S, DEDICATED, TRAINING, Pressure
from relay.model import Account, Key, Snapshot, lines_of
from relay.wire.client_ip import Network

HOLD_S: Final = 1.0
"""How long a connection that tries keys is not read, and a new one of a refused address."""
REFUSED_CONNECTIONS_MAX: Final = 64
"""Connections that a refused address may have: so many wrong keys a second are looked at."""
GUESTS_MAX: Final = 256
STALE_S: Final = 1.0
STANDS: Final = 4
"""A queue in the kernel counts if it was there at so many beats."""
OWN_SHARE: Final = 0.6
"""What part of a beat the worker must have worked, or waited for its own quota, for its lateness to
count."""
REFUSAL_S: Final = 300e-6
"""Processor time of a connection that is taken and whose call is refused; 90 us were
measured where nothing else ran, three times that in a worker that waits for its turn."""
REFUSAL_TLS_S: Final = 1.5e-3
"""The same with a handshake."""

_log = logging.getLogger("relay.edge")


class Door:
    """Looks at addresses for one worker.

    Args:
        rules: `[door]`.
        trusted: Proxies, which bring other people's requests.
        counters: What is refused is counted.
        room: The memory that bodies take.
        digest: Returns what a presented key is known by; None: no request is looked at unparsed.
        allowance: How long this process has waited for its quota.
    """

    def __init__(
        self,
        rules: DoorRules,
        trusted: tuple[Network, ...],
        counters: Counters,
        room: BodyRoom,
        digest: Callable[[str], bytes | None] | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self.addresses = Addresses(rules)
        self.room = room
        """The memory that bodies take."""
        self.shutter = Shutter()
        """Keeps away who dials on and on while it is refused."""
        self.pressure = Pressure(rules.shed_lag_ms / 1_000)
        self.calls_max = 0
        """So many calls have a connection each; 0 = nobody knows yet."""
        self.beats = False
        """Whether the worker's pressure is felt, which it is while calls run."""
        self.refusal_s = REFUSAL_S
        self._due_s = self._cpu_s = 0.0
        self._late_s = rules.shed_lag_ms / 1_000
        self._digest = digest
        self._refusals = Refusals(_overloaded)
        self._allowance = allowance or Allowance()
        self._waits, self._waits_s = Waits(0, 0.0), 0.0
        """What it said last, and when."""
        self._queued_s = deque([0.0] * STANDS, STANDS)
        """For how long who came last waited to be taken, at the last beats."""
        self._intake = Intake()
        self._entered = self._refused = self._refused_fresh = 0
        """New connections, calls that were sent away, and those of new connections, since then."""
        self._guests: dict[str, None] = {}
        """Addresses that have made calls of dedicated lines while there was pressure."""
        self.on_pressed: Callable[[bool], None] = _nothing
        """Told when calls may be sent away from now on, and when they are not any more."""
        self._presses = False
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
        kinds = {line.kind for line in snapshot.lines.values()}
        self._has_dedicated = CLASSES[DEDICATED] in kinds
        self.addresses.swap(snapshot.blocks)
        self.watches = self.addresses.watches or self.pressure.felt

    # --- pressure ------------------------------------------------------------------------------

    def begin_beats(self) -> None:
        """Feel the pressure from now on, until nothing runs."""
        self.beats = True
        self._cpu_s = time.process_time()
        self._next_beat()

    def _next_beat(self) -> None:
        self._due_s = clock_s() + BEAT_S
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        late_s = clock_s() - self._due_s
        cpu_s = time.process_time()
        worked_s = cpu_s - self._cpu_s
        self._cpu_s = cpu_s
        guarded = self.calls_max if self._has_dedicated else 0
        calls_share = self._counters.inflight / guarded if guarded else 0.0
        own_s, busy = self._own_lateness(late_s, worked_s)
        self.pressure.beat(own_s, max(self.room.share, calls_share), busy=busy)
        felt = self.pressure.felt
        self.watches = self.addresses.watches or felt
        self._thin(worked_s, felt=felt)
        if self._counters.inflight > 0 or felt or self._intake.share < 1.0:
            self._next_beat()
        else:
            self.beats = False

    def _own_lateness(self, late_s: float, worked_s: float) -> tuple[float, bool]:
        """Return how late this worker is by its own work, and whether it has no time left.

        Late with its beat, or with who waits for it: the loop takes a connection a turn, so a crowd
        waits in the kernel and no beat is late for it. Who waits for a processor that others have
        is late as well, and sends nobody away for it. Who waits because its quota is used up did
        that work itself; but one such wait is how a worker with a quota lives, and no sign that it
        cannot follow. A queue of STALE_S counts whoever has the processor: its clients give up.
        """
        elapsed_s = BEAT_S + late_s
        # Many may dial at once; a queue that stands is one that was there all the time.
        self._queued_s.append(elapsed_s * self.shutter.waiting() / max(self._entered, 1))
        queued_s = min(self._queued_s)
        if queued_s > STALE_S and self._late_s:
            return queued_s, True
        late_s = max(late_s, queued_s)
        if worked_s > OWN_SHARE * elapsed_s:
            return late_s, True
        if late_s <= self._late_s and not self.pressure.felt:
            return 0.0, False
        before, before_s = self._waits, self._waits_s
        self._waits, self._waits_s = self._allowance.waits(), clock_s()
        count = self._waits.times - before.times
        waited_s = self._waits.waited_s - before.waited_s
        recent = self._waits_s - before_s < 2 * elapsed_s  # else they say nothing of now
        if not recent or count <= 0 or worked_s + waited_s < OWN_SHARE * elapsed_s:
            return 0.0, False
        return max(late_s - waited_s / count, 0.0), True

    def _thin(self, worked_s: float, *, felt: bool) -> None:
        """Leave to the kernel who would cost too much to refuse."""
        intake = self._intake
        begun = max(self._entered - self._refused_fresh, 0)
        self._entered = self._refused_fresh = self._refused = 0
        if felt or intake.share < 1.0:
            intake.beat(begun, worked_s, self.refusal_s, self.pressure.let_in)
            # Who stands in the kernel's queue came before the kernel thinned them so much.
            stands = min(self._queued_s) > self._late_s
            self.pressure.thinned = 1.0 if stands else intake.share
            self.shutter.thin(intake.share, self._guests.keys())
            self.shutter.shorten(short=felt)
            if felt != self._presses:
                self._presses = felt
                self.on_pressed(felt)
            self._refusals.renew()
        elif self._guests:
            self._guests.clear()

    def turn_away(self, connection: ClientSocket, read: bytes) -> bytes | None:
        """Look at the first read of a connection unparsed; return the no to answer, None if none.

        Only while there is pressure. The connection ends behind the answer.
        """
        connection.screened = False
        if self._snapshot is None or self._digest is None or not self.pressure.felt:
            return None
        request = look_at(read)
        key = self._snapshot.keys.get(self._digest(request.key) or b"") if request else None
        account = self._snapshot.accounts.get(key.account_id) if key is not None else None
        if request is None or key is None or account is None:
            return None
        if not self._sheds(connection, self._class_of(key, account, "")):
            connection.let_in = True
            return None
        connection.keeps_alive = False
        if not request.whole:
            connection.owed = True
        return self._refusals.answer(request.dialect)

    def _relieve(self, connection: ClientSocket | None, call: Call) -> None:
        """Send a call away where the worker cannot carry all that it is offered."""
        if connection is not None and connection.let_in:
            connection.let_in = False  # it was its turn, as it was looked at unparsed
        elif self._sheds(connection, self._rank_of(call)):
            if connection is not None and self._refused > self._intake.budget:
                connection.keeps_alive = False  # who asks on has to dial, which has a bound
            raise _overloaded()

    def _sheds(self, connection: ClientSocket | None, rank: int) -> bool:
        """Tell whether the next call of a class is sent away, and count it."""
        visitor, fresh = None, False
        if connection is not None:
            visitor, fresh = connection.visitor, connection.fresh
            connection.fresh = False
        if not self.pressure.sheds(rank, fresh=fresh):
            if rank == DEDICATED and visitor is not None and len(self._guests) < GUESTS_MAX:
                self._guests[visitor.key] = None
            return False
        if visitor is not None:
            self._guests.pop(visitor.key, None)  # until its next call of a dedicated line
        self._counters.refused["overload"] += 1
        self._refused += 1
        self._refused_fresh += fresh
        return True

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
        if not self._has_dedicated or self._snapshot is None or head.credential is None:
            return False
        key = self._snapshot.keys.get(head.credential)
        account = self._snapshot.accounts.get(key.account_id) if key is not None else None
        if key is None or account is None:
            return False
        return self._class_of(key, account, head.line) == DEDICATED

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
        connection.screened = self.pressure.value > 0.0
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
        if self.pressure.felt:
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


def _overloaded() -> Unavailable:
    return Unavailable("The relay is overloaded; try again.", retry_after_s=RETRY_AFTER_S)


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
