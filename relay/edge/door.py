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
from typing import Final

from relay.clock import clock_s, wall_s
from relay.door_rules import DoorRules
from relay.edge.client.body_room import RETRY_AFTER_S, BodyRoom
from relay.edge.client.socket import DOOR_HOLDS, ClientSocket
from relay.edge.shutter import Shutter
from relay.errors import AddressLimited, AddressRefused, RelayError, Unavailable
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
OWN_SHARE: Final = 0.6
"""What part of a beat the worker must have worked itself, for its lateness to count."""

_log = logging.getLogger("relay.edge")


class Door:
    """Looks at addresses for one worker.

    Args:
        rules: `[door]`.
        trusted: Proxies, which bring other people's requests.
        counters: What is refused is counted.
        room: The memory that bodies take.
    """

    def __init__(
        self, rules: DoorRules, trusted: tuple[Network, ...], counters: Counters, room: BodyRoom
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
        self._due_s = self._cpu_s = 0.0
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
        # Who waits for a processor that others have is late as well, and sends nobody away for it.
        busy = cpu_s - self._cpu_s > OWN_SHARE * (late_s + BEAT_S)
        self._cpu_s = cpu_s
        guarded = self.calls_max if self._has_dedicated else 0
        calls_share = self._counters.inflight / guarded if guarded else 0.0
        self.pressure.beat(late_s if busy else 0.0, max(self.room.share, calls_share))
        self.watches = self.addresses.watches or self.pressure.felt
        if self._counters.inflight > 0 or self.pressure.felt:
            self._next_beat()
        else:
            self.beats = False

    def _relieve(self, call: Call) -> None:
        """Send a call away where the worker cannot carry all that it is offered."""
        if self.pressure.sheds(self._rank_of(call)):
            self._counters.refused["overload"] += 1
            raise Unavailable("The relay is overloaded; try again.", retry_after_s=RETRY_AFTER_S)

    def _rank_of(self, call: Call) -> int:
        """Return the class of the line that a call is about to take, as far as its head says."""
        key, account = call.rights.key, call.rights.account
        return (
            TRAINING if key is None or account is None else self._class_of(key, account, call.head)
        )

    def goes_first(self, head: RequestHead) -> bool:
        """Tell whether a request is one of a dedicated line, as far as its head says."""
        if not self._has_dedicated or self._snapshot is None or head.credential is None:
            return False
        key = self._snapshot.keys.get(head.credential)
        account = self._snapshot.accounts.get(key.account_id) if key is not None else None
        if key is None or account is None:
            return False
        return self._class_of(key, account, head) == DEDICATED

    def _class_of(self, key: Key, account: Account, head: RequestHead) -> int:
        if self._snapshot is None:
            return TRAINING
        place = (key.id, head.line)
        rank = self._ranks.get(place)
        if rank is None:
            lines = lines_of(self._snapshot, key, account)
            line = next((one for one in lines if one.name == head.line), None)
            line = line or (lines[0] if lines else None)
            rank = CLASSES.index(line.kind) if line is not None else TRAINING
            self._ranks[place] = rank
        return rank

    # --- connections ---------------------------------------------------------------------------

    def enter(self, connection: ClientSocket) -> None:
        """Count a connection that was just made; cut it where its address has too many."""
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
            self._relieve(call)

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
