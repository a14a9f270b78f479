r"""How much text a request or an answer holds, told from its bytes: no tokenizer, no decoding.

    bytes --sample, by script--> tokens for a byte  x  bytes of text  = estimate

Pictures come as base64 inside strings, which is no text, and everything else counts. A body of
kilobytes costs well below a microsecond in ASCII, a few where a script has to be told.

Source: the weights were fitted to o200k_base over 26 languages: the estimate of each is within 25 %
(tests/pure/wire/test_text_size.py holds the counts). Other tokenizers need more for some scripts.
"""

import re
from typing import Final

BASE64: Final = b";base64,"
SMALL_BYTES: Final = 1_024
"""A body up to this is taken as text whole: a picture would not fit."""
IMAGES_MAX: Final = 1_000
"""What looks like a picture beyond it counts as text: the search is bounded."""
IMAGE_TOKENS: Final = 1_000
"""Of a picture in a prompt; never counted by its bytes: base64 is no text."""
SAMPLE_BYTES: Final = 256
"""Of each window that is looked at: as it is written, so is the rest."""
WINDOWS: Final = 4
LONG_BYTES: Final = 48 * 1024

BYTES_PER_TOKEN: Final = 4.3
"""Of ASCII: between English (5.2), its neighbours (4.4), code (3.9) and Italian (3.5)."""
_ASCII_MICRO: Final = round(1e6 / BYTES_PER_TOKEN)
_THAI: Final = (b"\xe0\xb8", b"\xe0\xb9")
_THAI_MICRO: Final = 150_000
"""More for a character than the other scripts that begin with this byte."""
_SCRIPTS: Final = (
    (0xC2, 0xCD, 1_000_000),  # letters of Latin with marks: they break words up
    (0xCE, 0xCF, 410_000),  # Greek
    (0xD0, 0xD4, 310_000),  # Cyrillic
    (0xD5, 0xDF, 410_000),  # Armenian, Hebrew, Arabic
    (0xE0, 0xE0, 330_000),  # Devanagari, Bengali, Tamil and their like
    (0xE1, 0xE1, 250_000),  # Georgian, Vietnamese
    (0xE2, 0xE2, 600_000),  # punctuation and signs
    (0xE3, 0xE9, 830_000),  # Chinese, Japanese
    (0xEA, 0xEE, 700_000),  # Korean
    (0xEF, 0xEF, 800_000),  # full-width forms
    (0xF0, 0xF4, 1_500_000),  # emoji
)
"""First and last lead byte, millionths of a token for a character."""

_CLASSES: Final = bytes(
    next((1 + at for at, (low, high, _) in enumerate(_SCRIPTS) if low <= byte <= high), 0)
    for byte in range(256)
)
_CONTINUATION: Final = bytes(range(0x80, 0xC0))
_ESCAPE: Final = re.compile(rb"\\u([0-9a-fA-F]{4})")
_SEMICOLON: Final = ord(";")
_BACKSLASH: Final = ord("\\")


def weigh(body: bytes) -> tuple[int, int]:
    """Return the bytes of text in a JSON body as UTF-8, and the pictures in it."""
    size = len(body)
    if size <= SMALL_BYTES:
        return size, 0
    # One byte is found ten times as fast as several, and asked for as a number faster still.
    text, images = size, 0
    if _SEMICOLON in body and body.rfind(BASE64) >= 0:
        text, images = _leave_out_pictures(body)
    middle = size // 2
    sample = body[middle : middle + SAMPLE_BYTES]
    if _BACKSLASH in sample and b"\\u" in sample:
        text = text * len(_ESCAPE.sub(_unescape, sample)) // SAMPLE_BYTES
    return text, images


def estimate_tokens(text: bytes) -> int:
    """Return about how many tokens some text is, encoded as UTF-8 or with JSON's escapes."""
    return estimate_like(text, len(text)) if text else 0


def estimate_like(sample: bytes, text_bytes: int) -> int:
    """Return about how many tokens so many bytes of text are that is written like a sample."""
    micro, looked_at, _ = _look_at(sample)
    return -(-text_bytes * micro // (looked_at * 1_000_000))


def estimate_prompt(body: bytes, text_bytes: int, images: int) -> int:
    """Return about how many tokens a JSON body is; see `weigh` for the two that are known of it."""
    micro, _, text_looked_at = _look_at(body)
    return -(-text_bytes * micro // (text_looked_at * 1_000_000)) + images * IMAGE_TOKENS


def _look_at(text: bytes) -> tuple[int, int, int]:
    """Return the millionths of a token in a sample, its bytes, and its bytes as UTF-8; >= 1."""
    sample = text if len(text) <= SMALL_BYTES else _sample(text)
    size = len(sample)
    if _BACKSLASH in sample and b"\\u" in sample:
        sample = _ESCAPE.sub(_unescape, sample)
    if sample.isascii():
        return _ASCII_MICRO * len(sample), size or 1, len(sample) or 1
    leads = sample.translate(_CLASSES, _CONTINUATION)
    micro = leads.count(0) * _ASCII_MICRO
    for at, (_, _, weight) in enumerate(_SCRIPTS, 1):
        micro += leads.count(at) * weight
    micro += (sample.count(_THAI[0]) + sample.count(_THAI[1])) * _THAI_MICRO
    return micro, size, len(sample)


def _sample(text: bytes) -> bytes:
    """Return windows all over the text, those left out that a picture fills.

    Of text in ASCII one tells as much as several; but to look whether all of it is costs more than
    they do where it is long.
    """
    if len(text) <= LONG_BYTES and text.isascii() and _BACKSLASH not in text:
        return text[:SAMPLE_BYTES]
    step = (len(text) - SAMPLE_BYTES) // (WINDOWS - 1)
    windows = [text[at * step : at * step + SAMPLE_BYTES] for at in range(WINDOWS)]
    told = [one for one in windows if not one.isascii() or b" " in one or b'"' in one]
    return b"".join(told or windows)


def _unescape(found: re.Match[bytes]) -> bytes:
    # Half of a surrogate pair takes three bytes so: a pair counts as six, an emoji's four nearly.
    return chr(int(found[1], 16)).encode("utf-8", "surrogatepass")


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
