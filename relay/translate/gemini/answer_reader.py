"""Reads generated content, its chunks or its body.

There is no last event: the answer is over when the stream is, if a finish reason was seen.

Source: Gemini API reference, `GenerateContentResponse`, `FinishReason`; recorded streams.
"""

from typing import Final

from relay.decoding import Decoder, Undecodable
from relay.translate.answer import (
    AnswerReader,
    AnswerSink,
    AnswerTerms,
    Citation,
    Ending,
    Finish,
    Trouble,
    garbled,
)
from relay.translate.counts import bounded
from relay.translate.fields import encode_text
from relay.translate.gemini.shapes import (
    Candidate,
    Chunk,
    Counts,
    Grounding,
    LogprobsResult,
    Part,
    Token,
)
from relay.translate.idents import legal_call_id, made_call_id
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.troubles import read_error
from relay.usage import Usage

_ENDINGS: Final = {"STOP": Finish.STOP, "MAX_TOKENS": Finish.LENGTH}
_BROKEN: Final = frozenset(
    {"MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MALFORMED_RESPONSE"}
)
"""The model's own mistakes: no other dialect has an ending for them, so they are errors."""
_UNSET: Final = "FINISH_REASON_UNSPECIFIED"
_decode = Decoder(Chunk).decode
_decode_list = Decoder(list[Chunk]).decode


def read_usage(counts: Counts) -> Usage:
    """Return usage in the one convention: what tools put into the prompt is input too."""
    thought = bounded(counts.thoughts_token_count)
    asked = bounded(counts.prompt_token_count)
    return Usage(
        asked + bounded(counts.tool_use_prompt_token_count),
        min(bounded(counts.cached_content_token_count), asked),
        0,
        bounded(counts.candidates_token_count) + thought,
        thought,
    )


class GeminiAnswerReader(AnswerReader):
    """Reads generated content."""

    def __init__(self, sink: AnswerSink, terms: AnswerTerms) -> None:
        super().__init__(TranslateDialect.GEMINI, sink, terms)
        self.said: list[str] = []

    def read(self, payload: bytes) -> None:
        """Read one chunk, or the whole body."""
        if self.over:
            return
        try:
            chunk = _decode(payload)
        except Undecodable:
            self._read_list(payload)
            return
        self._read_chunk(chunk)

    def _read_list(self, payload: bytes) -> None:
        """Read a body that is a list: of chunks, or of one error."""
        try:
            chunks = _decode_list(payload)
        except Undecodable:
            self.fail(garbled())
            return
        for chunk in chunks:
            self._read_chunk(chunk)

    def _read_chunk(self, chunk: Chunk) -> None:
        if chunk.error is not None:
            self.fail(read_error({"error": chunk.error}))
            return
        if chunk.usage_metadata is not None:
            self.usage = read_usage(chunk.usage_metadata)
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason:
            self.ending = Ending(Finish.FILTERED, feedback.block_reason)
        for candidate in chunk.candidates or ():
            if not candidate.index:
                self._read_candidate(candidate)

    def _read_candidate(self, candidate: Candidate) -> None:
        self.start()
        content = candidate.content
        probs = candidate.logprobs_result
        if content is not None:
            for part in content.parts or ():
                self._read_part(part, probs)
                if part.text and not part.thought:
                    probs = None
        if candidate.grounding_metadata is not None:
            self._read_grounding(candidate.grounding_metadata)
        if candidate.citation_metadata:
            self.lose("citationMetadata")
        reason = candidate.finish_reason
        if reason is not None and reason != _UNSET:
            self._note_end(reason, candidate.finish_message)

    def _note_end(self, reason: str, message: str | None) -> None:
        if reason in _BROKEN:
            text = message or f"The model's answer is broken: {reason}."
            self.fail(Trouble(502, "upstream_error", text, reason.lower()))
            return
        found = _ENDINGS.get(reason, Finish.FILTERED)
        if found is Finish.STOP and self.call_count:
            found = Finish.CALLS
        self.ending = Ending(found, reason)

    def _read_part(self, part: Part, probs: LogprobsResult | None) -> None:
        call = part.function_call
        if call is not None:
            key = self.call_count
            self.call_count += 1
            made = made_call_id(self.nonce, str(key))
            call_id = legal_call_id(call.id) if call.id else made
            if part.thought_signature is not None:
                self.keep(call_id, [{"thoughtSignature": part.thought_signature}])
            self.sink.call(key, call_id, call.name)
            self.sink.arguments(key, encode_text(call.args or {}))
        elif part.text is not None:
            if part.thought:
                self.think(part.text)
            elif part.text:
                self.said.append(part.text)
                self.sink.text(part.text, None if probs is None else _logprobs(probs))
        elif part.inline_data is not None:
            self.sink.image(part.inline_data.mime_type, part.inline_data.data)
        elif part.executable_code is not None or part.code_execution_result is not None:
            self.lose("executableCode")

    def _read_grounding(self, grounding: Grounding) -> None:
        pages = [chunk.web for chunk in grounding.grounding_chunks or ()]
        whole = "".join(self.said).encode()
        for support in grounding.grounding_supports or ():
            segment = support.segment
            if segment is None:
                continue
            start = len(whole[: segment.start_index].decode(errors="ignore"))
            end = len(whole[: segment.end_index].decode(errors="ignore"))
            for index in support.grounding_chunk_indices or ():
                page = pages[index] if 0 <= index < len(pages) else None
                if page is not None and page.uri:
                    text = segment.text or ""
                    self.sink.cite(Citation(page.uri, page.title or "", start, end, text))


def _logprobs(found: LogprobsResult) -> list[JsonObject]:
    """Return them in OpenAI's shape."""
    above = found.top_candidates or []
    probs: list[JsonObject] = []
    for index, token in enumerate(found.chosen_candidates or ()):
        others = above[index].candidates or [] if index < len(above) else []
        probs.append({**_token(token), "top_logprobs": [_token(one) for one in others]})
    return probs


def _token(token: Token) -> JsonObject:
    text = token.token or ""
    return {"token": text, "logprob": token.log_probability, "bytes": list(text.encode())}
