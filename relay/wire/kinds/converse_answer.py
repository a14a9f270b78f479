"""Bedrock's Converse: its answers as Anthropic would have given them, whole and event by event.

    messageStart, contentBlock*, messageStop, metadata --> message_start, content_block_*,
                                                           message_delta, message_stop

Its usage comes behind its stop reason, in `metadata`: so the end of a message is told with that.

Source: Amazon Bedrock API reference, Converse and ConverseStream; Anthropic API, Messages.
"""

from typing import Any, Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.wire.kinds.claude import event_of
from relay.wire.kinds.event_stream import Message, StreamGarbled

Fields = dict[str, Any]

_STOPS: Final = {
    "guardrail_intervened": "refusal",
    "content_filtered": "refusal",
}
"""Those that Anthropic has other words for."""
_MALFORMED: Final = frozenset({"malformed_model_output", "malformed_tool_use"})
_decode = Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class ConverseReader:
    """Puts one answer into Anthropic's words.

    Args:
        name: The upstream's name of its request.
    """

    __slots__ = ("_begun", "_ended", "_name", "_open", "_stop")

    def __init__(self, name: str) -> None:
        self._name = f"msg_bdrk_{name}" if name else "msg_bdrk"
        self._open: int | None = None
        """The block that has begun and not ended."""
        self._begun = self._ended = False
        self._stop: Fields | None = None
        """How the message ended, until its usage is told."""

    def event(self, message: Message) -> bytes:
        """Return what a frame is to Anthropic's clients; b"" = nothing.

        Raises:
            StreamGarbled: It is not what it says.
        """
        if message.headers.get(":message-type") != "event":
            return event_of(message)
        kind = message.headers.get(":event-type", "")
        try:
            told = _decode(message.payload)
            return self._told(kind, told)
        except (Undecodable, RecursionError, KeyError, TypeError, AttributeError):
            raise StreamGarbled("a frame holds no event") from None

    def end(self) -> bytes:
        """Return the end of a message whose usage was never told; b"" = there is none."""
        return b"" if self._ended or self._stop is None else self._finish(None)

    def _told(self, kind: str, told: Fields) -> bytes:
        said = b""
        if kind == "messageStart":
            said = self._start()
        elif kind == "contentBlockStart":
            said = self._block(int(told["contentBlockIndex"]), told["start"])
        elif kind == "contentBlockDelta":
            said = self._delta(int(told["contentBlockIndex"]), told["delta"])
        elif kind == "contentBlockStop":
            said = self._close()
        elif kind == "messageStop":
            self._stop = told
            said = self._close()
        elif kind == "metadata" and not self._ended:
            said = self._finish(told.get("usage"))
        return said

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        message = {
            **_envelope(self._name),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return _event("message_start", {"message": message})

    def _block(self, index: int, start: Fields) -> bytes:
        tool = start.get("toolUse")
        if tool is None:
            raise StreamGarbled("a block of a kind that nobody asked for")
        block = {"type": "tool_use", "id": tool["toolUseId"], "name": tool["name"], "input": {}}
        return self._open_block(index, block)

    def _open_block(self, index: int, block: Fields) -> bytes:
        before = self._start() + self._close()
        self._open = index
        told = {"index": index, "content_block": block}
        return before + _event("content_block_start", told)

    def _delta(self, index: int, delta: Fields) -> bytes:
        reasoning = delta.get("reasoningContent")
        begun = b""
        if reasoning is not None and "redactedContent" in reasoning:
            block = {"type": "redacted_thinking", "data": reasoning["redactedContent"]}
            return self._open_block(index, block)
        if self._open != index:
            empty: Fields = {"type": "text", "text": ""}
            if reasoning is not None:
                empty = {"type": "thinking", "thinking": "", "signature": ""}
            begun = self._open_block(index, empty)
        if reasoning is not None:
            said = _reasoning_delta(reasoning)
        elif "toolUse" in delta:
            said = {"type": "input_json_delta", "partial_json": delta["toolUse"]["input"]}
        elif "text" in delta:
            said = {"type": "text_delta", "text": delta["text"]}
        else:
            return begun  # a citation: where its words come from, which are told all the same
        return begun + _event("content_block_delta", {"index": index, "delta": said})

    def _close(self) -> bytes:
        index, self._open = self._open, None
        return b"" if index is None else _event("content_block_stop", {"index": index})

    def _finish(self, usage: Any) -> bytes:
        self._ended = True
        stop = self._stop or {}
        reason = str(stop.get("stopReason", ""))
        said: Fields = {"delta": _ending(reason, stop.get("additionalModelResponseFields"))}
        if usage is not None:
            said["usage"] = usage_of_converse(usage)
        told = self._close() + _event("message_delta", said)
        if reason in _MALFORMED:
            error = {"type": "api_error", "message": "The model's output was malformed."}
            return told + _event("error", {"error": error})
        return told + _event("message_stop", {})


def message_of(body: bytes, name: str, model: str) -> bytes:
    """Return a whole answer in Anthropic's words; what is none is returned as it is.

    Args:
        body: JSON; of an answer, or of a count of tokens.
        name: The upstream's name of its request.
        model: Of which it was asked.
    """
    try:
        told = _decode(body)
        if "inputTokens" in told:
            return _encode({"input_tokens": told["inputTokens"]})
        content = [_block_of(block) for block in told["output"]["message"]["content"]]
        reason = str(told.get("stopReason", ""))
        message = {
            **_envelope(f"msg_bdrk_{name}"),
            "model": model,
            "content": [block for block in content if block],
            **_ending(reason, told.get("additionalModelResponseFields")),
            "usage": usage_of_converse(told["usage"]),
        }
    except (Undecodable, RecursionError, KeyError, TypeError, AttributeError):
        return body
    return _encode(message)


def usage_of_converse(usage: Fields) -> Fields:
    """Return a count by Anthropic's names; both leave what a cache has out of the input."""
    said: Fields = {
        "input_tokens": usage["inputTokens"],
        "output_tokens": usage["outputTokens"],
        "cache_read_input_tokens": usage.get("cacheReadInputTokens") or 0,
        "cache_creation_input_tokens": usage.get("cacheWriteInputTokens") or 0,
    }
    hour = sum(
        one.get("inputTokens", 0)
        for one in usage.get("cacheDetails") or ()
        if one.get("ttl") == "1h"
    )
    if hour:
        said["cache_creation"] = {"ephemeral_1h_input_tokens": hour}
    return said


def _envelope(name: str) -> Fields:
    return {"id": name, "type": "message", "role": "assistant", "model": ""}


def _ending(reason: str, more: Any) -> Fields:
    sequence = more.get("stop_sequence") if isinstance(more, dict) else None
    return {"stop_reason": _STOPS.get(reason, reason), "stop_sequence": sequence}


def _reasoning_delta(reasoning: Fields) -> Fields:
    if "signature" in reasoning:
        return {"type": "signature_delta", "signature": reasoning["signature"]}
    return {"type": "thinking_delta", "thinking": reasoning["text"]}


def _block_of(block: Fields) -> Fields | None:
    if "text" in block:
        return {"type": "text", "text": block["text"]}
    if "toolUse" in block:
        tool = block["toolUse"]
        told = {"id": tool["toolUseId"], "name": tool["name"], "input": tool.get("input") or {}}
        return {"type": "tool_use", **told}
    if "reasoningContent" in block:
        reasoning = block["reasoningContent"]
        if "redactedContent" in reasoning:
            return {"type": "redacted_thinking", "data": reasoning["redactedContent"]}
        text = reasoning["reasoningText"]
        signature = text.get("signature") or ""
        return {"type": "thinking", "thinking": text["text"], "signature": signature}
    if "citationsContent" in block:
        parts = block["citationsContent"].get("content") or ()
        return {"type": "text", "text": "".join(part.get("text", "") for part in parts)}
    return None


def _event(kind: str, said: Fields) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode({"type": kind, **said}))
