"""Carries a broken stream of Gemini's on: its chunks go on where they were cut.

A chunk holds parts: text, thoughts, calls of functions. The second channel's text joins on, its
thoughts are dropped where something is out already, its running total becomes that of one answer,
and the id of the first response stays.

Source: Gemini API reference, generateContent: Candidate, Part, UsageMetadata.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from relay.decoding import Decoder
from relay.splice.anchor import notice_of
from relay.splice.continuation import raw_of
from relay.splice.delivered import count_tokens
from relay.splice.gates import Delivered, SplicePlan, SpliceRefusal, anchored_bound
from relay.splice.overlap import Overlap
from relay.splice.state import EventSplice, Fields, SpliceState

IDENTITY: Final = ("responseId", "modelVersion")
CONFIGS: Final = ("generationConfig", "generation_config")
_BOUNDS: Final = ("maxOutputTokens", "max_output_tokens")
_fields: Final = Decoder(Fields)
_list: Final = Decoder(list[Fields])
_raws: Final = Decoder(list[msgspec.Raw])
_text: Final = Decoder(str)
_number: Final = Decoder(int)
_TRUE: Final = b"true"
_EMPTY: Final = msgspec.Raw(b"{}")
_NONE: Final = msgspec.Raw(b"[]")


class GeminiReading:
    """The state of reading what went out of a stream of Gemini's."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._identity: Fields = {}
        self._thought = False
        self._refusal: SpliceRefusal | None = None
        self.events = 0

    def take(self, payload: bytes) -> None:
        """Read a chunk."""
        self.events += 1
        chunk = _fields.decode(payload)
        if not self._identity:
            self._identity = {name: chunk[name] for name in IDENTITY if name in chunk}
        candidates = _list.decode(chunk.get("candidates", _NONE))
        if len(candidates) > 1:
            self._refusal = self._refusal or SpliceRefusal.MANY_CHOICES
        for candidate in candidates[:1]:
            content = _fields.decode(candidate.get("content", _EMPTY))
            for part in _list.decode(content.get("parts", _NONE)):
                self._take_part(part)
            if "finishReason" in candidate:
                self._refusal = self._refusal or SpliceRefusal.FINISHED

    def _take_part(self, part: Fields) -> None:
        if bytes(part.get("thought", b"")) == _TRUE:
            self._thought = True
        elif "text" in part:
            self._texts.append(_text.decode(part["text"]))
        elif "functionCall" in part:
            self._refusal = self._refusal or SpliceRefusal.TOOL_CALL
        else:
            self._refusal = self._refusal or SpliceRefusal.NOT_TEXT

    def result(self) -> Delivered:
        """Return what the client has."""
        text = "".join(self._texts)
        return Delivered(
            text=text,
            tokens=count_tokens(text, 0),
            events=self.events,
            texts=sum(1 for part in self._texts if part),
            identity=self._identity,
            refusal=self._refusal,
            thought=self._thought,
        )


def continue_contents(
    fields: Mapping[str, msgspec.Raw], plan: SplicePlan, delivered: Delivered, anchor: str
) -> tuple[Fields, str] | SpliceRefusal:
    """Return a request that goes on from what is out, and the text that it gives.

    Args:
        fields: The top level of the client's body.
        plan: What was judged of it.
        delivered: What is out.
        anchor: The words that are to be repeated, "" = the channel goes on from a beginning.
    """
    contents = _raws.decode(fields["contents"])
    if contents and _fields.decode(contents[-1]).get("role") == raw_of("model"):
        return SpliceRefusal.LAST_TURN
    given = delivered.text.rstrip()
    turns: list[object] = [*contents, {"role": "model", "parts": [{"text": given}]}]
    if anchor:
        turns.append({"role": "user", "parts": [{"text": notice_of(anchor)}]})
    asked = {**fields, "contents": raw_of(turns)}
    bound = anchored_bound(plan, delivered, anchor)
    for name in CONFIGS:
        if bound is not None and name in fields:
            config = _fields.decode(fields[name])
            config |= {field: raw_of(bound) for field in _BOUNDS if field in config}
            asked[name] = raw_of(config)
    return asked, given


class GeminiSplice(EventSplice):
    """Rewrites the chunks of the channel that carries a stream on (see splice.rewrite.Splice).

    Args:
        delivered: What the client has.
        overlap: Where the texts meet.
        tokens_before: Tokens of the old channel's part that the new one does not count as output.
        extra: Others of its prompt, that nobody but us asked for.
    """

    def __init__(
        self, delivered: Delivered, overlap: Overlap, tokens_before: int, extra: int
    ) -> None:
        super().__init__()
        self._delivered = delivered
        self._overlap = overlap
        self._tokens_before = tokens_before
        self._extra = extra
        self._joined = False

    def _take(self, chunk: Fields) -> bytes:
        if "error" in chunk:
            self.state = SpliceState.BROKEN
            return b""
        candidates = _list.decode(chunk.get("candidates", _NONE))
        due = not candidates and self.state is SpliceState.FINISHED
        for candidate in candidates[:1]:
            due = self._join(candidate)
        if self.state is SpliceState.BROKEN or not due:
            return b""
        if candidates:
            chunk["candidates"] = raw_of(candidates[:1])
        if "usageMetadata" in chunk:
            chunk["usageMetadata"] = self._count(_fields.decode(chunk["usageMetadata"]))
        if self._delivered.identity:
            chunk = {name: raw for name, raw in chunk.items() if name not in IDENTITY}
            chunk |= self._delivered.identity
        return b"data: " + msgspec.json.encode(chunk) + b"\r\n\r\n"

    def _join(self, candidate: Fields) -> bool:
        """Make a candidate the old stream's, in place; False where nothing of it goes on."""
        finished = "finishReason" in candidate
        content = _fields.decode(candidate.get("content", _EMPTY))
        kept: list[Fields] = []
        for part in _list.decode(content.get("parts", _NONE)):
            kept += self._join_part(part)
        if finished:
            rest = self._close()
            kept += [{"text": raw_of(rest)}] if rest else []
        if self._overlap.broken:
            self.state = SpliceState.BROKEN
        elif finished:
            self.state = SpliceState.FINISHED
        if kept or "parts" in content:
            content["parts"] = raw_of(kept)
            candidate["content"] = raw_of(content)
        return bool(kept) or finished

    def _join_part(self, part: Fields) -> list[Fields]:
        """Return what of a part goes on."""
        if bytes(part.get("thought", b"")) == _TRUE:
            out = self._delivered.text or self._delivered.thought
            return [] if out else [part]
        if "text" in part:
            text = _text.decode(part["text"])
            told = self._overlap.feed(text) if text and not self._joined else text
            signed = "thoughtSignature" in part
            return [{**part, "text": raw_of(told)}] if told or signed else []
        rest = self._close()
        return [{"text": raw_of(rest)}, part] if rest else [part]

    def _close(self) -> str:
        """Return what was held back at the seam; nothing is looked for behind it."""
        if self._joined:
            return ""
        self._joined = True
        return self._overlap.end()

    def _count(self, usage: Fields) -> msgspec.Raw:
        """Return the running total as that of one answer."""
        if self._tokens_before or self._extra:
            prompt = _number.decode(usage.get("promptTokenCount", b"0"))
            output = _number.decode(usage.get("candidatesTokenCount", b"0"))
            total = _number.decode(usage.get("totalTokenCount", b"0"))
            before = min(self._tokens_before, prompt)
            less = min(self._extra, prompt - before)
            usage["promptTokenCount"] = raw_of(prompt - before - less)
            usage["candidatesTokenCount"] = raw_of(output + before)
            usage["totalTokenCount"] = raw_of(max(0, total - less))
            usage.pop("promptTokensDetails", None)
        return raw_of(usage)
