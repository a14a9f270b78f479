"""What addresses may do at the door: who is blocked, who asks too much, who tries keys. Pure.

    enter, leave   a connection: one look into a dict
    look           a request, where there is anything to look at (`watches`)
    note_wrong_key a request with a key that nobody has: answered, then throttled, then refused

An IPv6 customer owns a /64 and moves in it, so that is what is counted. Whatever is refused has a
code, which says to `relay block explain` what it was: B-7 is an entry of the blocklist, all others
say their rule and the address itself.
"""

import enum
from base64 import b32decode, b32encode
from binascii import Error as BinasciiError
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import msgspec

from relay.door_rules import DoorRules
from relay.model import Block

WINDOW_S: Final = 60.0
BURST_S: Final = 6.0
"""How much of a minute's requests an address may send at once."""
TOLD_AGAIN_S: Final = 60.0
"""An address that goes on is told of once in this: a flood must not fill the log."""
SCAN: Final = 64
"""Remembered addresses looked at when there is no room for another one."""
PREFIX6: Final = 64

Network = IPv4Network | IPv6Network


class Rule(enum.StrEnum):
    """Why an address is refused; the first letter of its code."""

    BLOCKED = "B"
    CONNECTIONS = "C"
    REQUESTS = "R"
    WRONG_KEYS = "W"


class Verdict(msgspec.Struct, frozen=True):
    """What is refused. `wait_s`: when it is worth coming back; None = nobody knows."""

    rule: Rule
    code: str
    wait_s: float | None = None
    refuses: bool = True
    """False: one request too many, and not the address itself."""


class Visitor:
    """What a worker remembers of one address."""

    __slots__ = (
        "connections",
        "epoch",
        "full_s",
        "key",
        "matched",
        "refused_until_s",
        "since_s",
        "told_s",
        "wrong",
    )

    def __init__(self, key: str) -> None:
        self.key = key
        """The address; of IPv6 the /64."""
        self.connections = 0
        self.wrong = 0
        """Wrong keys since `since_s`."""
        self.since_s = 0.0
        self.refused_until_s = 0.0
        self.full_s = 0.0
        """When its bucket of requests is full again."""
        self.told_s = -TOLD_AGAIN_S
        self.epoch = -1
        self.matched: tuple[Block, ...] = ()
        """Entries of the lists that its address is in, as of `epoch`; the narrowest first."""


class Addresses:
    """All that one worker remembers, within bounds.

    Args:
        rules: `[door]`.
    """

    def __init__(self, rules: DoorRules) -> None:
        self._rules = rules
        self._visitors: dict[str, Visitor] = {}
        self._blocks: tuple[Block, ...] = ()
        self._epoch = 0
        self._by_prefix: dict[tuple[int, int], dict[int, list[Block]]] = {}
        """By version and length of prefix, then by the network's number."""
        self._everywhere: list[Block] = []
        self.watches = rules.rpm > 0
        """Whether requests are to be looked at, and not only connections and wrong keys."""

    def __len__(self) -> int:
        return len(self._visitors)

    def swap(self, blocks: tuple[Block, ...]) -> None:
        """Go by other lists from now on."""
        if blocks == self._blocks:
            return
        self._blocks = blocks
        self._epoch += 1
        self._by_prefix, self._everywhere = {}, []
        for block in blocks:
            network = block.network
            if network is None:
                self._everywhere.append(block)
                continue
            place = (network.version, network.prefixlen)
            number = int(network.network_address)
            self._by_prefix.setdefault(place, {}).setdefault(number, []).append(block)
        self.watches = self._rules.rpm > 0 or bool(blocks)

    # --- connections ---------------------------------------------------------------------------

    def enter(self, ip: str) -> Visitor:
        """Count a connection."""
        visitor = self.find(ip)
        visitor.connections += 1
        return visitor

    def leave(self, visitor: Visitor, now_s: float) -> None:
        """Count it no more; an address of which nothing else is known is forgotten."""
        visitor.connections -= 1
        if self._is_plain(visitor, now_s) and self._visitors.get(visitor.key) is visitor:
            del self._visitors[visitor.key]

    def crowds(self, visitor: Visitor, now_s: float, *, refused_max: int) -> bool:
        """Tell whether an address has too many connections, the newest of them included."""
        bound = self._rules.connections_max
        if visitor.refused_until_s > now_s:
            bound = min(bound, refused_max) if bound else refused_max
        return bound > 0 and visitor.connections > bound and not self._is_allowed(visitor, "", 0)

    def is_refused(self, visitor: Visitor, now_s: float) -> bool:
        """Tell whether an address is refused for its wrong keys."""
        return visitor.refused_until_s > now_s

    def is_throttled(self, visitor: Visitor, now_s: float) -> bool:
        """Tell whether a wrong key of an address would be answered by more than 401."""
        rules, refused = self._rules, visitor.refused_until_s > now_s
        if refused or not rules.wrong_keys_max or now_s - visitor.since_s > WINDOW_S:
            return refused
        return visitor.wrong > rules.wrong_keys_max

    def find(self, ip: str) -> Visitor:
        """Return what is remembered of an address; it is remembered from now on."""
        key = address_key(ip) if ":" in ip else ip
        visitor = self._visitors.get(key)
        if visitor is None:
            if len(self._visitors) >= self._rules.addresses_max:
                self._make_room()
            visitor = self._visitors[key] = Visitor(key)
        return visitor

    # --- requests ------------------------------------------------------------------------------

    def look(self, visitor: Visitor, path: str, now_s: float, wall_s: float) -> Verdict | None:
        """Return why a request is refused; None: it is not.

        Args:
            visitor: Whose it is.
            path: Of its URL.
            now_s: A clock that never jumps.
            wall_s: Seconds since 1970, for entries that expire.
        """
        blocked: Block | None = None
        for block in self._matched(visitor):
            if (block.expires_s is None or wall_s < block.expires_s) and path.startswith(
                block.path
            ):
                if block.allow:
                    return None
                blocked = blocked or block
        if blocked is not None:
            left_s = None if blocked.expires_s is None else blocked.expires_s - wall_s
            return Verdict(Rule.BLOCKED, block_code(blocked.id), left_s)
        return self._take(visitor, now_s) if self._rules.rpm else None

    def note_wrong_key(self, visitor: Visitor, now_s: float, wall_s: float) -> Verdict | None:
        """Count a wrong key; return why it is answered otherwise than by 401."""
        rules = self._rules
        if not rules.wrong_keys_max and not rules.wrong_keys_refused:
            return None
        if self._is_allowed(visitor, "", wall_s):
            return None
        if now_s - visitor.since_s > WINDOW_S:
            visitor.since_s, visitor.wrong = now_s, 0
        visitor.wrong += 1
        code = rule_code(Rule.WRONG_KEYS, visitor.key)
        refused = visitor.refused_until_s > now_s
        if refused or (rules.wrong_keys_refused and visitor.wrong > rules.wrong_keys_refused):
            visitor.refused_until_s = now_s + rules.refused_s
            return Verdict(Rule.WRONG_KEYS, code, rules.refused_s)
        if rules.wrong_keys_max and visitor.wrong > rules.wrong_keys_max:
            wait_s = max(1.0, visitor.since_s + WINDOW_S - now_s)
            return Verdict(Rule.WRONG_KEYS, code, wait_s, refuses=False)
        return None

    def is_news(self, visitor: Visitor, now_s: float) -> bool:
        """Tell whether a refusal of an address is to be told: not each one of a flood."""
        if now_s - visitor.told_s < TOLD_AGAIN_S:
            return False
        visitor.told_s = now_s
        return True

    # --- inside --------------------------------------------------------------------------------

    def _take(self, visitor: Visitor, now_s: float) -> Verdict | None:
        """Take a request out of the address's bucket, which holds six seconds' worth."""
        step_s = WINDOW_S / self._rules.rpm
        full_s = max(visitor.full_s, now_s) + step_s
        wait_s = full_s - now_s - max(BURST_S, step_s)
        if wait_s > 0:
            code = rule_code(Rule.REQUESTS, visitor.key)
            return Verdict(Rule.REQUESTS, code, wait_s, refuses=False)
        visitor.full_s = full_s
        return None

    def _is_allowed(self, visitor: Visitor, path: str, wall_s: float) -> bool:
        return any(
            block.allow
            and path.startswith(block.path)
            and (block.expires_s is None or wall_s < block.expires_s)
            for block in self._matched(visitor)
        )

    def _matched(self, visitor: Visitor) -> tuple[Block, ...]:
        if visitor.epoch != self._epoch:
            visitor.matched, visitor.epoch = self._match(visitor.key), self._epoch
        return visitor.matched

    def _match(self, key: str) -> tuple[Block, ...]:
        """Return the entries that an address is in, the narrowest first."""
        found: list[Block] = []
        try:
            address = ip_address(key.partition("/")[0])
        except ValueError:  # a unix socket
            return tuple(self._everywhere)
        bits = address.max_prefixlen
        number = int(address)
        for version, length in sorted(self._by_prefix, key=_length, reverse=True):
            if version == address.version:
                masked = number >> (bits - length) << (bits - length)
                found += self._by_prefix[version, length].get(masked, ())
        return (*found, *self._everywhere)

    def _is_plain(self, visitor: Visitor, now_s: float) -> bool:
        return (
            visitor.connections <= 0
            and visitor.refused_until_s <= now_s
            and visitor.full_s <= now_s
            and (not visitor.wrong or now_s - visitor.since_s > WINDOW_S)
            and now_s - visitor.told_s >= TOLD_AGAIN_S
        )

    def _make_room(self) -> None:
        """Forget one of those that came first: one without a connection, and rather not refused."""
        worst: str | None = None
        for key in [key for key, _ in zip(self._visitors, range(SCAN), strict=False)]:
            visitor = self._visitors.pop(key)
            if visitor.connections <= 0 and not visitor.refused_until_s:
                return
            self._visitors[key] = visitor  # behind the others
            worst = worst or key
        if worst is not None:
            del self._visitors[worst]


def address_key(ip: str) -> str:
    """Return what an address is counted as: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ip
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address) >> PREFIX6 << PREFIX6, PREFIX6)))


def block_code(block_id: int) -> str:
    """Return the code of an entry of the blocklist."""
    return f"{Rule.BLOCKED.value}-{block_id}"


def rule_code(rule: Rule, key: str) -> str:
    """Return the code of a rule that an address broke; it says both."""
    try:
        address = ip_address(key.partition("/")[0])
    except ValueError:
        return f"{rule.value}-0"
    packed = address.packed if address.version == 4 else address.packed[:8]
    return f"{rule.value}-{b32encode(packed).decode().rstrip('=')}"


def read_code(code: str) -> tuple[Rule, int | Network]:
    """Return what a code says: its rule, and the id of an entry or an address.

    Raises:
        ValueError: It is none.
    """
    letter, dash, rest = code.strip().upper().partition("-")
    if not dash or letter not in set(Rule):
        raise ValueError(f"no code of a refusal: {code[:40]!r}")
    rule = Rule(letter)
    if rule is Rule.BLOCKED:
        if not rest.isdecimal() or len(rest) > 18:
            raise ValueError(f"no code of a refusal: {code[:40]!r}")
        return rule, int(rest)
    try:
        packed = b32decode(rest + "=" * (-len(rest) % 8))
    except (BinasciiError, ValueError):
        packed = b""
    if len(packed) == 4:
        return rule, IPv4Network((packed, 32))
    if len(packed) == 8:
        return rule, IPv6Network((packed + bytes(8), PREFIX6))
    raise ValueError(f"no code of a refusal: {code[:40]!r}")


def _length(place: tuple[int, int]) -> int:
    return place[1]
