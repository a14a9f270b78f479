"""The scripted model: its answer is a pure function of what the user said last.

Two mocks given the same conversation say the same words, whatever their names and models, and
either goes on from any prefix of the other's answer. That makes a stream carried over between them
checkable byte for byte.

    last user message -> digest -> word 0, word 1, ... -> tokens of the whole answer
"""

import hashlib
import json
from functools import lru_cache
from itertools import count
from typing import Final

import msgspec

# A few words leave ASCII and a few need escapes in JSON: joins and cuts must survive both.
_WORDS: Final = (
    *("the", "of", "a", "to", "and", "in", "is", "it", "on", "as", "with", "by", "that", "for"),
    *("river", "stone", "light", "garden", "window", "paper", "morning", "signal", "engine"),
    *("harbour", "copper", "ladder", "meadow", "thread", "lantern", "orchard", "compass"),
    *("saddle", "winter", "barrel", "silver", "bridge", "timber", "anchor", "pepper", "marble"),
    *("candle", "ribbon", "hollow", "quiet", "gentle", "bright", "narrow", "steady", "slowly"),
    *("naïve", "größer", "café", "数据", "🙂", "“quoted”", '"plain"', "back\\slash"),
)


class Passage(msgspec.Struct, frozen=True):
    """What is left to say.

    `tokens`: text pieces in order; joined to the prefix they give the whole answer. `cut`: the
    limit on tokens was reached before the end.
    """

    tokens: tuple[str, ...]
    cut: bool

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.tokens)


def digest(said: bytes, choice: int = 0) -> bytes:
    """Return what an answer grows from; another for each of the n choices."""
    return hashlib.blake2b(said, digest_size=16, salt=b"%d" % choice).digest()


def continue_from(whole: tuple[str, ...], prefix: str, tokens_max: int | None) -> Passage:
    """Return the rest of the answer `whole` after `prefix`, at most `tokens_max` tokens of it.

    A prefix may end inside a token: the token's rest comes first and counts as one. A prefix that
    is no part of the answer is ignored, as a model would start anew.
    """
    tokens = _after(whole, prefix)
    if tokens_max is None or len(tokens) <= tokens_max:
        return Passage(tokens, cut=False)
    return Passage(tokens[:tokens_max], cut=True)


@lru_cache(maxsize=4096)
def prose(root: bytes, length: int, token_bytes: int = 0) -> tuple[str, ...]:
    """Return the tokens of a plain answer: `length` words, each after the first led by a space.

    Args:
        root: From `digest`.
        length: Tokens in the whole answer.
        token_bytes: Stretch each token to at least this many characters.
    """
    words = _words(root, length)
    return tuple(
        _stretch(word if index == 0 else f" {word}", token_bytes)
        for index, word in enumerate(words)
    )


@lru_cache(maxsize=4096)
def json_object(root: bytes, length: int, token_bytes: int = 0) -> tuple[str, ...]:
    """Return the tokens of `{"answer":"..."}`, the answer of JSON mode: valid when whole."""
    inner = [
        json.dumps(token, ensure_ascii=False)[1:-1]
        for token in prose(root, max(length - 2, 0), token_bytes)
    ]
    return ('{"answer":"', *inner, '"}')


def tool_arguments(root: bytes) -> tuple[str, ...]:
    """Return the tokens of a tool call's arguments: a small JSON object."""
    first, second = _words(root, 2)
    parts = json.dumps({"query": first, "note": second}, ensure_ascii=False)
    third = len(parts) // 3
    return (parts[:third], parts[third : 2 * third], parts[2 * third :])


def fractions(root: bytes, length: int) -> list[float]:
    """Return `length` numbers in [-1, 1] that float32 holds exactly: an embedding."""
    stream = _byte_stream(root, length)
    return [(byte - 128) / 128 for byte in stream]


def _after(whole: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    if not prefix:
        return whole
    position = 0
    for index, token in enumerate(whole):
        end = position + len(token)
        if end > len(prefix):
            return _split(whole, index, prefix, position)
        if prefix[position:end] != token:
            return whole
        position = end
    return () if position == len(prefix) else whole


def _split(whole: tuple[str, ...], index: int, prefix: str, position: int) -> tuple[str, ...]:
    """Return `whole` from token `index` on, less what `prefix` holds of that token."""
    begun = prefix[position:]
    token = whole[index]
    if not token.startswith(begun):
        return whole
    return (token[len(begun) :], *whole[index + 1 :])


def _words(root: bytes, length: int) -> list[str]:
    return [_WORDS[byte % len(_WORDS)] for byte in _byte_stream(root, length)]


def _byte_stream(root: bytes, length: int) -> bytes:
    blocks = bytearray()
    for block in count():
        if len(blocks) >= length:
            break
        blocks += hashlib.blake2b(root, salt=b"%d" % block).digest()
    return bytes(blocks[:length])


def _stretch(token: str, token_bytes: int) -> str:
    return token.ljust(token_bytes, "~")
