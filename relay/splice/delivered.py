"""What went out to the client, kept unread until a stream breaks, and read then.

On a healthy stream keeping costs one list append for each block: the very bytes objects that were
forwarded, never decoded. What is kept has a bound for each stream and one for the worker; beyond
either the stream simply cannot be spliced any more.
"""

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.records import Endpoint
from relay.splice.gates import EMPTY, Delivered, SpliceRefusal

KEPT_BYTES_MAX: Final = 1_300_000
"""For one stream: about 20,000 characters, at 64 bytes a character on OpenAI chat."""
SHELF_BYTES_MAX: Final = 256 * 1024 * 1024
"""For all streams of a worker."""
DENSE_BYTES: Final = 12
"""More text than this for each event: the events hold several tokens."""
IDENTITY: Final = (
    "id",
    "object",
    "created",
    "model",
    "system_fingerprint",
    "service_tier",
    "provider",
)
"""Fields of a chunk that clients expect to stay the same over a stream.

Source: docs/streams.md, "Continuing an answer: identity".
"""
DONE: Final = b"[DONE]"
THOUGHTS: Final = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks")
"""Where the servers of chats put a model's thinking; their clients send none of it back."""


class DeliveredBudget:
    """The memory of a worker for what streams keep."""

    __slots__ = ("bytes_max", "kept_bytes")

    def __init__(self, bytes_max: int = SHELF_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.kept_bytes = 0


class DeliveredText:
    """Keeps the blocks of one stream as they are forwarded.

    `release` must be called when the stream ends, however it ends.
    """

    __slots__ = ("_blocks", "_budget", "_bytes_max", "_kept_bytes")

    def __init__(self, budget: DeliveredBudget, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._budget = budget
        self._bytes_max = bytes_max
        self._blocks: list[bytes] | None = []
        self._kept_bytes = 0

    @property
    def blocks(self) -> list[bytes] | None:
        """The blocks so far, in order; None once there were too many, or after `release`."""
        return self._blocks

    def add(self, block: bytes) -> None:
        """Keep a block of whole events that goes to the client."""
        if self._blocks is None:
            return
        size = len(block)
        budget = self._budget
        if self._kept_bytes + size > self._bytes_max or budget.kept_bytes + size > budget.bytes_max:
            self.release()
            return
        self._blocks.append(block)
        self._kept_bytes += size
        budget.kept_bytes += size

    def release(self) -> None:
        """Let go of everything."""
        self._budget.kept_bytes -= self._kept_bytes
        self._kept_bytes = 0
        self._blocks = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, msgspec.Raw] = {}
    text: msgspec.Raw = msgspec.Raw(b'""')
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_chunk_decoder: Final = Decoder(_Chunk)
_fields_decoder: Final = Decoder(dict[str, msgspec.Raw])
_texts_decoder: Final = Decoder(list[str | None])


def read_delivered(payloads: Iterable[bytes], endpoint: Endpoint) -> Delivered:
    """Read what went out of an answer.

    Args:
        payloads: The data of each event that was forwarded, in order; b"" for a comment.
        endpoint: CHAT, COMPLETIONS or MESSAGES.

    Returns:
        With `refusal` set where it was more than plain text of one choice, was finished, or is
        not what the dialect says.
    """
    claude = endpoint is Endpoint.MESSAGES
    return read_events(MessagesReading() if claude else _Reading(endpoint), payloads)


class Reading(Protocol):
    """Reads what went out, in one dialect."""

    events: int

    def take(self, payload: bytes) -> None:
        """Read an event's data; raises what a decoder raises."""
        ...

    def result(self) -> Delivered:
        """Return what the client has."""
        ...


def read_events(reading: Reading, payloads: Iterable[bytes]) -> Delivered:
    """Read the data of each event, b"" for a comment; see `read_delivered`."""
    try:
        for payload in payloads:
            if payload:
                reading.take(payload)
        return reading.result()
    except Undecodable:
        return Delivered(events=reading.events, refusal=SpliceRefusal.UNREADABLE)


class _Reading:
    """The state of reading a stream's events."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._chat = endpoint is Endpoint.CHAT
        self._texts: list[bytes] = []
        self._identity: dict[str, msgspec.Raw] = {}
        self._role_out = False
        self._thought = False
        self._refusal: SpliceRefusal | None = None
        self.events = 0

    def take(self, payload: bytes) -> None:
        self.events += 1
        if payload.strip() == DONE:
            self._refusal = self._refusal or SpliceRefusal.FINISHED
            return
        if not self._identity:
            self._identity = _read_identity(payload)
        for choice in _chunk_decoder.decode(payload).choices:
            if choice.index != 0:
                self._refusal = self._refusal or SpliceRefusal.MANY_CHOICES
            if self._chat:
                self._take_delta(choice.delta)
            else:
                self._texts.append(bytes(choice.text))
            if choice.finish_reason:
                self._refusal = self._refusal or SpliceRefusal.FINISHED

    def _take_delta(self, delta: dict[str, msgspec.Raw]) -> None:
        for name, raw in delta.items():
            if name == "content":
                self._texts.append(bytes(raw))
            elif name == "role":
                self._role_out = True
            elif bytes(raw) in EMPTY:
                continue
            elif name in THOUGHTS:
                self._thought = True
            elif name == "tool_calls":
                self._refusal = self._refusal or SpliceRefusal.TOOL_CALL
            else:
                self._refusal = self._refusal or SpliceRefusal.NOT_TEXT

    def result(self) -> Delivered:
        """Decode all texts in one go."""
        refusal = self._refusal
        text = ""
        tokens = texts = 0
        if refusal in (None, SpliceRefusal.FINISHED):
            try:
                parts = _texts_decoder.decode(b"[" + b",".join(self._texts) + b"]")
            except Undecodable as error:
                if not error.place:
                    raise  # no text at all
                parts, refusal = [], SpliceRefusal.NOT_TEXT
            text = "".join(part for part in parts if part)
            texts = sum(1 for part in parts if part)
            tokens = count_tokens(text, texts)
        return Delivered(
            text=text,
            tokens=tokens,
            events=self.events,
            texts=texts,
            role_out=self._role_out,
            thought=self._thought,
            identity=self._identity,
            refusal=refusal,
        )


def _read_identity(payload: bytes) -> dict[str, msgspec.Raw]:
    """Return a chunk's identity; {} for a preamble without one (Azure's first event)."""
    fields = _fields_decoder.decode(payload)
    if bytes(fields.get("id", b'""')) in EMPTY:
        return {}
    return {name: msgspec.Raw(bytes(fields[name])) for name in IDENTITY if name in fields}


def count_tokens(text: str, events: int) -> int:
    """Return the tokens of a text that came in so many events.

    Most upstreams send a token an event; where events are longer, a token is about four bytes.
    """
    size = len(text.encode())
    return events if size <= DENSE_BYTES * events else -(-size // 4)


class _Block(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""


class _Event(msgspec.Struct):
    type: str = ""
    index: int = 0
    content_block: _Block = _Block()
    delta: _Block = _Block()


_event_decoder: Final = Decoder(_Event)
_THINKING: Final = ("thinking", "redacted_thinking")
_QUIET: Final = ("thinking_delta", "signature_delta")


class MessagesReading:
    """The state of reading a stream of Anthropic's: blocks, one after the other."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._kind = ""
        """Of the block that is open, "" = none is."""
        self._block = 0
        self._started = self._thought = False
        self._refusal: SpliceRefusal | None = None
        self.events = 0

    def take(self, payload: bytes) -> None:
        """Read an event."""
        self.events += 1
        event = _event_decoder.decode(payload)
        match event.type:
            case "message_start":
                self._started = True
            case "content_block_start":
                self._begin(event)
            case "content_block_delta":
                if event.delta.type == "text_delta":
                    self._texts.append(event.delta.text)
                elif event.delta.type not in _QUIET:
                    self._refusal = self._refusal or SpliceRefusal.NOT_TEXT
            case "content_block_stop":
                self._kind = ""
                self._block = event.index + 1
            case "message_delta" | "message_stop":
                self._refusal = self._refusal or SpliceRefusal.FINISHED

    def _begin(self, event: _Event) -> None:
        self._kind, self._block = event.content_block.type, event.index
        if self._kind in _THINKING:
            self._thought = True
        elif self._kind == "text":
            self._texts.append(event.content_block.text)
        else:
            self._refusal = self._refusal or SpliceRefusal.TOOL_CALL

    def result(self) -> Delivered:
        """Return what the client has."""
        refusal = self._refusal
        if refusal is None and self._kind in _THINKING:
            # What was not signed can be sent back to nobody: its client asks the turn anew.
            refusal = SpliceRefusal.OPEN_THINKING
        text = "".join(self._texts)
        texts = sum(1 for part in self._texts if part)
        return Delivered(
            text=text,
            tokens=count_tokens(text, texts),
            events=self.events,
            texts=texts,
            role_out=self._started,
            refusal=refusal,
            thought=self._thought,
            block=self._block,
            open=self._kind == "text",
        )
