"""Goal: only what Stripe signed, lately and for this endpoint, is believed; and read to the cent.

Method: bodies signed here by the documented scheme, then every part of header and body spoiled.
"""

import json

import pytest

from relay.billing.recharge import Currency
from relay.billing.signature import WINDOW_S
from relay.billing.stripe import Session, fits, is_signed, read_event, sign, to_minor

SECRET = b"whsec_of_tests"
NOW_S = 1_732_406_400
BODY = json.dumps(
    {
        "id": "evt_1",
        "object": "event",
        "type": "checkout.session.completed",
        "data": {
            "object": {
                "id": "cs_test_1",
                "object": "checkout.session",
                "amount_total": 10_000,
                "client_reference_id": "R-1",
                "currency": "usd",
                "payment_intent": "pi_1",
                "payment_status": "paid",
                "status": "complete",
            }
        },
    }
).encode()


def header(at: int = NOW_S, secret: bytes = SECRET, body: bytes = BODY) -> str:
    return f"t={at},v1={sign(secret, str(at), body)},v0=6ffbb59b2300aae63f272406069a9788598b792a"


def test_the_documented_scheme_is_hmac_sha256_over_time_dot_body() -> None:
    # printf '1.{}' | openssl dgst -sha256 -hmac whsec_of_tests
    expected = "5dbd1fd08852f63707238720fd41f5dcea072c9898fbb30b5922086397bce2f8"
    assert sign(SECRET, "1", b"{}") == expected


def test_what_stripe_signed_is_believed() -> None:
    assert is_signed(SECRET, header(), BODY, NOW_S)
    assert is_signed(SECRET, header(NOW_S - WINDOW_S), BODY, NOW_S)


def test_one_of_several_signatures_is_enough_while_a_secret_is_changed() -> None:
    other = sign(b"whsec_other", str(NOW_S), BODY)
    ours = sign(SECRET, str(NOW_S), BODY)
    assert is_signed(SECRET, f"t={NOW_S},v1={other},v1={ours}", BODY, NOW_S)


@pytest.mark.parametrize(
    "spoiled",
    [
        "",
        "t=,v1=",
        f"t={NOW_S}",
        f"v1={sign(SECRET, str(NOW_S), BODY)}",
        f"t={NOW_S},t={NOW_S},v1={sign(SECRET, str(NOW_S), BODY)}",
        f"t={NOW_S},v0={sign(SECRET, str(NOW_S), BODY)}",
        f"t={NOW_S + 1},v1={sign(SECRET, str(NOW_S), BODY)}",
        f"t=+{NOW_S},v1={sign(SECRET, str(NOW_S), BODY)}",
        header(NOW_S - WINDOW_S - 1),
        header(NOW_S + WINDOW_S + 1),
        header(secret=b"whsec_other"),
        header(body=BODY + b" "),
        header().partition(",v0")[0][:-1],
        "t=1,v1=\N{SNOWMAN}",
    ],
)
def test_anything_else_is_not(spoiled: str) -> None:
    assert not is_signed(SECRET, spoiled, BODY, NOW_S)


def test_only_events_of_payment_pages_say_something() -> None:
    event = read_event(BODY)
    assert event is not None
    assert event.is_paid
    assert (event.session.client_reference_id, event.session.amount_total) == ("R-1", 10_000)
    assert read_event(b'{"type": "invoice.paid", "data": {"object": {"id": 1}}}') is None
    for body in (b"", b"[]", b"{}", b'{"type": "checkout.session.completed"}', b"\xff"):
        with pytest.raises(ValueError, match="no event"):
            read_event(body)


def test_a_page_that_is_not_paid_is_not_paid() -> None:
    event = read_event(BODY.replace(b'"paid"', b'"unpaid"'))
    assert event is not None
    assert not event.is_paid
    expired = read_event(BODY.replace(b"session.completed", b"session.expired"))
    assert expired is not None
    assert not expired.is_paid


def test_amounts_are_compared_to_the_cent() -> None:
    page = Session(id="cs_1", amount_total=1_050, currency="usd")
    assert fits(page, 10_500_000_000, Currency.USD)
    assert not fits(page, 10_500_000_000, Currency.CNY)
    assert not fits(page, 10_510_000_000, Currency.USD)
    assert not fits(Session(id="cs_1"), 10_500_000_000, Currency.USD)
    with pytest.raises(ValueError, match="two decimals"):
        to_minor(10_501_000_000 + 1)
