"""Writes generated content, in chunks or as one body.

A call has no pieces in this dialect: its arguments wait until they are whole. No comment is ever
written: the Python client takes each line that is no `data:` for JSON.

Source: Gemini API reference, `GenerateContentResponse`; its Python client's reading of streams.
"""

from typing import Final

from relay.translate.answer import (
    AnswerTerms,
    AnswerWriter,
    Citation,
    Ending,
    Finish,
    Trouble,
)
from relay.translate.collected import Collected, SaidCall, SaidImage, SaidText, SaidThinking
from relay.translate.counts import gemini_usage
from relay.translate.fields import encode, whole_arguments
from relay.translate.idents import answer_id, handle_of
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.troubles import write_error
from relay.usage import Usage

DIALECT: Final = TranslateDialect.GEMINI
_ENDINGS: Final = {
    Finish.STOP: "STOP",
    Finish.STOP_SEQUENCE: "STOP",
    Finish.LENGTH: "MAX_TOKENS",
    Finish.CONTEXT: "MAX_TOKENS",
    Finish.CALLS: "STOP",
    Finish.FILTERED: "SAFETY",
    Finish.DECLINED: "SAFETY",
    Finish.PAUSED: "OTHER",
}
_TOLD: Final = frozenset({Finish.CONTEXT, Finish.PAUSED, Finish.DECLINED})
"""Endings that the dialect has no word for: the upstream's own goes beside."""


CUT_CALL: Final = "functionCall (cut short)"


def _call_part(call_id: str, name: str, arguments: str) -> JsonObject | None:
    """Return a call, None where its arguments were cut short: here a call is whole or not there."""
    given = whole_arguments(arguments)
    if given is None:
        return None
    call = {"id": call_id, "name": name, "args": given}
    # Leads back to what is kept of the thinking, also with clients that send no id.
    return {"functionCall": call, "thoughtSignature": handle_of(call_id)}


def _image_part(mime: str, payload: str) -> JsonObject:
    return {"inlineData": {"mimeType": mime, "data": payload}}


def _grounding(citations: list[Citation], text: str) -> JsonObject:
    """Return citations as Gemini counts: in bytes, each page once."""
    pages: dict[str, int] = {}
    chunks: list[JsonObject] = []
    supports: list[JsonObject] = []
    for citation in citations:
        if citation.url not in pages:
            pages[citation.url] = len(chunks)
            chunks.append({"web": {"uri": citation.url, "title": citation.title}})
        segment = {
            "startIndex": len(text[: citation.start].encode()),
            "endIndex": len(text[: citation.end].encode()),
            "text": text[citation.start : citation.end],
        }
        indices = [pages[citation.url]]
        supports.append({"segment": segment, "groundingChunkIndices": indices})
    return {"groundingChunks": chunks, "groundingSupports": supports}


def _logprobs_result(probs: list[JsonObject]) -> JsonObject:
    return {
        "chosenCandidates": [_token(prob) for prob in probs],
        "topCandidates": [
            {"candidates": [_token(one) for one in prob.get("top_logprobs") or ()]}
            for prob in probs
        ],
    }


def _token(prob: JsonObject) -> JsonObject:
    return {"token": prob.get("token"), "logProbability": prob.get("logprob")}


def _ending_fields(ending: Ending) -> JsonObject:
    fields: JsonObject = {"finishReason": _ENDINGS[ending.reason]}
    if ending.reason in _TOLD:
        fields["finishMessage"] = ending.word
    return fields


class GeminiAnswerWriter(AnswerWriter):
    """Writes chunks, as events or as the elements of one JSON array."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(DIALECT, terms)
        self.array = terms.gemini_array
        self.count = 0
        names = {"modelVersion": terms.model, "responseId": self.id}
        self.names = encode(names)[1:]
        self.tail = b'],"role":"model"},"index":0}],' + self.names
        self.calls: dict[int, list[str]] = {}
        self.heads: dict[int, tuple[str, str]] = {}
        self.said: list[str] = []
        self.citations: list[Citation] = []

    def _send(self, chunk: bytes) -> None:
        if self.array:
            self.out.append((b",\r\n" if self.count else b"[") + chunk)
        else:
            self.out.append(b"data: " + chunk + b"\r\n\r\n")
        self.count += 1

    def _send_parts(self, parts: bytes) -> None:
        self._send(b'{"candidates":[{"content":{"parts":[' + parts + self.tail)

    def begin(self, usage: Usage | None) -> None:
        """Send nothing: the first words are the first chunk."""

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Send some words."""
        self._flush()
        self.said.append(text)
        if not logprobs:
            self._send_parts(b'{"text":' + encode(text) + b"}")
            return
        part = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        candidate = {**part, "logprobsResult": _logprobs_result(logprobs)}
        self._send(b'{"candidates":' + encode([candidate]) + b"," + self.names)

    def thinking(self, text: str) -> None:
        """Send some words of the thinking."""
        self._flush()
        self._send_parts(b'{"text":' + encode(text) + b',"thought":true}')

    def declined(self, text: str) -> None:
        """Send some words for not answering: here they are words like all others."""
        self.text(text, None)

    def call(self, key: int, call_id: str, name: str) -> None:
        """Note a call; it is sent when it is whole."""
        self.heads[key] = (call_id, name)
        self.calls[key] = []

    def arguments(self, key: int, fragment: str) -> None:
        """Note a piece of a call's arguments."""
        pieces = self.calls.get(key)
        if pieces is not None:
            pieces.append(fragment)

    def _flush(self) -> None:
        """Send the calls that are noted; what is said after them shows that they are whole."""
        if not self.heads:
            return
        for key, (call_id, name) in self.heads.items():
            part = _call_part(call_id, name, "".join(self.calls.pop(key)))
            if part is None:
                self.lose(CUT_CALL)
            else:
                self._send_parts(encode(part))
        self.heads.clear()

    def image(self, mime: str, payload: str) -> None:
        """Send an image."""
        self._flush()
        self._send_parts(encode(_image_part(mime, payload)))

    def cite(self, citation: Citation) -> None:
        """Note where words come from: it is sent at the end."""
        self.citations.append(citation)

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """Send the calls, the finish reason and the usage."""
        self._flush()
        candidate: JsonObject = {
            "content": {"parts": [{"text": ""}], "role": "model"},
            **_ending_fields(ending),
            "index": 0,
        }
        if self.citations:
            candidate["groundingMetadata"] = _grounding(self.citations, "".join(self.said))
        fields = {"candidates": [candidate], "usageMetadata": gemini_usage(usage)}
        self._send(encode(fields)[:-1] + b"," + self.names)
        if self.array:
            self.out.append(b"]")

    def tell(self, trouble: Trouble) -> None:
        """Send the error."""
        self._send(write_error(DIALECT, trouble))
        if self.array:
            self.out.append(b"]")


def write_answer(said: Collected, terms: AnswerTerms, lost: list[str]) -> bytes:
    """Return a whole answer; what it cannot hold is added to `lost`."""
    assert said.ending is not None
    parts: list[JsonObject] = []
    for one in said.items:
        if isinstance(one, SaidText):
            parts.append({"text": one.text})
        elif isinstance(one, SaidThinking):
            parts.append({"text": one.text, "thought": True})
        elif isinstance(one, SaidCall):
            part = _call_part(one.id, one.name, one.arguments)
            if part is None:
                lost.append(CUT_CALL)
            else:
                parts.append(part)
        elif isinstance(one, SaidImage):
            parts.append(_image_part(one.mime, one.payload))
    candidate: JsonObject = {
        "content": {"parts": parts, "role": "model"},
        **_ending_fields(said.ending),
        "index": 0,
    }
    texts = said.texts()
    citations = [citation for text in texts for citation in text.citations]
    if citations:
        whole = "".join(text.text for text in texts)
        candidate["groundingMetadata"] = _grounding(citations, whole)
    probs = [prob for text in texts for prob in text.logprobs]
    if probs:
        candidate["logprobsResult"] = _logprobs_result(probs)
    return encode(
        {
            "candidates": [candidate],
            "usageMetadata": gemini_usage(said.usage),
            "modelVersion": terms.model,
            "responseId": answer_id(DIALECT, terms.nonce),
        }
    )
