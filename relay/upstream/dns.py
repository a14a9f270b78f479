"""Names of upstreams to addresses: off the loop's thread pool, cached, and never forgotten.

getaddrinfo threads stall under churn, so c-ares asks. A provider's name that resolved once is
served from the last good answer while DNS is down: an old address is worth a try, none is not.
"""

import asyncio
import ipaddress
import itertools
from typing import Final

import aiodns

TTL_S_MIN: Final = 5
TTL_S_MAX: Final = 300
"""Provider names fail over by DNS within minutes; asking more often than that gains nothing."""


class Resolver:
    """A cache of addresses in front of c-ares; addresses of a name are taken in turn."""

    def __init__(self) -> None:
        self._resolver: aiodns.DNSResolver | None = None
        self._known: dict[str, tuple[float, itertools.cycle[str]]] = {}

    async def resolve(self, host: str) -> str:
        """Return an address of `host`.

        Raises:
            OSError: The name does not resolve and never did.
        """
        if host == "localhost":
            return "127.0.0.1"
        if _is_address(host):
            return host
        now_s = asyncio.get_running_loop().time()
        known = self._known.get(host)
        if known is None or known[0] <= now_s:
            known = await self._ask(host, now_s) or known
            if known is None:
                raise OSError("name does not resolve")
            self._known[host] = known
        return next(known[1])

    async def _ask(self, host: str, now_s: float) -> "tuple[float, itertools.cycle[str]] | None":
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
        return now_s + ttl_s, itertools.cycle(addresses)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _text(address: bytes | str) -> str:
    return address.decode("ascii") if isinstance(address, bytes) else address
