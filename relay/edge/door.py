"""The door of a worker: which addresses get in, how many connections they have, what they may ask.

The rules are limits.addresses'. A connection is looked up once, when it is made; a request is
looked at only while there is a blocklist or a bound on requests, and then costs a comparison of two
numbers where nothing has changed. Who is refused gets a code; the log has code and address once in
a minute.
"""

import asyncio
import ipaddress
import logging
from typing import Final

from relay.clock import clock_s, wall_s
from relay.door_rules import DoorRules
from relay.edge.client.socket import DOOR_HOLDS, ClientSocket
from relay.errors import AddressLimited, AddressRefused, RelayError
from relay.flow.counters import Counters
from relay.flow.request import RequestHead
from relay.limits.addresses import Addresses, Rule, Verdict, Visitor, rule_code
from relay.model import Block
from relay.wire.client_ip import Network

HOLD_S: Final = 1.0
"""How long a connection that tries keys is not read, and a new one of a refused address."""
REFUSED_CONNECTIONS_MAX: Final = 64
"""Connections that a refused address may have: so many wrong keys a second are looked at."""

_log = logging.getLogger("relay.edge")


class Door:
    """Looks at addresses for one worker.

    Args:
        rules: `[door]`.
        trusted: Proxies, which bring other people's requests.
        counters: What is refused is counted.
    """

    def __init__(self, rules: DoorRules, trusted: tuple[Network, ...], counters: Counters) -> None:
        self.addresses = Addresses(rules)
        self._trusted = trusted
        self._counters = counters
        self.watches = self.addresses.watches
        """Whether requests are to be looked at."""

    def swap(self, blocks: tuple[Block, ...]) -> None:
        """Go by other lists from now on."""
        self.addresses.swap(blocks)
        self.watches = self.addresses.watches

    # --- connections ---------------------------------------------------------------------------

    def enter(self, connection: ClientSocket) -> None:
        """Count a connection that was just made; cut it where its address has too many."""
        if not connection.peer_ip or self._brings_others(connection.peer_ip):
            return
        visitor = connection.visitor = self.addresses.enter(connection.peer_ip)
        now_s = clock_s()
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

    def look(self, connection: ClientSocket | None, head: RequestHead) -> None:
        """Refuse a request whose address may not make it.

        Raises:
            AddressRefused: CLIENT; it is on the blocklist.
            AddressLimited: CLIENT; it asks too much.
        """
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
        if self.watches:
            self.look(connection, head)
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
