"""When a certificate in a PEM file expires; pure but for the reading.

Only the validity is read, by walking DER to it, so that nothing has to be installed for it.

    Certificate ::= SEQUENCE { tbsCertificate SEQUENCE {
        version [0] OPTIONAL, serial INTEGER, signature SEQUENCE, issuer SEQUENCE,
        validity SEQUENCE { notBefore Time, notAfter Time }, ...

Source: RFC 5280, 4.1.
"""

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from relay.control.doctor.diagnosis import Diagnosis, judge

AHEAD_DAYS: Final = 14
"""ACME clients renew 30 days ahead: two weeks before the end something is wrong with them."""
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_LONG: Final = 0x80
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


def check_certificate(file: Path, now: datetime.datetime) -> Diagnosis:
    """Judge the first certificate of a file: a chain begins with the server's own."""
    check = f"certificate {file}"
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        return Diagnosis(check, ok=False, value=f"cannot be read: {reason}", mend=_readable(file))
    try:
        ends = not_after(text)
    except ValueError:
        return Diagnosis(
            check, ok=False, value="holds no certificate", mend=f"put a PEM file at {file}"
        )
    return judge_expiry(check, ends, now, f"renew {file}, then: systemctl reload relay")


def judge_expiry(
    check: str, ends: datetime.datetime, now: datetime.datetime, mend: str
) -> Diagnosis:
    """Judge how long a certificate is still good."""
    days = (ends - now).days
    when = f"{ends:%Y-%m-%d %H:%M} UTC"
    value = f"expired on {when}" if ends <= now else f"good for {days} days, until {when}"
    return judge(check, value, mend, ok=days >= AHEAD_DAYS)


def not_after(pem: str) -> datetime.datetime:
    """Return the end of the validity of the first certificate in a PEM text.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    _, begin, rest = pem.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end:
        raise ValueError("no certificate")
    try:
        der = ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{body}{_END}")
        [(_, whole)] = _elements(der)
        (_, signed), *_ = _elements(whole)
        parts = [part for tag, part in _elements(signed) if tag != _VERSION]
        (_, _), (tag, text) = _elements(parts[3])
    except (IndexError, ValueError) as error:
        raise ValueError("a damaged certificate") from error
    return _moment(tag, text.decode("ascii"))


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (tag, content) of each element in a sequence's content."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & _LONG:
            size = length & ~_LONG
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        if at + length > len(der):
            raise ValueError("a damaged certificate")
        yield tag, der[at : at + length]
        at += length


def _moment(tag: int, text: str) -> datetime.datetime:
    """Return a Time: two digits of a year mean 1950 to 2049 (RFC 5280, 4.1.2.5.1)."""
    if tag == _UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC)


def _readable(file: Path) -> str:
    return f"ls -l {file}: the relay's user has to read it"
