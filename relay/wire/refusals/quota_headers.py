"""What an upstream's headers say about its own quota: when to come back, and whether it is used up.

Every provider writes times in its own way: seconds, milliseconds, Go's durations, RFC 3339, an
HTTP date, a Unix time. A moment is counted from the upstream's own Date header, so that neither
clock has to be right. What cannot be read says nothing, and nothing lasts longer than an hour.

Source: RFC 9110, sections 5.6.7 and 10.2.3; OpenAI, "Rate limits in headers"; Anthropic, "Rate
limits: response headers"; docs/limits.md, "Rate headers".
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

WAIT_S_MAX: Final = 3600.0
VALUE_BYTES_MAX: Final = 64
"""No time is longer; what is, is not read."""

_GO_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ns|us|µs|ms|s|m|h))+")
_GO_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNIT_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNIX_S_MIN: Final = 1e9
"""A number from here on is a moment (2001 and later), not a span."""
_UNIX_MS_MIN: Final = 1e11

Headers = Mapping[bytes, bytes]


def retry_after(headers: Headers, *, now_s: float) -> float | None:
    """Return the seconds that `retry-after-ms` or `retry-after` ask for; None where neither does.

    Args:
        headers: Names in lower case.
        now_s: Seconds since 1970 UTC, for an upstream that gives a date but not its own.
    """
    wait_s = _number(_text(headers.get(b"retry-after-ms", b"")))
    if wait_s is not None:
        return min(wait_s / 1000, WAIT_S_MAX)
    text = _text(headers.get(b"retry-after", b""))
    wait_s = _number(text)
    if wait_s is None:
        wait_s = _until(_http_date(text), headers, now_s)
    return None if wait_s is None else min(wait_s, WAIT_S_MAX)


def rest_of_quota(headers: Headers, *, now_s: float) -> float | None:
    """Return the seconds until a quota that is used up refills; None where none is.

    `x-ratelimit-remaining-tokens: 0` goes with `x-ratelimit-reset-tokens`, and the same in every
    provider's spelling. Of several the longest counts.

    Args:
        headers: Names in lower case.
        now_s: Seconds since 1970 UTC.
    """
    waits_s = []
    for name, value in headers.items():
        if value == b"0" and b"ratelimit" in name and b"remaining" in name:
            reset = headers.get(name.replace(b"remaining", b"reset"), b"")
            wait_s = _reset(_text(reset), headers, now_s)
            if wait_s:
                waits_s.append(min(wait_s, WAIT_S_MAX))
    return max(waits_s, default=None)


def _reset(text: str, headers: Headers, now_s: float) -> float | None:
    number = _number(text)
    if number is not None:
        if number < _UNIX_S_MIN:
            return number
        return _until(number / 1000 if number >= _UNIX_MS_MIN else number, headers, now_s)
    if _GO_DURATION.fullmatch(text):
        return sum(float(size) * _UNIT_S[unit] for size, unit in _GO_PART.findall(text))
    return _until(_rfc_3339(text), headers, now_s)


def _until(moment_s: float | None, headers: Headers, now_s: float) -> float | None:
    """Return the seconds from the answer's own Date to a moment; 0 where it is over."""
    if moment_s is None:
        return None
    sent_s = _http_date(_text(headers.get(b"date", b"")))
    return max(moment_s - (now_s if sent_s is None else sent_s), 0.0)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace").strip() if len(value) <= VALUE_BYTES_MAX else ""


def _number(text: str) -> float | None:
    """Return a plain decimal number, None for anything else: no sign, no exponent, no infinity."""
    digits = text.replace(".", "", 1)
    return float(text) if digits.isascii() and digits.isdigit() else None


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _rfc_3339(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
