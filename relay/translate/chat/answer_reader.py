"""Reads a chat completion's answer, its chunks or its body.

Source: OpenAI API reference, "Chat completion chunk"; recorded streams of 20 providers: calls
without an index (Mistral), all with index 0 (Gemini's door), reasoning under two names, an error
behind a finish reason (OpenRouter), usage beside choices or in a chunk of its own.
"""

from typing import Any, Final

import msgspec

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
from relay.translate.chat.shapes import CallDelta, Chunk, Counts, Delta, Details
from relay.translate.counts import bounded
from relay.translate.fields import encode_text, objects_in
from relay.translate.idents import legal_call_id, made_call_id
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.troubles import read_error
from relay.usage import Usage

_ENDINGS: Final = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.CALLS,
    "function_call": Finish.CALLS,
    "content_filter": Finish.FILTERED,
}
_NO_DETAILS: Final = Details()
_decode = Decoder(Chunk).decode


def read_usage(counts: Counts) -> Usage:
    """Return usage in the one convention."""
    inward = counts.prompt_tokens_details or _NO_DETAILS
    outward = counts.completion_tokens_details or _NO_DETAILS
    cached = inward.cached_tokens
    if cached is None:
        cached = counts.prompt_cache_hit_tokens or counts.cached_tokens
    asked, said = bounded(counts.prompt_tokens), bounded(counts.completion_tokens)
    reasoning = bounded(outward.reasoning_tokens)
    if reasoning and counts.total_tokens == asked + said + reasoning:
        said += reasoning  # xAI's completion_tokens leaves it out; only the total tells
    return Usage(
        asked,
        min(bounded(cached), asked),
        bounded(inward.cache_write_tokens or counts.cache_creation_input_tokens),
        said,
        min(reasoning, said),
        audio_input_tokens=bounded(inward.audio_tokens),
        audio_output_tokens=bounded(outward.audio_tokens),
    )


def _probs(found: object) -> list[JsonObject] | None:
    return objects_in(found.get("content")) or None if isinstance(found, dict) else None


class ChatAnswerReader(AnswerReader):
    """Reads chat. Its end is told at `[DONE]` or at the stream's: an error may follow a finish."""

    def __init__(self, sink: AnswerSink, terms: AnswerTerms) -> None:
        super().__init__(TranslateDialect.OPENAI_CHAT, sink, terms)
        self.keys: dict[int, int] = {}
        self.ids: dict[int, str] = {}
        self.client_ids: list[str] = []
        self.last_key = -1
        self.reasoning_name = "reasoning_content"
        self.reasoning: list[str] = []
        self.details: list[JsonObject] = []
        self.declined = False
        self.pages: list[str] = []
        self.notes: list[JsonObject] = []

    def read(self, payload: bytes) -> None:
        """Read one chunk, or the whole body."""
        if self.over:
            return
        if payload.startswith(b"[DONE]"):
            # Snowflake ends so without a finish reason; it is the protocol's end all the same.
            if self.ending is None and self.begun:
                self.ending = Ending(Finish.CALLS if self.call_count else Finish.STOP, "[DONE]")
            self.finish()
            return
        try:
            chunk = _decode(payload)
        except Undecodable:
            self.fail(garbled())
            return
        self._read_chunk(chunk)

    def _read_chunk(self, chunk: Chunk) -> None:
        if chunk.error:
            self.fail(read_error({"error": chunk.error}))
            return
        if chunk.usage:
            self._count(chunk.usage)
        if isinstance(chunk.citations, list):
            self.pages = [page for page in chunk.citations if isinstance(page, str)]
        for choice in chunk.choices or ():
            if choice.index:
                continue
            delta = choice.delta or choice.message
            if delta is not None:
                self.start()
                self._read_delta(delta, _probs(choice.logprobs) if choice.logprobs else None)
            if choice.finish_reason is not None:
                self._note_end(choice.finish_reason, choice.native_finish_reason)

    def _count(self, found: object) -> None:
        try:
            self.usage = read_usage(msgspec.convert(found, Counts, strict=False))
        except msgspec.ValidationError:
            self.lose("usage")

    def finish(self) -> None:
        """Tell of the end, and keep the thinking before the first call."""
        if not self.over:
            for note in self.notes:
                self._cite(note)
            for page in self.pages:
                self.sink.cite(Citation(page, ""))
        if self.client_ids and not self.over:
            block: JsonObject = {}
            if self.reasoning:
                block[self.reasoning_name] = "".join(self.reasoning)
            if self.details:
                block["reasoning_details"] = self.details
            if block:
                self.keep(self.client_ids[0], [block])
        super().finish()

    def _note_end(self, reason: str, native: str | None) -> None:
        if reason == "error":
            self.fail(read_error({"message": "The upstream reported an error."}))
            return
        found = _ENDINGS.get(reason, Finish.STOP)
        if found is Finish.STOP and self.call_count:
            found = Finish.CALLS  # some servers say "stop" though the model calls
        elif found is Finish.STOP and self.declined:
            found = Finish.DECLINED
        self.ending = Ending(found, native or reason)

    def _read_delta(self, delta: Delta, probs: list[dict[str, Any]] | None) -> None:
        if delta.reasoning_content or delta.reasoning or delta.reasoning_details:
            self._read_reasoning(delta)
        content = delta.content
        if content:
            if isinstance(content, str):
                self.sink.text(content, probs)
            elif isinstance(content, list):
                self._read_parts(content)
        if delta.refusal:
            self.declined = True
            self.sink.declined(delta.refusal)
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._read_call(call)
        if delta.annotations or delta.images:
            self._read_rest(delta)

    def _read_reasoning(self, delta: Delta) -> None:
        reasoning = delta.reasoning_content
        if not reasoning and isinstance(delta.reasoning, str):
            reasoning = delta.reasoning
            self.reasoning_name = "reasoning"
        if reasoning:
            self.reasoning.append(reasoning)
            self.think(reasoning)
        for detail in objects_in(delta.reasoning_details):
            self._add_detail(detail)

    def _read_parts(self, parts: list[Any]) -> None:
        """Read a content of parts: Mistral's thinking models write so."""
        for part in parts:
            if not isinstance(part, dict):
                continue
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                self.sink.text(part["text"], None)
            elif part.get("type") == "thinking":
                for piece in part.get("thinking") or ():
                    if isinstance(piece, dict) and isinstance(piece.get("text"), str):
                        self.reasoning.append(piece["text"])
                        self.think(piece["text"])

    def _add_detail(self, detail: JsonObject) -> None:
        last = self.details[-1] if self.details else None
        joins = last is not None and all(
            last.get(name) == detail.get(name) for name in ("type", "index", "format")
        )
        if last is None or not joins or "index" not in detail:
            self.details.append(dict(detail))
            return
        for name in ("text", "summary"):
            if isinstance(detail.get(name), str):
                last[name] = (last.get(name) or "") + detail[name]
        for name in ("signature", "data", "id"):
            if detail.get(name) is not None:
                last[name] = detail[name]

    def _read_call(self, call: CallDelta) -> None:
        function = call.function
        index = call.index
        key = self.last_key
        begins = False
        if call.id and (index is None or self.ids.get(index) != call.id):
            begins = True
        elif index is not None:
            key = self.keys.get(index, -1)
        if key < 0 or begins:
            key = self._begin_call(index, call.id, (function.name if function else None) or "")
        self.last_key = key
        fragment = function.arguments if function is not None else None
        if fragment:
            text = fragment if isinstance(fragment, str) else encode_text(fragment)
            self.sink.arguments(key, text)

    def _begin_call(self, index: int | None, call_id: str | None, name: str) -> int:
        key = self.call_count
        self.call_count += 1
        if index is not None:
            self.keys[index] = key
            self.ids[index] = call_id or ""
        legal = legal_call_id(call_id) if call_id else made_call_id(self.nonce, str(key))
        self.client_ids.append(legal)
        self.sink.call(key, legal, name)
        return key

    def _read_rest(self, delta: Delta) -> None:
        # They may come before the words that they are of: all are told at the end.
        self.notes.extend(objects_in(delta.annotations))
        for image in objects_in(delta.images):
            found = image.get("image_url")
            url = found.get("url") if isinstance(found, dict) else None
            if isinstance(url, str) and url.startswith("data:"):
                head, _, payload = url[5:].partition(",")
                self.sink.image(head.removesuffix(";base64"), payload)

    def _cite(self, note: JsonObject) -> None:
        cited = note.get("url_citation")
        if not isinstance(cited, dict):
            return
        start, end = cited.get("start_index"), cited.get("end_index")
        self.sink.cite(
            Citation(
                str(cited.get("url") or ""),
                str(cited.get("title") or ""),
                start if isinstance(start, int) else 0,
                end if isinstance(end, int) else 0,
            )
        )
