"""Names of upstreams to addresses: off the loop's thread pool, cached, and never forgotten.

getaddrinfo threads stall under churn, so c-ares asks. A provider's name that resolved once is
served from the last good answer while DNS is down: an old address is worth a try, none is not.
"""

import asyncio
import ipaddress
import itertools
from collections import deque
from typing import Final

import aiodns

TTL_S_MIN: Final = 5
TTL_S_MAX: Final = 300
"""Provider names fail over by DNS within minutes; asking more often than that gains nothing."""
LOCALHOST: Final = ["127.0.0.1", "::1"]


class Resolver:
    """A cache of addresses in front of c-ares; the first of a name's addresses changes in turn."""

    def __init__(self) -> None:
        self._resolver: aiodns.DNSResolver | None = None
        self._known: dict[str, tuple[float, deque[str]]] = {}

    async def resolve(self, host: str) -> list[str]:
        """Return all addresses of `host`, no two times in a row with the same one first.

        Raises:
            OSError: The name does not resolve and never did.
        """
        if host == "localhost":
            return LOCALHOST.copy()
        if _is_address(host):
            return [host]
        now_s = asyncio.get_running_loop().time()
        known = self._known.get(host)
        if known is None or known[0] <= now_s:
            known = await self._ask(host, now_s) or known
            if known is None:
                raise OSError("name does not resolve")
            self._known[host] = known
        known[1].rotate(-1)
        return list(known[1])

    async def _ask(self, host: str, now_s: float) -> tuple[float, deque[str]] | None:
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(timeout=1.0, tries=2)
        try:
            found = await self._resolver.getaddrinfo(host)
        except aiodns.error.DNSError:
            return None
        addresses = [_text(node.addr[0]) for node in found.nodes]
        ttls = [node.ttl for node in found.nodes if node.ttl > 0]
        if not addresses:
            return None
        ttl_s = min(max(min(ttls, default=TTL_S_MIN), TTL_S_MIN), TTL_S_MAX)
        return now_s + ttl_s, deque(_in_turn_by_family(addresses))


def _in_turn_by_family(addresses: list[str]) -> list[str]:
    """Return addresses so that IPv4 and IPv6 alternate (RFC 8305, section 4)."""
    first = ":" in addresses[0]
    same = [address for address in addresses if (":" in address) == first]
    other = [address for address in addresses if (":" in address) != first]
    pairs = itertools.zip_longest(same, other)
    return list(dict.fromkeys(one for pair in pairs for one in pair if one is not None))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _text(address: bytes | str) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
