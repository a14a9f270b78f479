"""Reads an Anthropic message, its events or its body.

Source: Anthropic API reference, "Streaming Messages", "Handling stop reasons"; recorded streams.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Final

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
from relay.translate.anthropic.shapes import Block, Counts, Delta, Event
from relay.translate.counts import bounded
from relay.translate.fields import encode_text
from relay.translate.idents import legal_call_id
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.troubles import read_error
from relay.usage import Usage

_ENDINGS: Final = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP_SEQUENCE,
    "max_tokens": Finish.LENGTH,
    "tool_use": Finish.CALLS,
    "refusal": Finish.DECLINED,
    "pause_turn": Finish.PAUSED,
    "compaction": Finish.PAUSED,
    "model_context_window_exceeded": Finish.CONTEXT,
}
_FIELDS: Final = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "cache_creation",
    "output_tokens",
    "output_tokens_details",
)
_decode = Decoder(Event).decode


def read_usage(counts: Counts) -> Usage:
    """Return usage in the one convention."""
    cached = bounded(counts.cache_read_input_tokens)
    written = bounded(counts.cache_creation_input_tokens)
    said = bounded(counts.output_tokens)
    details = counts.output_tokens_details
    thought = bounded(details.thinking_tokens) if details is not None else 0
    hour = counts.cache_creation.ephemeral_1h_input_tokens if counts.cache_creation else 0
    return Usage(
        bounded(counts.input_tokens) + cached + written,
        cached,
        written,
        said,
        min(thought, said),
        cache_write_1h_tokens=min(bounded(hour), written),
    )


class AnthropicAnswerReader(AnswerReader):
    """Reads messages: one block is open at a time, and each says its kind as it opens."""

    def __init__(self, sink: AnswerSink, terms: AnswerTerms) -> None:
        super().__init__(TranslateDialect.ANTHROPIC, sink, terms)
        self.counts: Counts | None = None
        self.keys: dict[int, int] = {}
        self.thoughts: list[JsonObject] = []
        self.thought: list[str] = []
        self.signature: list[str] = []
        self.text_chars = 0
        self.block_start = 0
        self.inputs: dict[int, Any] = {}

    def read(self, payload: bytes) -> None:
        """Read one event, or the whole body."""
        if self.over:
            return
        try:
            event = _decode(payload)
        except Undecodable:
            self.fail(garbled())
            return
        if event.type == "content_block_delta":
            if event.delta is not None:
                self._delta(event.delta, event.index or 0)
            return
        read = self._readers.get(event.type)
        if read is not None:
            read(self, event)
        elif not event.type and event.error is not None:
            self._error(event)

    def _error(self, event: Event) -> None:
        self.fail(read_error({"error": event.error}))

    def _message_start(self, event: Event) -> None:
        if event.message is not None and event.message.usage is not None:
            self._count(event.message.usage)
        self.start()

    def _message_delta(self, event: Event) -> None:
        if event.usage is not None:
            self._count(event.usage)
        delta = event.delta
        if delta is not None and delta.stop_reason is not None:
            self._note_end(delta.stop_reason, delta.stop_sequence)

    def _message_stop(self, event: Event) -> None:
        if self.ending is not None:
            self.finish()

    def _message(self, event: Event) -> None:
        if event.usage is not None:
            self._count(event.usage)
        self.start()
        for index, block in enumerate(event.content or ()):
            self._open(block, index)
            for citation in block.citations or ():
                self._cite(citation)
            self._close(index)
        if event.stop_reason is not None:
            self._note_end(event.stop_reason, event.stop_sequence)

    def _note_end(self, reason: str, stop: str | None) -> None:
        found = _ENDINGS.get(reason)
        if found is None:
            self.lose(f"stop_reason={reason[:40]}")
            found = Finish.CALLS if self.call_count else Finish.STOP
        self.ending = Ending(found, reason, stop)

    def _count(self, counts: Counts) -> None:
        before = self.counts
        if before is None:
            self.counts = counts
        else:
            for name in _FIELDS:
                value = getattr(counts, name)
                if value is not None:
                    setattr(before, name, value)
        assert self.counts is not None
        self.usage = read_usage(self.counts)

    def _block_start(self, event: Event) -> None:
        self.start()
        if event.content_block is not None:
            self._open(event.content_block, event.index or 0)

    def _open(self, block: Block, index: int) -> None:
        kind = block.type
        if kind == "text":
            self.block_start = self.text_chars
            self._text(block.text)
        elif kind == "tool_use":
            self._begin_call(block, index)
        elif kind == "thinking":
            self.thought, self.signature = [], []
            self._thinking(block.thinking)
            if block.signature:
                self.signature.append(block.signature)
        elif kind == "redacted_thinking":
            self.thoughts.append({"type": "redacted_thinking", "data": block.data or ""})
        else:
            self.lose(kind)

    def _begin_call(self, block: Block, index: int) -> None:
        key = self.call_count
        self.call_count += 1
        self.keys[index] = key
        call_id = legal_call_id(block.id or f"toolu_{key}")
        if self.thoughts:
            self.keep(call_id, self.thoughts)
            self.thoughts = []
        self.sink.call(key, call_id, block.name or "")
        # Nearly always empty, with the pieces to follow; in a body it is the whole.
        if block.input:
            self.inputs[index] = block.input

    def _block_stop(self, event: Event) -> None:
        self._close(event.index or 0)

    def _close(self, index: int) -> None:
        if self.thought or self.signature:
            block: JsonObject = {"type": "thinking", "thinking": "".join(self.thought)}
            block["signature"] = "".join(self.signature)
            self.thoughts.append(block)
            self.thought, self.signature = [], []
        given = self.inputs.pop(index, None)
        if given is not None:
            self.sink.arguments(self.keys[index], encode_text(given))

    def _text(self, text: str | None) -> None:
        if text:
            self.text_chars += len(text)
            self.sink.text(text, None)

    def _thinking(self, text: str | None) -> None:
        if text:
            self.thought.append(text)
            self.think(text)

    def _delta(self, delta: Delta, index: int) -> None:
        if delta.text is not None:
            self._text(delta.text)
        elif delta.partial_json is not None:
            key = self.keys.get(index)
            if delta.partial_json and key is not None:
                self.inputs.pop(index, None)
                self.sink.arguments(key, delta.partial_json)
        elif delta.thinking is not None:
            self._thinking(delta.thinking)
        elif delta.signature is not None:
            self.signature.append(delta.signature)
        elif delta.citation is not None:
            self._cite(delta.citation)

    def _cite(self, found: JsonObject) -> None:
        url = found.get("url")
        if not isinstance(url, str):
            self.lose("citations")  # of a place in the client's own document
            return
        self.sink.cite(
            Citation(
                url,
                str(found.get("title") or ""),
                self.block_start,
                self.text_chars,
                str(found.get("cited_text") or ""),
            )
        )

    _readers: ClassVar[dict[str, Callable[["AnthropicAnswerReader", Event], None]]] = {
        "message_start": _message_start,
        "content_block_start": _block_start,
        "content_block_stop": _block_stop,
        "message_delta": _message_delta,
        "message_stop": _message_stop,
        "message": _message,
        "error": _error,
    }
