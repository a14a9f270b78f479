"""How often somebody may try: a leaky bucket for each name and each address. In memory.

A person who forgot a password tries five times; a program that guesses tries for ever. The bound
for an address is higher: an office shares one. What is counted is forgotten when it has leaked
away, and the oldest when there are too many. An address of too many tries is looked at before
anything is read or done for it: refusing is what a flood gets most of.
"""

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from relay.errors import RateLimited

PER_NAME_MAX: Final = 6
PER_ADDRESS_MAX: Final = 30
LEAK_S: Final = 20.0
"""One try is forgiven every so often."""
KEPT_MAX: Final = 50_000


class Throttle:
    """Counts tries that failed or may fail.

    Args:
        now_s: A clock that never jumps.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """key -> (level, when it was that)."""
        self._known: OrderedDict[str, None] = OrderedDict()
        """Networks from which somebody came in, the latest last."""

    def admit(self, name: str, ip: str) -> None:
        """Count one try.

        Raises:
            RateLimited: CLIENT; of this name or from this address there were too many.
        """
        checks = ((f"n:{name[:256]}", PER_NAME_MAX), (f"a:{_network(ip)}", PER_ADDRESS_MAX))
        for key, most in checks:
            self._check(key, most)
        for key, _ in checks:
            self._put(key, self._level(key) + 1)

    def look(self, ip: str) -> None:
        """Look whether an address may try at all, whatever name it will say. Counts nothing.

        Raises:
            RateLimited: CLIENT; there were too many tries from it.
        """
        self._check(f"a:{_network(ip)}", PER_ADDRESS_MAX)

    def forgive(self, name: str, ip: str) -> None:
        """Take back a try that was right: its name starts anew, its address one lower."""
        self._levels.pop(f"n:{name[:256]}", None)
        network = _network(ip)
        key = f"a:{network}"
        self._put(key, max(0.0, self._level(key) - 1))
        self._known[network] = None
        self._known.move_to_end(network)
        if len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)

    def knows(self, ip: str) -> bool:
        """Return whether somebody has come in from there since this process began."""
        return _network(ip) in self._known

    def _check(self, key: str, most: int) -> None:
        over = self._level(key) - (most - 1)
        if over > 0:
            raise RateLimited("too many tries: wait a little", retry_after_s=over * LEAK_S)

    def _level(self, key: str) -> float:
        level, at_s = self._levels.get(key, (0.0, 0.0))
        return max(0.0, level - (self._now_s() - at_s) / LEAK_S)

    def _put(self, key: str, level: float) -> None:
        self._levels[key] = (level, self._now_s())
        self._levels.move_to_end(key)
        if len(self._levels) > KEPT_MAX:
            self._levels.popitem(last=False)


def _network(ip: str) -> str:
    """Return an IPv6 /64 for its addresses: who has one has all of them."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return ip
