"""Keys: well-formed when minted, any single typo noticed, digests under the pepper only."""

from hypothesis import given
from hypothesis import strategies as st

from relay.wire.api_keys import PREFIX, RANDOM_BYTES, digest, is_well_formed, last4, mint

randoms = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@given(randoms)
def test_minted_keys_are_well_formed(random_bytes: bytes) -> None:
    key = mint(random_bytes)
    assert key.startswith(PREFIX) and len(key) == 44
    assert is_well_formed(key)
    assert last4(key) == key[40:]


@given(randoms, st.integers(0, 43), st.sampled_from("0Az"))
def test_a_typo_is_noticed(random_bytes: bytes, at: int, char: str) -> None:
    key = mint(random_bytes)
    typo = key[:at] + char + key[at + 1 :]
    assert is_well_formed(typo) is (typo == key)
    assert not is_well_formed(key[:-1]) and not is_well_formed("")


@given(st.text(max_size=20), st.binary(min_size=1, max_size=8))
def test_digests_depend_on_key_and_pepper(key: str, pepper: bytes) -> None:
    found = digest(pepper, key.encode("utf-8", "ignore").decode())
    assert len(found) == 32
    assert found != digest(pepper + b"x", key.encode("utf-8", "ignore").decode())


def test_a_header_with_raw_bytes_has_a_digest_too() -> None:
    assert len(digest(b"p", "caf\udce9")) == 32
