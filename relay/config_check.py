"""What a type cannot say about relay.toml: addresses, networks, the window, amounts of money.

A message names the field's path and never its value: it may be a secret in the wrong place.
"""

import contextlib
import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from relay.units import parse_multiplier, parse_usd

if TYPE_CHECKING:
    from relay.config import Config

_PROBLEMS: Final = {
    "server.trusted_proxies": "not a list of CIDRs such as 10.0.0.0/8 (no host bits set)",
    "maintenance.window": "not HH:MM-HH:MM",
    "maintenance.zone": "not a known IANA time zone",
    "billing.cny_per_usd": "not a positive decimal",
    "billing.bonus": "not amounts in USD and shares, as {'100' = '0.05'}",
    "billing.enterprise_cny": "not a positive amount",
    "billing.enterprise_day_usd": "not a positive amount",
    "billing.payment_secret": "not env:NAME, file:PATH or cred:NAME",
    "alerts.webhook": "not env:NAME, file:PATH, cred:NAME, nor a URL with https or to this machine",
}
"""What to say instead of a library's message, which quotes the value."""

WEBHOOK: Final = re.compile(
    r"https://[^/?#\s]+\S*|http://(127\.\d+\.\d+\.\d+|localhost|\[::1\])(:\d+)?([/?#]\S*)?"
)
"""URLs under which nobody can read along: https, or http to this very machine."""
_REFERENCE: Final = re.compile("(env|file|cred):")


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT" ("[::1]:8080" for IPv6; port 0 = any free one).

    Raises:
        ValueError: No host, or no port in 0-65535.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host):
        raise ValueError("not HOST:PORT")
    if not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError("not HOST:PORT with a port in 0-65535")
    return bare, int(port)


def check(config: "Config") -> None:
    """Refuse what a type cannot.

    Raises:
        ValueError: The message begins with the field's path.
    """
    for name in ("listen", "admin"):
        with _named(f"server.{name}"):
            parse_address(getattr(config.server, name))
    with _named("server.trusted_proxies"):
        for network in config.server.trusted_proxies:
            ip_network(network)
    if config.limits.cluster and config.limits.sentinels:
        raise ValueError("limits.cluster: give it or limits.sentinels, not both")
    with _named("maintenance.window"):
        _check_window(config.maintenance.window)
    with _named("maintenance.zone"):
        if config.maintenance.zone != "UTC":  # known even where no zone files are installed
            ZoneInfo(config.maintenance.zone)
    with _named("billing.bonus"):
        for amount, share in config.billing.bonus.items():
            parse_usd(amount)
            parse_multiplier(share)
    for name in ("cny_per_usd", "enterprise_cny", "enterprise_day_usd"):
        with _named(f"billing.{name}"):
            _check_amount(getattr(config.billing, name))
    with _named("billing.payment_secret"):
        if config.billing.payment_secret and not _REFERENCE.match(config.billing.payment_secret):
            raise ValueError
    with _named("alerts.webhook"):
        webhook = config.alerts.webhook
        if webhook and not (_REFERENCE.match(webhook) or WEBHOOK.fullmatch(webhook)):
            raise ValueError


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Put the field's path before the problem; the value itself stays unsaid."""
    try:
        yield
    except (ValueError, ZoneInfoNotFoundError) as exc:
        problem = _PROBLEMS.get(path) or str(exc)
        raise ValueError(f"{path}: {problem}") from None


def _check_window(window: str) -> None:
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", window)
    if match is None or match.group(1, 2) == match.group(3, 4):
        raise ValueError


def _check_amount(text: str) -> None:
    if parse_usd(text) <= 0:
        raise ValueError
