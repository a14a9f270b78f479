"""Can the channels' hosts be found, and do their certificates hold?"""

import asyncio
import datetime
import socket
import ssl
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from relay.control.doctor.certificates import judge_expiry
from relay.control.doctor.diagnosis import Diagnosis, judge

HTTPS_PORT: Final = 443
HANDSHAKE_S: Final = 5.0
AT_ONCE: Final = 16
"""Hosts asked side by side: 500 channels share few hosts, but a resolver should not be flooded."""


class Host(NamedTuple):
    """A host of the catalog, and the channels that need it."""

    name: str
    port: int
    secure: bool
    channels: tuple[str, ...]


def find_hosts(channels: Iterable[tuple[str, str]]) -> list[Host]:
    """Return each host once, in order of name; `channels` are (name, base_url)."""
    found: dict[tuple[str, int, bool], list[str]] = {}
    for name, base_url in channels:
        url = urlsplit(base_url)
        secure = url.scheme == "https"
        port = url.port or (HTTPS_PORT if secure else 80)
        if url.hostname:
            found.setdefault((url.hostname, port, secure), []).append(name)
    return [Host(*key, tuple(names)) for key, names in sorted(found.items())]


async def check_upstreams(
    hosts: Iterable[Host], trust: ssl.SSLContext, now: datetime.datetime
) -> list[Diagnosis]:
    """Judge every host, side by side."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def check(host: Host) -> list[Diagnosis]:
        async with turn:
            return await check_host(host, trust, now)

    return [one for found in await asyncio.gather(*map(check, hosts)) for one in found]


async def check_host(host: Host, trust: ssl.SSLContext, now: datetime.datetime) -> list[Diagnosis]:
    """Judge one host: its name, then its TLS."""
    named = await check_name(host)
    if not named.ok or not host.secure:
        return [named]
    return [named, await check_tls(host, trust, now)]


async def check_name(host: Host) -> Diagnosis:
    """Judge whether the host's name resolves, and how fast."""
    check = f"dns {host.name}"
    if _is_address(host.name):
        return Diagnosis(check, ok=True, value="an address", mend="")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            found = await loop.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        reason = "no answer from the name server"
    except OSError as error:
        reason = f"does not resolve: {error.strerror}"
    else:
        took_ms = round((loop.time() - began_s) * 1000)
        return Diagnosis(check, ok=True, value=f"{len(found)} addresses in {took_ms} ms", mend="")
    mend = f"resolvectl query {host.name}; a wrong base_url of {_named(host)}?"
    return Diagnosis(check, ok=False, value=reason, mend=mend)


async def check_tls(host: Host, trust: ssl.SSLContext, now: datetime.datetime) -> Diagnosis:
    """Judge whether the host's certificate is good, and for how long."""
    check = f"tls {host.name}:{host.port}"
    mend = f"the provider has to mend it; until then: relay channel drain {host.channels[0]}"
    try:
        async with asyncio.timeout(HANDSHAKE_S):
            _, writer = await asyncio.open_connection(host.name, host.port, ssl=trust)
    except ssl.SSLCertVerificationError as error:
        return Diagnosis(check, ok=False, value=error.verify_message, mend=mend)
    except TimeoutError:
        return Diagnosis(check, ok=False, value="no handshake in time", mend=_way(host))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Diagnosis(check, ok=False, value=f"no connection: {reason}", mend=_way(host))
    try:
        ends_s = ssl.cert_time_to_seconds(writer.get_extra_info("peercert")["notAfter"])
    finally:
        writer.transport.abort()
    ends = datetime.datetime.fromtimestamp(ends_s, datetime.UTC)
    return judge_expiry(check, ends, now, mend)


def judge_plain(hosts: Iterable[Host], *, allowed: bool) -> list[Diagnosis]:
    """Judge hosts that are spoken to without TLS, where that is not meant."""
    plain = [host for host in hosts if not host.secure and not _is_address(host.name)]
    if allowed or not plain:
        return []
    names = ", ".join(host.name for host in plain)
    return [judge("plain upstreams", names, "relay apply with https:// base URLs", ok=False)]


def _named(host: Host) -> str:
    first, *others = host.channels
    return f"channel {first}" + (f" and {len(others)} more" if others else "")


def _way(host: Host) -> str:
    return f"openssl s_client -connect {host.name}:{host.port}; a firewall, or the wrong port?"


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
