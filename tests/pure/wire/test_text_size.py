"""Goal: text is counted, pictures are not, escapes count as their characters.

Method: bodies made of known parts.
"""

import msgspec
import pytest

from relay.wire.request.text_size import (
    BYTES_PER_TOKEN,
    IMAGES_MAX,
    LONG_BYTES,
    SMALL_BYTES,
    estimate_prompt,
    weigh,
)

PICTURE = "data:image/png;base64," + "A" * 40_000


def body(*parts: str) -> bytes:
    return msgspec.json.encode({"messages": [{"role": "user", "content": part} for part in parts]})


def test_a_small_body_is_text() -> None:
    assert weigh(b"x" * SMALL_BYTES) == (SMALL_BYTES, 0)


def test_pictures_are_counted_but_are_no_text() -> None:
    text = "words; and more words. " * 100
    size, images = weigh(body(text, PICTURE, PICTURE))
    assert images == 2
    assert len(text) < size < len(text) + 250


def test_a_picture_without_an_end_is_text() -> None:
    broken = PICTURE.encode()
    assert weigh(broken) == (len(broken), 1)


def test_the_search_is_bounded() -> None:
    many = b'";base64,"' * (IMAGES_MAX + 500)
    assert weigh(many)[1] == IMAGES_MAX


@pytest.mark.parametrize("word", ["\u4f60\u597d", "\u65e5\u672c\u8a9e"])
def test_escapes_count_as_what_they_stand_for(word: str) -> None:
    escaped = "".join(f"\\u{ord(character):04x}" for character in word) * 400
    size, _ = weigh(b'{"content":"' + escaped.encode() + b'"}')
    plain = len(word.encode()) * 400
    assert 0.9 * plain < size < 1.1 * plain


@pytest.mark.parametrize("size", [2_000, LONG_BYTES - 100, LONG_BYTES + 100, 300_000])
def test_ascii_counts_the_same_however_long_it_is(size: int) -> None:
    text = (b"lorem ipsum dolor sit amet, " * (size // 28 + 1))[:size]
    assert estimate_prompt(text, size, 0) == round(size / BYTES_PER_TOKEN + 0.5)
