"""Goal: an encoded body is what it was before, or a 400. Method: each encoding, whole and cut."""

import gzip
import importlib
import zlib
from typing import Any

import pytest
import zstandard

from relay.errors import BadRequest, UnsupportedMedia
from relay.wire.request import encodings
from relay.wire.request.encodings import PIECE_BYTES, check_encoding, decodable, decoded_pieces

brotli: Any = importlib.import_module("brotli")  # it comes without types

BODY = b'{"model":"m","messages":[]}' + bytes(range(256)) * 2000


def raw_deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=-15)
    return coder.compress(data) + coder.flush()


ENCODED = {
    "gzip": gzip.compress(BODY),
    "GZIP": gzip.compress(BODY[:100]) + gzip.compress(BODY[100:]),
    "deflate": zlib.compress(BODY),
    "Deflate": raw_deflate(BODY),
    "br": brotli.compress(BODY),
    "zstd": zstandard.compress(BODY),
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_what_was_encoded_comes_back_in_pieces(encoding: str) -> None:
    check_encoding(encoding)
    pieces = list(decoded_pieces(encoding, ENCODED[encoding]))
    assert b"".join(pieces) == BODY
    assert max(map(len, pieces)) <= 2 * PIECE_BYTES


@pytest.mark.parametrize("encoding", ENCODED)
def test_what_breaks_off_never_passes_for_whole(encoding: str) -> None:
    whole = ENCODED[encoding]
    for cut in (0, 1, 5, len(whole) // 2, len(whole) - 1):
        try:
            found = b"".join(decoded_pieces(encoding, whole[:cut]))
        except BadRequest as error:
            assert "model" not in error.message
        else:
            assert found != BODY or encoding == "zstd"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
def test_other_bytes_are_a_400(encoding: str) -> None:
    with pytest.raises(BadRequest):
        list(decoded_pieces(encoding, b"\xffCANARY is no such thing"))


def test_something_behind_a_deflated_body_is_refused() -> None:
    with pytest.raises(BadRequest):
        list(decoded_pieces("deflate", zlib.compress(BODY) + b"x"))


@pytest.mark.parametrize("bomb", ["gzip", "br", "zstd"])
def test_a_bomb_comes_in_pieces_and_is_left_when_it_is_too_large(bomb: str) -> None:
    zeros = bytes(64 * 2**20)
    packed = {
        "gzip": gzip.compress(zeros),
        "br": brotli.compress(zeros, quality=5),
        "zstd": zstandard.compress(zeros),
    }[bomb]
    assert len(packed) < 100_000
    size = 0
    for piece in decoded_pieces(bomb, packed):
        assert len(piece) <= 2 * PIECE_BYTES
        size += len(piece)
        if size > 2**20:
            break
    assert size < 2 * 2**20


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "lzma", "x" * 99, "\x00"])
def test_what_is_not_taken_is_named_beside_what_is(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia) as found:
        check_encoding(encoding)
    assert all(name in found.value.message for name in decodable())
    assert ("compress" in found.value.message) is (encoding == "compress")


def test_without_its_library_an_encoding_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(encodings._LOADED, "br", None)
    assert "br" not in decodable()
    with pytest.raises(UnsupportedMedia):
        check_encoding("br")
