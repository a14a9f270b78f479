"""Reads a response, its events or its body.

Source: OpenAI API reference, "Streaming events" of Responses; recorded streams.
"""

from collections.abc import Callable
from typing import ClassVar, Final

from relay.decoding import Decoder, Undecodable
from relay.translate.answer import (
    AnswerReader,
    AnswerSink,
    AnswerTerms,
    Citation,
    Ending,
    Finish,
    garbled,
)
from relay.translate.counts import bounded
from relay.translate.fields import encode_text
from relay.translate.idents import legal_call_id, made_call_id
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.responses.shapes import Counts, Details, Event, Item, ItemPart, Response
from relay.translate.troubles import read_error
from relay.usage import Usage

_INCOMPLETE: Final = {"max_output_tokens": Finish.LENGTH, "content_filter": Finish.FILTERED}
_NO_DETAILS: Final = Details()
_CALLS: Final = frozenset({"function_call", "custom_tool_call"})
_decode = Decoder(Event).decode


def read_usage(counts: Counts) -> Usage:
    """Return usage in the one convention."""
    inward = counts.input_tokens_details or _NO_DETAILS
    outward = counts.output_tokens_details or _NO_DETAILS
    asked, said = bounded(counts.input_tokens), bounded(counts.output_tokens)
    return Usage(
        asked,
        min(bounded(inward.cached_tokens), asked),
        bounded(inward.cache_write_tokens),
        said,
        min(bounded(outward.reasoning_tokens), said),
    )


class ResponsesAnswerReader(AnswerReader):
    """Reads responses. Of an item only the copy in `output_item.done` is whole."""

    def __init__(self, sink: AnswerSink, terms: AnswerTerms) -> None:
        super().__init__(TranslateDialect.RESPONSES, sink, terms)
        self.keys: dict[int, int] = {}
        self.fed: set[int] = set()
        self.texted: set[int] = set()
        self.thoughts: list[JsonObject] = []
        self.refused = False
        self.text_chars = 0
        self.message_start = 0

    def read(self, payload: bytes) -> None:
        """Read one event, or the whole body."""
        if self.over or payload.startswith(b"[DONE]"):
            return
        try:
            event = _decode(payload)
        except Undecodable:
            self.fail(garbled())
            return
        if event.type == "response.output_text.delta":
            self._text(event.delta, event.logprobs, event.output_index)
            return
        read = self._readers.get(event.type)
        if read is not None:
            read(self, event)
        elif event.type == "response.created":
            self.start()
        elif event.object == "response":
            self._body(event)
        elif not event.type and event.error is not None:
            self.fail(read_error({"error": event.error}))

    def _text(self, text: object, probs: list[JsonObject] | None, index: int) -> None:
        if isinstance(text, str) and text:
            self.texted.add(index)
            self.text_chars += len(text)
            self.start()
            self.sink.text(text, probs)

    def _thinking(self, event: Event) -> None:
        if isinstance(event.delta, str):
            self.texted.add(event.output_index)
            self.start()
            self.think(event.delta)

    def _summary_part(self, event: Event) -> None:
        if event.output_index in self.texted:
            self.think("\n\n")

    def _refusal(self, event: Event) -> None:
        if isinstance(event.delta, str) and event.delta:
            self.texted.add(event.output_index)
            self.refused = True
            self.start()
            self.sink.declined(event.delta)

    def _annotation(self, event: Event) -> None:
        if event.annotation is not None:
            self._cite(event.annotation)

    def _cite(self, found: JsonObject) -> None:
        url = found.get("url")
        if not isinstance(url, str):
            self.lose("annotations")
            return
        start, end = found.get("start_index"), found.get("end_index")
        self.sink.cite(
            Citation(
                url,
                str(found.get("title") or ""),
                self.message_start + (start if isinstance(start, int) else 0),
                self.message_start + (end if isinstance(end, int) else 0),
            )
        )

    def _item_added(self, event: Event) -> None:
        item = event.item
        if item is None:
            return
        self.start()
        if item.type in _CALLS:
            self._begin_call(item, event.output_index)
        elif item.type == "message":
            self.message_start = self.text_chars

    def _begin_call(self, item: Item, index: int) -> int:
        key = self.call_count
        self.call_count += 1
        self.keys[index] = key
        given = item.call_id or item.id
        call_id = legal_call_id(given) if given else made_call_id(self.nonce, str(key))
        if self.thoughts:
            self.keep(call_id, self.thoughts)
            self.thoughts = []
        self.sink.call(key, call_id, item.name or "")
        return key

    def _arguments(self, event: Event) -> None:
        key = self.keys.get(event.output_index)
        if key is not None and isinstance(event.delta, str) and event.delta:
            self.fed.add(key)
            self.sink.arguments(key, event.delta)

    def _item_done(self, event: Event) -> None:
        if event.item is not None:
            self.start()
            self._finish_item(event.item, event.output_index)

    def _finish_item(self, item: Item, index: int) -> None:
        """Take from a whole item what no delta brought."""
        if item.type in _CALLS:
            key = self.keys.get(index)
            if key is None:
                key = self._begin_call(item, index)
            if key not in self.fed:
                custom = item.type == "custom_tool_call"
                whole = encode_text({"input": item.input or ""}) if custom else item.arguments
                self.fed.add(key)
                self.sink.arguments(key, whole or "{}")
        elif item.type == "reasoning":
            self._finish_reasoning(item, index)
        elif item.type == "message":
            if index not in self.texted:
                for part in item.content or ():
                    self._read_part(part, index)
        elif item.type == "image_generation_call" and item.result:
            self.sink.image(f"image/{item.output_format or 'png'}", item.result)
        else:
            self.lose(item.type[:40])

    def _finish_reasoning(self, item: Item, index: int) -> None:
        if index not in self.texted:
            said = [part.text for part in item.summary or item.content or () if part.text]
            self.think("\n\n".join(said))
        block: JsonObject = {"type": "reasoning", "summary": _summary(item.summary)}
        if item.encrypted_content:
            block["encrypted_content"] = item.encrypted_content
            self.thoughts.append(block)
        elif item.content:
            # Servers of open models give their reasoning in the clear, and want it back so.
            block["content"] = [
                {"type": "reasoning_text", "text": part.text} for part in item.content
            ]
            self.thoughts.append(block)

    def _read_part(self, part: ItemPart, index: int) -> None:
        self.message_start = self.text_chars
        if part.refusal:
            self.refused = True
            self.sink.declined(part.refusal)
        self._text(part.text, part.logprobs, index)
        for found in part.annotations or ():
            self._cite(found)

    def _ended(self, event: Event) -> None:
        if event.response is not None:
            self._note_end(event.response)
            self.finish()

    def _body(self, event: Event) -> None:
        self.start()
        for index, item in enumerate(event.output or ()):
            if item.type == "message":
                for part in item.content or ():
                    self._read_part(part, index)
            else:
                self._finish_item(item, index)
        if event.status in {"failed", "cancelled"}:
            self.fail(read_error({"error": event.error}))
            return
        self._note_end(event)

    def _note_end(self, response: Response) -> None:
        if response.usage is not None:
            self.usage = read_usage(response.usage)
        if response.status == "incomplete" and response.incomplete_details is not None:
            word = response.incomplete_details.reason or "incomplete"
            self.ending = Ending(_INCOMPLETE.get(word, Finish.LENGTH), word)
        elif self.call_count:
            self.ending = Ending(Finish.CALLS, "completed")
        else:
            self.ending = Ending(Finish.DECLINED if self.refused else Finish.STOP, "completed")

    def _failed(self, event: Event) -> None:
        response = event.response
        if response is not None and response.usage is not None:
            self.usage = read_usage(response.usage)
        self.fail(read_error({"error": response.error if response is not None else None}))

    def _error(self, event: Event) -> None:
        fault = event.error
        if fault is None:
            fault = {"code": event.code, "message": event.message, "param": event.param}
        self.fail(read_error({"error": fault}))

    _readers: ClassVar[dict[str, Callable[["ResponsesAnswerReader", Event], None]]] = {
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.function_call_arguments.delta": _arguments,
        "response.reasoning_summary_text.delta": _thinking,
        "response.reasoning_text.delta": _thinking,
        "response.reasoning_summary_part.added": _summary_part,
        "response.refusal.delta": _refusal,
        "response.output_text.annotation.added": _annotation,
        "response.completed": _ended,
        "response.incomplete": _ended,
        "response.failed": _failed,
        "response.cancelled": _failed,
        "error": _error,
    }


def _summary(parts: list[ItemPart] | None) -> list[JsonObject]:
    return [{"type": "summary_text", "text": part.text or ""} for part in parts or ()]
