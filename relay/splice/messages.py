"""Carries a broken stream of Anthropic's on: its blocks go on where they were cut.

The client has one `message_start` and the beginning of a block. The second one's start is dropped,
its thinking too where thinking is out already, its first text goes into the block that is open, and
later blocks are numbered on. One `message_delta` tells the usage of one answer.

Source: Anthropic, Streaming messages; anthropic-sdk-python, `_fallbacks.py`: the first start and
its id stay, and indices go on.
"""

from typing import Final

import msgspec

from relay.decoding import Decoder
from relay.splice.continuation import raw_of
from relay.splice.gates import Delivered
from relay.splice.overlap import Overlap
from relay.splice.state import EventSplice, Fields, SpliceState

_fields: Final = Decoder(Fields)
_text: Final = Decoder(str)
_number: Final = Decoder(int)
_THINKING: Final = ("thinking", "redacted_thinking")
_INPUT: Final = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


class MessagesSplice(EventSplice):
    """Rewrites the events of the channel that carries a stream on (see splice.rewrite.Splice).

    Args:
        delivered: What the client has.
        overlap: Where the texts meet.
        tokens_before: Tokens of the old channel's part that the new one does not count as output.
    """

    def __init__(self, delivered: Delivered, overlap: Overlap, tokens_before: int) -> None:
        super().__init__()
        self._delivered = delivered
        self._overlap = overlap
        self._tokens_before = tokens_before
        self._blocks: dict[int, int] = {}
        """The new channel's indices, as the client knows them."""
        self._dropped: set[int] = set()
        self._seam: int | None = None
        """The new channel's index of the text that joins on."""
        self._joined = False
        """The seam is behind us."""
        self._open = delivered.open
        """The block at the seam is open at the client."""
        self._next = delivered.block + (1 if delivered.open else 0)

    def _take(self, event: Fields) -> bytes:
        kind = _text.decode(event["type"])
        match kind:
            case "content_block_start":
                return self._begin(event)
            case "content_block_delta":
                return self._go_on(event)
            case "content_block_stop":
                return self._stop(event)
            case "message_delta":
                return self._close_seam() + self._tell_usage(event)
        return self._pass(kind, event)

    def _pass(self, kind: str, event: Fields) -> bytes:
        """Return an event that is of no block."""
        if kind == "message_stop":
            self.state = SpliceState.FINISHED
            self.marked = True
        elif kind == "error":
            self.state = SpliceState.BROKEN
        begins = kind == "message_start" and not self._delivered.role_out
        return _event(kind, event) if begins or kind == "message_stop" else b""

    def _begin(self, event: Fields) -> bytes:
        index = _number.decode(event["index"])
        block = _fields.decode(event["content_block"])
        kind = _text.decode(block["type"])
        if kind in _THINKING and (self._delivered.thought or self._delivered.text):
            self._dropped.add(index)
            return b""
        if kind == "text" and not self._joined and self._seam is None:
            self._seam = index
            return self._join(_text.decode(block.get("text", b'""')))
        before = self._close_seam()
        self._blocks[index] = self._next
        self._next += 1
        return before + self._numbered(event, index)

    def _go_on(self, event: Fields) -> bytes:
        index = _number.decode(event["index"])
        if index in self._dropped:
            return b""
        if index == self._seam and not self._joined:
            delta = _fields.decode(event["delta"])
            if _text.decode(delta["type"]) == "text_delta":
                return self._join(_text.decode(delta["text"]))
            return b""  # what it cites belongs to words that may be dropped
        return self._numbered(event, index)

    def _stop(self, event: Fields) -> bytes:
        index = _number.decode(event["index"])
        if index in self._dropped:
            return b""
        if index == self._seam:
            return self._close_seam()
        return self._numbered(event, index)

    def _join(self, text: str) -> bytes:
        """Return what of a text at the seam goes to the client."""
        told = self._overlap.feed(text) if text else ""
        if self._overlap.broken:
            self.state = SpliceState.BROKEN
            return b""
        return self._tell(told)

    def _tell(self, text: str) -> bytes:
        if not text:
            return b""
        begin = b""
        if not self._open:
            # The block before is whole at the client, so what comes behind it is another one.
            self._open = True
            block = {"type": "text", "text": ""}
            begin = _made("content_block_start", index=self._next, content_block=block)
            self._next += 1
        delta = {"type": "text_delta", "text": text}
        return begin + _made("content_block_delta", index=self._next - 1, delta=delta)

    def _close_seam(self) -> bytes:
        """End the block at the seam, where it is not ended."""
        if self._joined:
            return b""
        self._joined = True
        told = self._tell(self._overlap.end())
        if self._overlap.broken:
            self.state = SpliceState.BROKEN
            return b""
        if not self._open:
            return told
        self._open = False
        return told + _made("content_block_stop", index=self._next - 1)

    def _tell_usage(self, event: Fields) -> bytes:
        if self.state is SpliceState.BROKEN:
            return b""
        usage = _fields.decode(event.get("usage", b"{}"))
        if "output_tokens" in usage:
            tokens = _number.decode(usage["output_tokens"]) + self._tokens_before
            usage["output_tokens"] = raw_of(tokens)
        for name in _INPUT:  # the first start has told them, of the prompt alone
            usage.pop(name, None)
        event["usage"] = raw_of(usage)
        return _event("message_delta", event)

    def _numbered(self, event: Fields, index: int) -> bytes:
        if self.state is SpliceState.BROKEN:
            return b""
        event["index"] = raw_of(self._blocks[index])
        return _event(_text.decode(event["type"]), event)


def _event(kind: str, fields: Fields) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(fields))


def _made(kind: str, **fields: object) -> bytes:
    made = msgspec.json.encode({"type": kind, **fields})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), made)
