"""Goal: a redemption code survives how people type it. Method: properties over all random bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.billing.codes import CODE_CHARS, RANDOM_BYTES, digest, mint, normalise

random_bytes = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(random_bytes, random_bytes)
def test_codes_differ_where_their_bytes_do(one: bytes, other: bytes) -> None:
    assert (mint(one) == mint(other)) == (one == other)
    assert len(normalise(mint(one))) == CODE_CHARS


@given(random_bytes)
def test_a_code_is_read_however_it_is_typed(random: bytes) -> None:
    code = mint(random)
    for typed in (
        code.lower(),
        code.replace("-", ""),
        code.replace("-", "  "),
        f" {code}\n",
        code.replace("0", "o").replace("1", "l"),
        code.replace("1", "I"),
    ):
        assert digest(b"pepper", typed) == digest(b"pepper", code)


def test_a_digest_needs_the_pepper() -> None:
    code = mint(b"r" * RANDOM_BYTES)
    assert len(digest(b"a", code)) == 32
    assert digest(b"a", code) != digest(b"b", code)


@pytest.mark.parametrize("text", ["", "A", "U" * 26, "0" * 25, "0" * 27, "é" * 26, "\0" * 26])
def test_what_cannot_be_a_code_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a redemption code"):
        normalise(text)
