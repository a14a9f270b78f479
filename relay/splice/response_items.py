"""What went out of a stream of `/v1/responses`: items, one behind the other, the last one open.

Source: OpenAI API reference, Responses streaming events.
"""

from typing import Final

import msgspec

from relay.decoding import Decoder
from relay.splice.delivered import count_tokens
from relay.splice.gates import Delivered, SpliceRefusal
from relay.splice.state import Fields

MESSAGE: Final = "message"
REASONING: Final = "reasoning"
CALLS: Final = {"function_call": "arguments", "custom_tool_call": "input"}
"""Calls of a client's own tools, and what holds what they are called with."""
SPEAKS: Final = ("response.created", "response.queued", "response.in_progress")
_ENDS: Final = ("response.completed", "response.incomplete", "response.failed", "error")
_SAYINGS: Final = (
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
)

_fields: Final = Decoder(Fields)
_text: Final = Decoder(str)
_number: Final = Decoder(int)


class OpenItem(msgspec.Struct, kw_only=True):
    """An item that the client saw begin, and not end.

    `fields`: as it was announced. `parts`: of a message, those that have ended. `part`: whether one
    is open, whose text is `text`. `summaries`, `contents`: of reasoning, the last one perhaps open.
    `text`: also what a tool is called with, as far as it is out.
    """

    index: int
    kind: str
    fields: Fields
    parts: list[msgspec.Raw] = msgspec.field(default_factory=list)
    part: bool = False
    text: str = ""
    summaries: list[str] = msgspec.field(default_factory=list)
    contents: list[str] = msgspec.field(default_factory=list)
    ended_parts: int = 0
    """Of its summaries."""

    @property
    def id(self) -> str:
        """Its id, "" where it has none."""
        return text_of(self.fields, "id")


class DeliveredResponse(Delivered, frozen=True, kw_only=True):
    """What the client has of a response.

    `response`: what the opening said of it. `number`: of the next event, below 0 = they have none.
    `items`: those that have ended, by their index. `next_index`: of the next item. `item`: the one
    that is open, None = none is.
    """

    response: Fields = msgspec.field(default_factory=dict)
    number: int = -1
    items: dict[int, msgspec.Raw] = msgspec.field(default_factory=dict)
    next_index: int = 0
    item: OpenItem | None = None


class ResponsesReading:
    """The state of reading what went out of a stream of responses."""

    def __init__(self) -> None:
        self._response: Fields = {}
        self._number = -1
        self._items: dict[int, msgspec.Raw] = {}
        self._next = 0
        self._open: OpenItem | None = None
        self._texts: list[str] = []
        self._thought = False
        self._refusal: SpliceRefusal | None = None
        self.events = 0

    def take(self, payload: bytes) -> None:
        """Read an event."""
        self.events += 1
        event = _fields.decode(payload)
        kind = text_of(event, "type")
        if "sequence_number" in event:
            self._number = _number.decode(event["sequence_number"]) + 1
        if kind in SPEAKS:
            self._response = _fields.decode(event["response"])
        elif kind in _ENDS:
            self._refusal = SpliceRefusal.FINISHED
        elif kind == "response.output_item.added":
            self._begin(event)
        elif kind == "response.output_item.done":
            self._end(event)
        elif kind.startswith("response.") and not self._go_on(kind, event):
            self._refuse(SpliceRefusal.NOT_TEXT)

    def _refuse(self, refusal: SpliceRefusal) -> None:
        self._refusal = self._refusal or refusal

    def _begin(self, event: Fields) -> None:
        index = _number.decode(event["output_index"])
        item = _fields.decode(event["item"])
        kind = text_of(item, "type")
        if self._open is not None or kind not in (MESSAGE, REASONING, *CALLS):
            self._refuse(SpliceRefusal.NOT_TEXT)
        self._open = OpenItem(index=index, kind=kind, fields=item)
        self._next = max(self._next, index + 1)

    def _end(self, event: Fields) -> None:
        opened = self._open
        if opened is None or opened.index != _number.decode(event["output_index"]):
            self._refuse(SpliceRefusal.NOT_TEXT)
            return
        self._open = None
        self._items[opened.index] = msgspec.Raw(bytes(event["item"]))
        if opened.kind == REASONING:
            self._thought = True
        elif opened.kind in CALLS:
            self._refuse(SpliceRefusal.TOOL_CALL)

    def _go_on(self, kind: str, event: Fields) -> bool:
        """Read more of the open item; False where it is nothing that can be carried on."""
        item = self._open
        if item is None or _number.decode(event["output_index"]) != item.index:
            return False
        if kind == "response.output_text.delta":
            said = text_of(event, "delta")
            item.text += said
            self._texts.append(said)
        elif kind in _SAYINGS:
            item.text += text_of(event, "delta")
        elif kind.startswith("response.content_part."):
            return _take_part(item, event, ended=kind.endswith("done"))
        elif kind.startswith("response.reasoning_"):
            _think(item, kind, event)
        else:
            return kind.endswith(".done") and not kind.startswith("response.refusal")
        return True

    def result(self) -> DeliveredResponse:
        """Return what the client has."""
        text = "".join(self._texts)
        item, refusal = self._open, self._refusal
        if refusal is None and item is not None and item.kind == REASONING and text.strip():
            # Whoever goes on thinks before its first words, and these are out.
            refusal = SpliceRefusal.OPEN_THINKING
        return DeliveredResponse(
            text=text,
            tokens=count_tokens(text, sum(1 for part in self._texts if part)),
            events=self.events,
            role_out=bool(self._response),
            refusal=refusal,
            thought=self._thought,
            response=self._response,
            number=self._number,
            items=self._items,
            next_index=self._next,
            item=item,
        )


def _take_part(item: OpenItem, event: Fields, *, ended: bool) -> bool:
    """Read that a part begins or ends; False where it is no text."""
    kind = text_of(_fields.decode(event["part"]), "type")
    if item.kind == REASONING and kind == "reasoning_text":
        if not ended:
            item.contents.append("")
        return True
    if kind != "output_text":
        return False
    if ended:
        item.parts.append(msgspec.Raw(bytes(event["part"])))
        item.text = ""
    item.part = not ended
    return True


def _think(item: OpenItem, kind: str, event: Fields) -> None:
    """Read more of what a model lets be seen of its thinking."""
    if kind == "response.reasoning_summary_part.added":
        item.summaries.append("")
    elif kind == "response.reasoning_summary_part.done":
        item.ended_parts = len(item.summaries)
    elif kind.endswith("_text.delta"):
        told = item.summaries if "summary" in kind else item.contents
        if not told:
            told.append("")
        told[-1] += text_of(event, "delta")


def text_of(fields: Fields, name: str) -> str:
    """Return a text that an object holds, "" where it does not or says null."""
    raw = fields.get(name)
    return "" if raw is None or bytes(raw) == b"null" else _text.decode(raw)
