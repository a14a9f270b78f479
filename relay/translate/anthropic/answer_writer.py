"""Writes an Anthropic message, in events or as one body.

One block is open at a time. A dialect whose calls grow side by side is put in a row: while an open
call's arguments are not whole, what belongs elsewhere waits.

Source: Anthropic API reference, "Streaming Messages".
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
from relay.translate.counts import anthropic_usage
from relay.translate.fields import decode_json, encode, whole_arguments
from relay.translate.idents import answer_id, handle_of
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.troubles import write_error
from relay.usage import Usage

DIALECT: Final = TranslateDialect.ANTHROPIC
_ENDINGS: Final = {
    Finish.STOP: "end_turn",
    Finish.STOP_SEQUENCE: "stop_sequence",
    Finish.LENGTH: "max_tokens",
    Finish.CONTEXT: "model_context_window_exceeded",
    Finish.CALLS: "tool_use",
    Finish.FILTERED: "refusal",
    Finish.DECLINED: "refusal",
    Finish.PAUSED: "pause_turn",
}
_END: Final = b"}}\n\n"
_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_TEXT: Final = "text"
_THINKING: Final = "thinking"
_CALL: Final = "tool_use"


def _cited(citation: Citation) -> JsonObject:
    return {
        "type": "web_search_result_location",
        "url": citation.url,
        "title": citation.title,
        "cited_text": citation.text,
        "encrypted_index": "",
    }


class _Waiting:
    """What was said while an open call was not whole: words (`key` -1) or a piece of a call."""

    __slots__ = ("call_id", "key", "kind", "text")

    def __init__(self, kind: str, key: int, text: str, call_id: str = "") -> None:
        self.kind = kind
        self.key = key
        self.text = text
        self.call_id = call_id


class AnthropicAnswerWriter(AnswerWriter):
    """Writes events."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(DIALECT, terms)
        self.index = -1
        self.open = ""
        """The kind of the open block; "" = none is."""
        self.open_key = -1
        self.open_pieces: list[str] = []
        self.delta_head = b""
        self.waiting: list[_Waiting] = []

    def begin(self, usage: Usage | None) -> None:
        """Send the message's head, with what is known of its usage."""
        message: JsonObject = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.terms.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": anthropic_usage(usage),
        }
        event = {"type": "message_start", "message": message}
        self.out.append(b"event: message_start\ndata: " + encode(event) + b"\n\n")

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Send some words."""
        if logprobs:
            self.lose("logprobs")
        if self.open != _TEXT:
            if self._must_wait(-1):
                self.waiting.append(_Waiting(_TEXT, -1, text))
                return
            self._open(_TEXT, {"type": "text", "text": ""}, b'"text_delta","text":')
        self.out.append(self.delta_head + encode(text) + _END)

    def thinking(self, text: str) -> None:
        """Send some words of the thinking."""
        if self.open != _THINKING:
            if self._must_wait(-1):
                self.waiting.append(_Waiting(_THINKING, -1, text))
                return
            block = {"type": "thinking", "thinking": "", "signature": ""}
            self._open(_THINKING, block, b'"thinking_delta","thinking":')
        self.out.append(self.delta_head + encode(text) + _END)

    def declined(self, text: str) -> None:
        """Send some words for not answering: here they are words like all others."""
        self.text(text, None)

    def call(self, key: int, call_id: str, name: str) -> None:
        """Open a call's block."""
        if self._must_wait(key):
            self.waiting.append(_Waiting(_CALL, key, name, call_id))
            return
        self._open_call(key, call_id, name)

    def _open_call(self, key: int, call_id: str, name: str) -> None:
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        self._open(_CALL, block, b'"input_json_delta","partial_json":')
        self.open_key = key
        self.open_pieces = []

    def arguments(self, key: int, fragment: str) -> None:
        """Send a piece of a call's arguments."""
        if key != self.open_key or self.open != _CALL:
            self.waiting.append(_Waiting("", key, fragment))
            return
        self.open_pieces.append(fragment)
        self.out.append(self.delta_head + encode(fragment) + _END)

    def image(self, mime: str, payload: str) -> None:
        """Lose an image: a message of the assistant's holds none."""
        self.lose("image")

    def cite(self, citation: Citation) -> None:
        """Send where the words of the open block come from."""
        if self.open != _TEXT:
            self.lose("citations")
            return
        delta = {"type": "citations_delta", "citation": _cited(citation)}
        event = {"type": "content_block_delta", "index": self.index, "delta": delta}
        self.out.append(b"event: content_block_delta\ndata: " + encode(event) + b"\n\n")

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """Send all that waits, the stop reason, the usage and the end."""
        self._flush()
        self._close()
        delta = {"stop_reason": _ENDINGS[ending.reason], "stop_sequence": ending.stop}
        event = {"type": "message_delta", "delta": delta, "usage": anthropic_usage(usage)}
        self.out.append(b"event: message_delta\ndata: " + encode(event) + b"\n\n")
        self.out.append(_STOP)

    def tell(self, trouble: Trouble) -> None:
        """Send the error."""
        self.out.append(b"event: error\ndata: " + write_error(DIALECT, trouble) + b"\n\n")

    def _must_wait(self, key: int) -> bool:
        """Tell whether an open call is not whole yet, so that nothing else may begin."""
        if self.open != _CALL or key == self.open_key:
            return False
        if self.waiting:
            return True
        # Without a piece so far there may still come one.
        return decode_json("".join(self.open_pieces)) is None

    def _flush(self) -> None:
        """Send what waits, call by call: the pieces of one stand apart from each other."""
        waiting, self.waiting = self.waiting, []
        pieces: dict[int, list[str]] = {}
        for one in waiting:
            if not one.kind:
                pieces.setdefault(one.key, []).append(one.text)
        if self.open == _CALL:
            for fragment in pieces.pop(self.open_key, ()):
                self.arguments(self.open_key, fragment)
        for one in waiting:
            if one.kind == _CALL:
                self._open_call(one.key, one.call_id, one.text)
                for fragment in pieces.pop(one.key, ()):
                    self.arguments(one.key, fragment)
            elif one.kind:
                self._close()
                if one.kind == _TEXT:
                    self.text(one.text, None)
                else:
                    self.thinking(one.text)

    def _open(self, kind: str, block: JsonObject, delta: bytes) -> None:
        self._close()
        self.index += 1
        self.open = kind
        event = {"type": "content_block_start", "index": self.index, "content_block": block}
        self.out.append(b"event: content_block_start\ndata: " + encode(event) + b"\n\n")
        self.delta_head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":' % self.index + delta
        )

    def _close(self) -> None:
        if not self.open:
            return
        if self.open == _THINKING:
            # Clients want a signature; this one leads nowhere, and says whose it is.
            signature = encode(handle_of(f"{self.nonce}.{self.index}"))
            self.out.append(
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                b'"delta":{"type":"signature_delta","signature":' % self.index + signature + _END
            )
        self.open = ""
        self.open_key = -1
        self.out.append(
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
            % self.index
        )


def write_answer(said: Collected, terms: AnswerTerms, lost: list[str]) -> bytes:
    """Return a whole answer; what it cannot hold is added to `lost`."""
    assert said.ending is not None
    content: list[JsonObject] = []
    for index, one in enumerate(said.items):
        if isinstance(one, SaidText):
            block: JsonObject = {"type": "text", "text": one.text}
            if one.citations:
                block["citations"] = [_cited(citation) for citation in one.citations]
            if one.logprobs:
                lost.append("logprobs")
            content.append(block)
        elif isinstance(one, SaidThinking):
            signature = handle_of(f"{terms.nonce}.{index}")
            block = {"type": "thinking", "thinking": one.text, "signature": signature}
            content.append(block)
        elif isinstance(one, SaidCall):
            given = whole_arguments(one.arguments)
            if given is None:
                lost.append("tool_use (cut short)")
            else:
                call = {"id": one.id, "name": one.name, "input": given}
                content.append({"type": "tool_use", **call})
        elif isinstance(one, SaidImage):
            lost.append("image")
    return encode(
        {
            "id": answer_id(DIALECT, terms.nonce),
            "type": "message",
            "role": "assistant",
            "model": terms.model,
            "content": content,
            "stop_reason": _ENDINGS[said.ending.reason],
            "stop_sequence": said.ending.stop,
            "usage": anthropic_usage(said.usage),
        }
    )
