"""Goal: only a fresh callback signed with our secret is ours. Method: a vector, then forgeries."""

import hashlib
import hmac

import pytest

from relay.billing.signature import WINDOW_S, is_fresh, is_signed, sign

SECRET, AT, BODY = b"hook-secret", "1732406400", b'{"order": "A-1"}'


def test_the_signature_is_hmac_sha256_over_timestamp_dot_body() -> None:
    expected = hmac.new(SECRET, b'1732406400.{"order": "A-1"}', hashlib.sha256).hexdigest()
    assert sign(SECRET, AT, BODY) == expected
    assert is_signed(SECRET, AT, expected, BODY)
    assert is_signed(SECRET, AT, f"{'0' * 64}, {expected.upper()}", BODY)


@pytest.mark.parametrize(
    ("secret", "at", "body"),
    [(b"other", AT, BODY), (SECRET, "1732406401", BODY), (SECRET, AT, BODY + b" ")],
)
def test_a_signature_fits_one_secret_time_and_body(secret: bytes, at: str, body: bytes) -> None:
    assert not is_signed(SECRET, AT, sign(secret, at, body), BODY)


@pytest.mark.parametrize("signatures", ["", ",", "x", "\udcff\udcfe", "é", "," * 10_000])
def test_nonsense_is_no_signature(signatures: str) -> None:
    assert not is_signed(SECRET, AT, signatures, BODY)


def test_only_so_many_signatures_are_looked_at() -> None:
    good = sign(SECRET, AT, BODY)
    assert is_signed(SECRET, AT, "x,x,x," + good, BODY)
    assert not is_signed(SECRET, AT, "x,x,x,x," + good, BODY)


@pytest.mark.parametrize(
    ("timestamp", "fresh"),
    [
        ("1000", True),
        (str(1000 - WINDOW_S), True),
        (str(1000 + WINDOW_S), True),
        (str(1000 - WINDOW_S - 1), False),
        (str(1000 + WINDOW_S + 1), False),
        ("", False),
        ("-1000", False),
        ("1e3", False),
        ("\N{ARABIC-INDIC DIGIT ONE}000", False),
        ("9" * 400, False),
    ],
)
def test_a_callback_is_fresh_for_five_minutes(timestamp: str, *, fresh: bool) -> None:
    assert is_fresh(timestamp, 1000.0) is fresh
