"""Carries a broken stream of `/v1/responses` on: its items go on where they were cut.

The client has one `response.created`, items that have ended, and perhaps one that has not. Those
stay as they are. The new channel's first items take up what is open (splice.response_seams), what
it thinks once more is dropped, later items are numbered on, and one last event has all of them as
its output, under the id of the first response.

Source: OpenAI API reference, Responses streaming events; openai-python, `lib/streaming/responses`:
an index begins once, an item keeps its id, and none is open when a response is completed.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from relay.decoding import Decoder
from relay.splice.anchor import notice_of
from relay.splice.continuation import raw_of
from relay.splice.gates import SplicePlan, SpliceRefusal, anchored_bound
from relay.splice.overlap import Overlap
from relay.splice.response_items import (
    MESSAGE,
    REASONING,
    SPEAKS,
    DeliveredResponse,
    text_of,
)
from relay.splice.response_seams import (
    CallSeam,
    MessageSeam,
    ReasoningSeam,
    Seam,
    Told,
    UnfitError,
)
from relay.splice.state import EventSplice, Fields, SpliceState

OWN: Final = (
    *("status", "output", "usage", "error", "incomplete_details", "completed_at"),
    "service_tier",
)
"""What a last event says of its own; all else is as the first one said it."""
OUTPUT_TOKENS_MIN: Final = 16
"""Source: OpenAI API reference, max_output_tokens."""
_fields: Final = Decoder(Fields)
_raws: Final = Decoder(list[msgspec.Raw])
_text: Final = Decoder(str)
_number: Final = Decoder(int)
_counts: Final = Decoder(dict[str, int | None])
_EMPTY: Final = (b"", b"null", b"{}")


def continue_input(
    fields: Mapping[str, msgspec.Raw], plan: SplicePlan, delivered: DeliveredResponse, anchor: str
) -> tuple[Fields, str] | SpliceRefusal:
    """Return a request for the last words of what is out, and for what comes behind them.

    Args:
        fields: The top level of the client's body.
        plan: What was judged of it.
        delivered: What is out.
        anchor: The words that are to be repeated.
    """
    said = bytes(fields["input"]).lstrip()
    given = delivered.text.rstrip()
    items: list[object] = [{"role": "user", "content": msgspec.Raw(said)}]
    if not said.startswith(b'"'):
        before = _raws.decode(said)
        if before and text_of(_fields.decode(before[-1]), "role") == "assistant":
            return SpliceRefusal.LAST_TURN
        items = [*before]
    items += [
        _message("assistant", "output_text", given),
        _message("user", "input_text", notice_of(anchor)),
    ]
    asked = {**fields, "input": raw_of(items)}
    bound = anchored_bound(plan, delivered, anchor)
    if bound is not None:
        asked["max_output_tokens"] = raw_of(max(OUTPUT_TOKENS_MIN, bound))
    return asked, given


def _message(role: str, kind: str, text: str) -> dict[str, object]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def ended_event(delivered: DeliveredResponse, input_tokens: int, output_tokens: int) -> bytes:
    """Return the event that ends a response behind a whole tool call, b"" where it cannot end.

    Its client runs the tool, and asks on with what came of it: whatever else would have come is
    asked for then. Nothing is out that is not whole.

    Args:
        delivered: What the client has.
        input_tokens: Of the prompt, as far as anybody knows.
        output_tokens: Of what is out.
    """
    if delivered.refusal is not SpliceRefusal.TOOL_CALL or delivered.item is not None:
        return b""
    usage = {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }
    output = [raw for _, raw in sorted(delivered.items.items())]
    response = {**delivered.response, "status": "completed", "output": output, "usage": usage}
    told: dict[str, object] = {"type": "response.completed"}
    if delivered.number >= 0:
        told["sequence_number"] = delivered.number
    told["response"] = response
    return b"event: response.completed\ndata: %b\n\n" % msgspec.json.encode(told)


class ResponsesSplice(EventSplice):
    """Rewrites the events of the channel that carries a stream on (see splice.rewrite.Splice).

    Args:
        delivered: What the client has.
        overlap: Where the texts meet.
        tokens_before: Tokens of the old channel's part that the new one does not count as output.
        extra: Others of its prompt, that nobody but us asked for.
    """

    def __init__(
        self, delivered: DeliveredResponse, overlap: Overlap, tokens_before: int, extra: int
    ) -> None:
        super().__init__()
        self._delivered = delivered
        self._tokens_before = tokens_before
        self._extra = extra
        self._number = delivered.number
        self._next = delivered.next_index
        self._output = dict(delivered.items)
        self._due = self._seams(overlap)
        """What the new channel has to take up, in this order."""
        self._taking: dict[int, Seam] = {}
        """...and takes up, by its own indices."""
        self._places: dict[int, int] = {}
        """Its indices, as the client knows them."""
        self._dropped: set[int] = set()

    def _seams(self, overlap: Overlap) -> list[Seam]:
        opened, seams = self._delivered.item, list[Seam]()
        speaking = opened is not None and opened.kind == MESSAGE
        if self._delivered.text.strip() or speaking:
            message = opened if speaking else None
            silent = opened is not None and not speaking
            seams.append(MessageSeam(overlap, message, self._place, silent=silent))
        if opened is not None and not speaking:
            seams.append(ReasoningSeam(opened) if opened.kind == REASONING else CallSeam(opened))
        return seams

    def _place(self) -> int:
        self._next += 1
        return self._next - 1

    def _take(self, event: Fields) -> bytes:
        kind = _text.decode(event["type"])
        if kind in ("response.completed", "response.incomplete"):
            return self._complete(kind, event)
        if kind in ("response.failed", "error"):
            raise UnfitError(kind)
        told: list[Told] = []
        if "output_index" in event:  # else it speaks of the new channel, or shows that it lives
            told = self._take_up(kind, _number.decode(event["output_index"]), event)
        elif kind in SPEAKS and not self._delivered.role_out:
            told = [(kind, event)]
        return b"".join(map(self._tell, told))

    def _take_up(self, kind: str, index: int, event: Fields) -> list[Told]:
        """Return what the client gets of an event of an item."""
        ends = kind == "response.output_item.done"
        if index in self._dropped:
            return []
        if kind == "response.output_item.added":
            return self._begin(index, event)
        if index in self._taking:
            seam = self._taking[index]
            return self._finish(seam, event) if ends else seam.go_on(kind, event)
        event["output_index"] = raw_of(self._places[index])
        if ends:
            self._output[self._places[index]] = event["item"]
        return [(kind, event)]

    def _begin(self, index: int, event: Fields) -> list[Told]:
        item = _fields.decode(event["item"])
        kind = text_of(item, "type")
        if kind == REASONING and (self._delivered.thought or self._delivered.text.strip()):
            self._dropped.add(index)
            return []
        if self._due:
            seam = self._due.pop(0)
            if seam.kind != kind:
                raise UnfitError(kind)
            self._taking[index] = seam
            return seam.begin(item)
        self._places[index] = self._place()
        event["output_index"] = raw_of(self._places[index])
        return [("response.output_item.added", event)]

    def _finish(self, seam: Seam, event: Fields) -> list[Told]:
        told = seam.finish(_fields.decode(event["item"]))
        if seam.item is not None:
            self._output[seam.index] = seam.item
        return told

    def _complete(self, kind: str, event: Fields) -> bytes:
        """Tell the end, with all that the client has as its output."""
        if self._due:
            raise UnfitError(kind)
        response = _fields.decode(event["response"])
        for name, raw in self._delivered.response.items():
            if name not in OWN:
                response[name] = raw
        response["output"] = raw_of([raw for _, raw in sorted(self._output.items())])
        if bytes(response.get("usage", b"")) not in _EMPTY:
            response["usage"] = self._join(_fields.decode(response["usage"]))
        event["response"] = raw_of(response)
        told = self._tell((kind, event))
        self.state = SpliceState.FINISHED
        self.marked = True
        return told

    def _join(self, usage: Fields) -> msgspec.Raw:
        """Return the usage that the client sees: one answer, whatever it took."""
        if self._tokens_before or self._extra:
            read = _number.decode(usage.get("input_tokens", b"0"))
            written = _number.decode(usage.get("output_tokens", b"0"))
            before = min(self._tokens_before, read)
            left = max(0, read - before - self._extra)
            usage["input_tokens"] = raw_of(left)
            usage["output_tokens"] = raw_of(written + before)
            usage["total_tokens"] = raw_of(left + written + before)
            details = usage.get("input_tokens_details", b"")
            if bytes(details) not in _EMPTY:
                counts = _counts.decode(details)
                least = {name: min(count or 0, left) for name, count in counts.items()}
                usage["input_tokens_details"] = raw_of(least)
        return raw_of(usage)

    def _tell(self, told: Told) -> bytes:
        kind, fields = told
        head: Fields = {"type": raw_of(kind)}
        if self._number >= 0:
            head["sequence_number"] = raw_of(self._number)
            self._number += 1
        rest = {name: raw for name, raw in fields.items() if name not in _HEAD}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(head | rest))


_HEAD: Final = ("type", "sequence_number")
