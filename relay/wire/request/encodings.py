"""Encoded request bodies, decoded in pieces, so that neither a bomb nor a large body can hurt.

gzip and deflate come with Python; br and zstd where the libraries of their makers are installed
(brotli, zstandard: both C, `pip install 'relay[encodings]'`).
Source: RFC 9110, section 8.4.1; RFC 1950-1952, 7932, 8878.
"""

import importlib
import re
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from relay.errors import BadRequest, UnsupportedMedia

PIECE_BYTES: Final = 64 * 1024
WINDOW_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of zstd. Source: RFC 8878, section 3.1.1.1.2: decoders should take at least so much."""
MEMBERS_MAX: Final = 1024
"""Of gzip, whose files may follow each other."""
_LIBRARIES: Final = {"br": "brotli", "zstd": "zstandard"}
_NAME: Final = re.compile("[a-z0-9.-]{1,20}")


def _load(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_LOADED: Final = {encoding: _load(name) for encoding, name in _LIBRARIES.items()}


def decodable() -> tuple[str, ...]:
    """Return the encodings that this installation takes."""
    return ("gzip", "deflate", *(name for name, found in _LOADED.items() if found is not None))


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that is not taken.

    Raises:
        UnsupportedMedia: CLIENT; the message names it, and those that are.
    """
    named = encoding.lower()
    if named == "identity" or named in decodable():
        return
    what = named if _NAME.fullmatch(named) else "this"
    raise UnsupportedMedia(
        f"Bodies encoded as {what} are not taken here; these are: {', '.join(decodable())}."
    )


def decoded_pieces(encoding: str, body: bytes) -> Iterator[bytes]:
    """Yield what an encoded body holds, some 64 KiB at a time.

    Raises:
        BadRequest: CLIENT; it is not so encoded, or breaks off.
    """
    named = encoding.lower()
    try:
        if named == "br":
            yield from _brotli(_LOADED["br"], body)
        elif named == "zstd":
            yield from _zstd(_LOADED["zstd"], body)
        else:
            yield from _zlib(body, 31 if named == "gzip" else _deflate_bits(body))
    except BadRequest:
        raise
    except Exception as error:
        # Each library has errors of its own; none of them may quote the body.
        raise BadRequest(f"The body is not encoded as {named}, or breaks off.") from error


def _deflate_bits(body: bytes) -> int:
    """Return zlib's window bits: "deflate" is to have zlib's frame, and often comes without."""
    framed = len(body) > 1 and body[0] & 15 == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0
    return zlib.MAX_WBITS if framed else -zlib.MAX_WBITS


def _zlib(body: bytes, bits: int) -> Iterator[bytes]:
    rest = body
    for _ in range(MEMBERS_MAX):
        member = zlib.decompressobj(bits)
        while not member.eof:
            piece = member.decompress(rest, PIECE_BYTES)
            rest = member.unconsumed_tail
            if piece:
                yield piece
            elif not rest and not member.eof:
                raise BadRequest("The encoded body breaks off.")
        rest = member.unused_data
        if not rest:
            return
        if bits != 31:
            break
    raise BadRequest("Something follows the encoded body.")


def _brotli(library: Any, body: bytes) -> Iterator[bytes]:
    stream = library.Decompressor()
    piece = stream.process(body, output_buffer_limit=PIECE_BYTES)
    while piece or not stream.is_finished():
        if not piece and stream.can_accept_more_data():
            raise BadRequest("The encoded body breaks off.")
        yield piece
        piece = stream.process(b"", output_buffer_limit=PIECE_BYTES)


def _zstd(library: Any, body: bytes) -> Iterator[bytes]:
    decoder = library.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    with decoder.stream_reader(body, read_across_frames=True) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
