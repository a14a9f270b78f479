"""The canonical forms of what a catalog file may say: URLs, money, multipliers, names.

Each takes what was written and returns the one form it is kept and compared in, or raises a
ValueError that begins with the field's name and says what is wrong. Pure.
"""

import fnmatch
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from relay.units import format_multiplier, format_usd, parse_multiplier, parse_usd
from relay.wire.client_ip import network_of

MODEL_CHARS_MAX: Final = 256
"""As in a request: a longer model name could never be asked for."""


def model_map(models: list[str]) -> dict[str, str]:
    """Return {public name: the upstream's} of entries "public" or "public=upstream".

    Raises:
        ValueError: An empty or too long name, or a public name given twice.
    """
    found: dict[str, str] = {}
    for entry in models:
        public, equals, upstream = entry.partition("=")
        if not equals:
            upstream = public
        for name in (public, upstream):
            if not 0 < len(name) <= MODEL_CHARS_MAX or not name.isprintable():
                raise ValueError(f"models: not a model or public=upstream: {entry[:80]!r}")
        if public in found:
            raise ValueError(f"models: {public!r} is given twice")
        found[public] = upstream
    return found


def is_pattern(entry: str) -> bool:
    """Tell whether an entry of a channel's models chooses out of its list: "gpt-*", "!*-audio*"."""
    return "*" in entry or entry.startswith("!")


def check_patterns(patterns: Iterable[str]) -> None:
    """Raise ValueError for patterns that choose nothing."""
    given = list(patterns)
    for entry in given:
        if "=" in entry or not 1 < len(entry) + 1 <= MODEL_CHARS_MAX or not entry.isprintable():
            raise ValueError(f"models: not a pattern such as gpt-* or !*-audio*: {entry[:80]!r}")
    if given and all(entry.startswith("!") for entry in given):
        raise ValueError("models: patterns that only leave out choose nothing: begin with *")


def choose_models(patterns: Iterable[str], listed: Iterable[str]) -> list[str]:
    """Return those of an upstream's models that patterns choose; "!" leaves out, whatever else."""
    given = list(patterns)
    wanted = [entry for entry in given if not entry.startswith("!")]
    unwanted = [entry[1:] for entry in given if entry.startswith("!")]
    return [
        name
        for name in listed
        if any(fnmatch.fnmatchcase(name, one) for one in wanted)
        and not any(fnmatch.fnmatchcase(name, one) for one in unwanted)
    ]


def canonical_url(url: str) -> str:
    """Return an upstream's base URL without its trailing slash; ValueError names the fault."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("base_url: not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("base_url: expected http://... or https://...")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url: no user, query or fragment may stand in it")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("base_url: only plain ASCII may stand in it")
    return parts.geturl().rstrip("/")


def canonical_usd(field: str, text: str, *, optional: bool = False) -> str:
    """Return an amount of USD that is not negative, in canonical form; "" only if optional."""
    if optional and not text:
        return ""
    try:
        nanos = parse_usd(text)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None
    if nanos < 0:
        raise ValueError(f"{field}: must not be negative")
    return format_usd(nanos)


def canonical_multiplier(field: str, text: str, *, optional: bool = False) -> str:
    """Return a multiplier in canonical form; "" only if optional."""
    if optional and not text:
        return ""
    try:
        return format_multiplier(parse_multiplier(text))
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def canonical_networks(field: str, texts: Iterable[str]) -> list[str]:
    """Return CIDRs sorted and without repeats; a bare address is a network of one."""
    try:
        return sorted({str(network_of(text)) for text in texts})
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


def check_name(name: str) -> None:
    """Raise ValueError for a name that a log or a table could not show faithfully."""
    if not name.isprintable() or name != name.strip():
        raise ValueError("a name has no control character, and no space at its ends")


def check_distinct(field: str, names: list[str]) -> None:
    """Raise ValueError for a list that names something twice."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{field}: {name!r} is given twice")
