"""Where an item that one channel began is ended by another one's.

The client saw an item begin: it has its id and its place, and each may end once. So the first item
of the new channel that is of its kind is made the rest of it; one of another kind does not fit.

    message     its text goes on where the old one ended (splice.overlap)
    reasoning   what is out of it stays; the new one's stands behind it, and is what is read again
    tool call   has to be called with what is out already, to the letter
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

import msgspec

from relay.decoding import Decoder, decoder_of
from relay.splice.continuation import raw_of
from relay.splice.overlap import Overlap, ReplayOverlap
from relay.splice.response_items import CALLS, MESSAGE, OpenItem, text_of
from relay.splice.state import Fields

Told = tuple[str, Fields]
"""An event: its type, and its fields without type and number."""
_fields: Final = Decoder(Fields)
_number: Final = Decoder(int)
_list: Final = decoder_of(list[msgspec.Raw] | None)
_NONE: Final = msgspec.Raw(b"[]")


class UnfitError(KeyError):
    """What the new channel says is no rest of what is out."""


class Seam(ABC):
    """The rest of one item.

    `kind`: of the item that it takes. `index`: of the client's item, below 0 = it has none.
    `item`: the whole item, None until it has ended.
    """

    kind: str
    index: int
    item: msgspec.Raw | None = None

    @abstractmethod
    def begin(self, item: Fields) -> list[Told]:
        """Take the new channel's announcement of the item."""

    @abstractmethod
    def go_on(self, kind: str, event: Fields) -> list[Told]:
        """Take an event between an item's begin and its end."""

    @abstractmethod
    def finish(self, item: Fields) -> list[Told]:
        """Take the end of the item; `item`: as the new channel has it."""

    def _done(self, item: dict[str, object]) -> Told:
        self.item = raw_of(item)
        return _told("response.output_item.done", output_index=self.index, item=self.item)


class MessageSeam(Seam):
    """The rest of a text.

    Args:
        overlap: Where the texts meet.
        opened: The message that is open at the client, None = what it has ended.
        place: Returns the index of a message that begins then.
        silent: Nothing may come behind the text: something else is open there.
    """

    kind = MESSAGE

    def __init__(
        self, overlap: Overlap, opened: OpenItem | None, place: Callable[[], int], *, silent: bool
    ) -> None:
        self._overlap = overlap
        self._place = place
        self._silent = silent
        self.index = -1 if opened is None else opened.index
        self._id = "" if opened is None else opened.id
        self._parts: list[object] = [] if opened is None else [*opened.parts]
        self._content_index = len(self._parts)
        self._part = opened is not None and opened.part
        self._text = opened.text if opened is not None and opened.part else ""
        self._begun: Fields = {}

    def begin(self, item: Fields) -> list[Told]:
        """Say nothing yet: it may be that all of its words are out."""
        self._begun = item
        return []

    def go_on(self, kind: str, event: Fields) -> list[Told]:
        """Tell what of a text the client does not have."""
        if kind == "response.output_text.delta":
            return self._say(self._overlap.feed(text_of(event, "delta")))
        if kind.startswith("response.refusal"):
            raise UnfitError(kind)
        return []  # it ends with the item; and what it cites belongs to words that may be dropped

    def finish(self, item: Fields) -> list[Told]:
        """End the part and the message."""
        told = self._say(self._overlap.end())
        if self.index < 0:
            return told
        if self._part:
            part = {**_EMPTY_PART, "text": self._text}
            self._parts.append(part)
            told.append(
                _told("response.output_text.done", **self._at(), text=self._text, logprobs=[])
            )
            told.append(_told("response.content_part.done", **self._at(), part=part))
        told.append(self._done({**item, "id": self._id, "content": self._parts}))
        return told

    def _say(self, text: str) -> list[Told]:
        if self._overlap.broken or (text and self._silent):
            raise UnfitError(MESSAGE)
        if not text:
            return []
        told: list[Told] = []
        if self.index < 0:
            # The message before is whole at the client, so what comes behind it is another one.
            self.index, self._id = self._place(), text_of(self._begun, "id")
            begun = {**self._begun, "content": []}
            told.append(_told("response.output_item.added", output_index=self.index, item=begun))
        if not self._part:
            self._part = True
            told.append(_told("response.content_part.added", **self._at(), part=_EMPTY_PART))
        self._text += text
        told.append(_told("response.output_text.delta", **self._at(), delta=text, logprobs=[]))
        return told

    def _at(self) -> dict[str, object]:
        index = self._content_index
        return {"item_id": self._id, "output_index": self.index, "content_index": index}


class ReasoningSeam(Seam):
    """Thinking that is asked anew, behind what was seen of it.

    Args:
        opened: What is open at the client.
    """

    kind = "reasoning"

    def __init__(self, opened: OpenItem) -> None:
        self._opened = opened
        self.index = opened.index

    def begin(self, item: Fields) -> list[Told]:
        """End the part that is open."""
        opened = self._opened
        if len(opened.summaries) <= opened.ended_parts:
            return []
        at = {
            "item_id": opened.id,
            "output_index": self.index,
            "summary_index": len(opened.summaries) - 1,
        }
        text = opened.summaries[-1]
        part = {"type": "summary_text", "text": text}
        return [
            _told("response.reasoning_summary_text.done", **at, text=text),
            _told("response.reasoning_summary_part.done", **at, part=part),
        ]

    def go_on(self, kind: str, event: Fields) -> list[Told]:
        """Number the parts on."""
        opened = self._opened
        event |= {"item_id": raw_of(opened.id), "output_index": raw_of(self.index)}
        shifts = (("summary_index", opened.summaries), ("content_index", opened.contents))
        for name, before in shifts:
            if name in event:
                event[name] = raw_of(_number.decode(event[name]) + len(before))
        return [(kind, event)]

    def finish(self, item: Fields) -> list[Told]:
        """End it with what its maker can read, and with all that was seen."""
        opened = self._opened
        whole: dict[str, object] = {**item, "id": opened.id}
        seen = (
            ("summary", "summary_text", opened.summaries),
            ("content", "reasoning_text", opened.contents),
        )
        for name, kind, texts in seen:
            if texts:
                before = [{"type": kind, "text": text} for text in texts]
                whole[name] = [*before, *(_list.decode(item.get(name, _NONE)) or [])]
        return [self._done(whole)]


class CallSeam(Seam):
    """A tool call that is made again.

    Args:
        opened: What is open at the client.
    """

    def __init__(self, opened: OpenItem) -> None:
        self._opened = opened
        self._holds = CALLS[opened.kind]
        self._replay = ReplayOverlap(opened.text)
        self._chars = 0
        """What the new channel has said of it."""
        self.kind = opened.kind
        self.index = opened.index

    def begin(self, item: Fields) -> list[Told]:
        """See whether it is the same tool."""
        if text_of(item, "name") != text_of(self._opened.fields, "name"):
            raise UnfitError(self.kind)
        return []

    def go_on(self, kind: str, event: Fields) -> list[Told]:
        """Tell what of it the client does not have."""
        event |= self._at()
        if not kind.endswith(".delta"):
            return [*self._complete(text_of(event, self._holds)), (kind, event)]
        told = self._say(text_of(event, "delta"))
        return [(kind, event | {"delta": raw_of(told)})] if told else []

    def finish(self, item: Fields) -> list[Told]:
        """End it under the ids that it began with."""
        told = self._complete(text_of(item, self._holds))
        fields = self._opened.fields
        ids: dict[str, object] = {
            name: fields[name] for name in ("id", "call_id") if name in fields
        }
        return [*told, self._done({**item, **ids})]

    def _complete(self, whole: str) -> list[Told]:
        """Tell what was not told in pieces."""
        rest = self._say(whole[self._chars :])
        self._replay.end()
        if self._replay.broken:
            raise UnfitError(self.kind)
        named = "custom_tool_call_input" if self._holds == "input" else "function_call_arguments"
        kind = f"response.{named}.delta"
        return [(kind, self._at() | {"delta": raw_of(rest)})] if rest else []

    def _say(self, text: str) -> str:
        self._chars += len(text)
        told = self._replay.feed(text)
        if self._replay.broken:
            raise UnfitError(self.kind)
        return told

    def _at(self) -> Fields:
        return {"item_id": raw_of(self._opened.id), "output_index": raw_of(self.index)}


_EMPTY_PART: Final = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _told(kind: str, **fields: object) -> Told:
    return kind, {name: raw_of(value) for name, value in fields.items()}
