"""What Stripe says of a payment page: its signature, and the fields that money depends on. Pure.

    Stripe-Signature: t=1732406400,v1=5f1c...,v1=...,v0=...

v1 is HMAC-SHA256 with the endpoint's secret over t, a dot, and the raw body; several stand there
while a secret is changed. Of an event only a Checkout Session is read: whether it is paid, for
which order, how much. An event of another kind says nothing to us, however well it is signed.
"""

import hashlib
import hmac
from typing import Final, NamedTuple

import msgspec

from relay.billing.recharge import Currency
from relay.billing.signature import SIGNATURES_MAX, is_fresh
from relay.decoding import Decoder, Undecodable

SETTLED: Final = frozenset(
    {"checkout.session.completed", "checkout.session.async_payment_succeeded"}
)
"""Events after which the money may be there; `payment_status` says whether it is."""
GIVEN_UP: Final = frozenset({"checkout.session.expired", "checkout.session.async_payment_failed"})
NANOS_PER_MINOR: Final = 10_000_000
"""Of a cent and of a fen, both a hundredth."""
HEADER_CHARS_MAX: Final = 1_000


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A Checkout Session, as an event or a question tells of it."""

    id: str
    client_reference_id: str | None = None
    """Our order number: set when the page was made."""
    amount_total: int | None = None
    """In hundredths of the currency."""
    currency: str | None = None
    payment_status: str = ""
    """paid, unpaid (still to come, or never) or no_payment_required."""
    status: str | None = None
    """open, complete or expired."""
    payment_intent: str | None = None
    url: str | None = None


class _Carried(msgspec.Struct, frozen=True):
    object: msgspec.Raw


class _Envelope(msgspec.Struct, frozen=True):
    type: str
    data: _Carried


_envelope = Decoder(_Envelope)
_session = Decoder(Session)


class StripeEvent(NamedTuple):
    """An event about a payment page."""

    kind: str
    session: Session

    @property
    def is_paid(self) -> bool:
        """Whether it says that the money is there."""
        return self.kind in SETTLED and self.session.payment_status == "paid"


def is_signed(secret: bytes, header: str, body: bytes, now_s: float) -> bool:
    """Return whether a body was signed with the secret, within the window around now."""
    stamps: list[str] = []
    signatures: list[str] = []
    for part in header[:HEADER_CHARS_MAX].split(","):
        name, _, value = part.strip().partition("=")
        if name == "t":
            stamps.append(value)
        elif name == "v1":
            signatures.append(value)
    if len(stamps) != 1 or not is_fresh(stamps[0], now_s):
        return False
    expected = sign(secret, stamps[0], body).encode()
    given = (one.encode(errors="replace") for one in signatures[:SIGNATURES_MAX])
    return any(hmac.compare_digest(expected, one) for one in given)


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the v1 signature of a body sent at `timestamp` (seconds since 1970, as text)."""
    return hmac.digest(secret, timestamp.encode() + b"." + body, hashlib.sha256).hex()


def read_event(body: bytes) -> StripeEvent | None:
    """Return the event of a payment page, None for one of another kind.

    Raises:
        ValueError: It is no event at all, or lacks what money depends on.
    """
    try:
        event = _envelope.decode(body)
        if event.type not in SETTLED | GIVEN_UP:
            return None
        return StripeEvent(event.type, read_session(event.data.object))
    except Undecodable:
        raise ValueError("this is no event of Stripe's") from None


def read_session(body: bytes | msgspec.Raw) -> Session:
    """Return a Checkout Session.

    Raises:
        ValueError: It is none.
    """
    try:
        return _session.decode(body)
    except Undecodable:
        raise ValueError("this is no Checkout Session of Stripe's") from None


def to_minor(amount_nanos: int) -> int:
    """Return hundredths of a currency.

    Raises:
        ValueError: The amount is no whole number of them.
    """
    minor, rest = divmod(amount_nanos, NANOS_PER_MINOR)
    if rest:
        raise ValueError("the amount has more than two decimals")
    return minor


def fits(session: Session, amount_nanos: int, currency: Currency) -> bool:
    """Return whether a session is about this amount of this currency, to the cent."""
    told = (session.amount_total, (session.currency or "").lower())
    return told == (to_minor(amount_nanos), currency.value.lower())
