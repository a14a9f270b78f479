"""Whose address a call comes from: the socket's peer, or what trusted proxies say of it."""

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from relay.errors import ConfigError

Network = IPv4Network | IPv6Network


def client_ip(peer: str, forwarded_for: str | None, trusted: tuple[Network, ...]) -> str:
    """Return the client's address.

    X-Forwarded-For is read only where the socket's own peer is a trusted proxy, and from the right:
    each proxy appends whom it saw, so the first hop that is not trusted is the last one that can be
    believed. What stands left of it, anybody could have written.

    Args:
        peer: The socket's peer, "" for a unix socket.
        forwarded_for: The header, all its lines joined by commas; None without one.
        trusted: The configured proxies.
    """
    if not trusted and "." in peer and ":" not in peer:
        return peer
    address = _parse(peer)
    if address is None:
        return peer
    if forwarded_for and _is_trusted(address, trusted):
        for hop in reversed(forwarded_for.split(",")):
            seen = _parse(hop.strip())
            if seen is None:
                break
            address = seen
            if not _is_trusted(seen, trusted):
                break
    return str(address)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether an address is in one of them."""
    found = _parse(address)
    return found is not None and _is_trusted(found, networks)


def _is_trusted(address: IPv4Address | IPv6Address, trusted: tuple[Network, ...]) -> bool:
    return any(address in network for network in trusted)


def network_of(text: str, *, strict: bool = True) -> Network:
    """Return the network that a text names; Postgres keeps it, and knows no zone (`fe80::1%eth0`).

    Raises:
        ValueError: It names none.
    """
    if "%" in text:
        raise ValueError(f"{text[:60]!r} names a zone, which no address of a client has here")
    return ip_network(text, strict=strict)


def read_networks(cidrs: Sequence[str]) -> tuple[Network, ...]:
    """Return the proxies that are believed.

    Raises:
        ConfigError: RELAY; one of them is no network.
    """
    try:
        return tuple(ip_network(cidr) for cidr in cidrs)
    except ValueError as error:
        raise ConfigError(f"server.trusted_proxies: {error}") from error
