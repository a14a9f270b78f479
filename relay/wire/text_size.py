"""How much text a request holds, told from its bytes: what limits reckon with before it runs.

No decoding: pictures come as base64 inside strings, which is no text, and everything else counts.
A body of kilobytes costs well below a microsecond.
"""

from typing import Final

BASE64: Final = b";base64,"
SMALL_BYTES: Final = 1_024
"""A body up to this is taken as text whole: a picture would not fit."""
IMAGES_MAX: Final = 1_000
"""What looks like a picture beyond it counts as text: the search is bounded."""
SAMPLE_BYTES: Final = 256
"""From the middle of a body: as it is written, so is the rest."""
ESCAPE_BYTES: Final = 3
r"""What \uXXXX takes beyond the three bytes of its character in UTF-8."""

_SEMICOLON: Final = ord(";")
_BACKSLASH: Final = ord("\\")


def weigh(body: bytes) -> tuple[int, int]:
    """Return the bytes of text in a JSON body, and the pictures in it."""
    size = len(body)
    if size <= SMALL_BYTES:
        return size, 0
    # One byte is found ten times as fast as several, and asked for as a number faster still.
    text, images = _leave_out_pictures(body) if _SEMICOLON in body else (size, 0)
    middle = size // 2
    sample = body[middle : middle + SAMPLE_BYTES]
    if _BACKSLASH in sample:
        escapes = sample.count(b"\\u")
        text -= text * escapes * ESCAPE_BYTES // SAMPLE_BYTES
    return text, images


def _leave_out_pictures(body: bytes) -> tuple[int, int]:
    size, images = len(body), 0
    at = body.find(BASE64)
    while at >= 0 and images < IMAGES_MAX:
        images += 1
        end = body.find(b'"', at)
        if end < 0:
            break
        size -= end - at
        at = body.find(BASE64, end)
    return size, images
