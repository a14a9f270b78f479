"""Writes a chat completion's answer, in chunks or as one body.

Source: OpenAI API reference, "Chat completion chunk" and "Chat completion". `reasoning_content`
is DeepSeek's name for thinking, `images` and `native_finish_reason` are OpenRouter's.
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
from relay.translate.counts import chat_usage
from relay.translate.fields import encode
from relay.translate.idents import answer_id
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.troubles import write_error
from relay.usage import Usage

_ENDINGS: Final = {
    Finish.STOP: "stop",
    Finish.STOP_SEQUENCE: "stop",
    Finish.LENGTH: "length",
    Finish.CONTEXT: "length",
    Finish.CALLS: "tool_calls",
    Finish.FILTERED: "content_filter",
    Finish.DECLINED: "content_filter",
    Finish.PAUSED: "length",
}
_TOLD: Final = frozenset({Finish.CONTEXT, Finish.PAUSED, Finish.DECLINED, Finish.STOP_SEQUENCE})
"""Endings that the dialect has no word for: the upstream's own goes beside."""
_TAIL: Final = b'},"finish_reason":null}]}\n\n'
_DONE: Final = b"data: [DONE]\n\n"
DIALECT: Final = TranslateDialect.OPENAI_CHAT


def _annotation(citation: Citation) -> JsonObject:
    cited = {
        "start_index": citation.start,
        "end_index": citation.end,
        "url": citation.url,
        "title": citation.title,
    }
    return {"type": "url_citation", "url_citation": cited}


def _image(number: int, mime: str, payload: str) -> JsonObject:
    url = {"url": f"data:{mime};base64,{payload}"}
    return {"type": "image_url", "image_url": url, "index": number}


def _finish_reason(ending: Ending, *, declined: bool) -> str:
    # OpenAI's own refusals end with "stop": the words stand in a field of their own.
    plain = declined and ending.reason in {Finish.STOP, Finish.DECLINED}
    return "stop" if plain else _ENDINGS[ending.reason]


class ChatAnswerWriter(AnswerWriter):
    """Writes chunks."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(DIALECT, terms)
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": terms.created_s,
            "model": terms.model,
        }
        self.head = b"data: " + encode(head)[:-1]
        self.delta = self.head + b',"choices":[{"index":0,"delta":{'
        self.text_head = self.delta + b'"content":'
        self.images = 0
        self.said_no = False

    def begin(self, usage: Usage | None) -> None:
        """Send the role."""
        self.out.append(self.delta + b'"role":"assistant","content":""' + _TAIL)

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Send some words."""
        if not logprobs:
            self.out.append(self.text_head + encode(text) + _TAIL)
            return
        probs = b'},"logprobs":' + encode({"content": logprobs, "refusal": None})
        self.out.append(self.text_head + encode(text) + probs + b',"finish_reason":null}]}\n\n')

    def thinking(self, text: str) -> None:
        """Send some words of the thinking."""
        self.out.append(self.delta + b'"reasoning_content":' + encode(text) + _TAIL)

    def declined(self, text: str) -> None:
        """Send some words for not answering."""
        self.said_no = True
        self.out.append(self.delta + b'"refusal":' + encode(text) + _TAIL)

    def call(self, key: int, call_id: str, name: str) -> None:
        """Send the beginning of a call."""
        function = {"name": name, "arguments": ""}
        call = {"index": key, "id": call_id, "type": "function", "function": function}
        self.out.append(self.delta + b'"tool_calls":' + encode([call]) + _TAIL)

    def arguments(self, key: int, fragment: str) -> None:
        """Send a piece of a call's arguments."""
        self.out.append(
            self.delta
            + b'"tool_calls":[{"index":%d,"function":{"arguments":' % key
            + encode(fragment)
            + b"}}]"
            + _TAIL
        )

    def image(self, mime: str, payload: str) -> None:
        """Send an image."""
        image = _image(self.images, mime, payload)
        self.images += 1
        self.out.append(self.delta + b'"images":' + encode([image]) + _TAIL)

    def cite(self, citation: Citation) -> None:
        """Send where the words before it come from."""
        self.out.append(self.delta + b'"annotations":' + encode([_annotation(citation)]) + _TAIL)

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """Send the finish reason, usage where it was asked for, and the end."""
        choice: JsonObject = {
            "index": 0,
            "delta": {},
            "finish_reason": _finish_reason(ending, declined=self.said_no),
        }
        if ending.reason in _TOLD:
            choice["native_finish_reason"] = ending.word
        self.out.append(self.head + b',"choices":' + encode([choice]) + b"}\n\n")
        if self.terms.include_usage:
            counts = encode(chat_usage(usage))
            self.out.append(self.head + b',"choices":[],"usage":' + counts + b"}\n\n")
        self.out.append(_DONE)

    def tell(self, trouble: Trouble) -> None:
        """Send the error; no `[DONE]` follows one."""
        self.out.append(b"data: " + write_error(DIALECT, trouble) + b"\n\n")


def write_answer(said: Collected, terms: AnswerTerms, lost: list[str]) -> bytes:
    """Return a whole answer; `lost` is never added to, since this dialect can say all."""
    assert said.ending is not None
    texts = said.texts()
    message: JsonObject = {
        "role": "assistant",
        "content": "".join(text.text for text in texts) if texts else None,
        "refusal": None,
    }
    declined = "".join(one.text for one in said.items if isinstance(one, SaidText) and one.declined)
    if declined:
        message["refusal"] = declined
    thinking = "".join(one.text for one in said.items if isinstance(one, SaidThinking))
    if thinking:
        message["reasoning_content"] = thinking
    calls = [_call(one) for one in said.items if isinstance(one, SaidCall)]
    if calls:
        message["tool_calls"] = calls
    notes = [_annotation(one) for text in texts for one in text.citations]
    if notes:
        message["annotations"] = notes
    images = [one for one in said.items if isinstance(one, SaidImage)]
    if images:
        message["images"] = [_image(i, one.mime, one.payload) for i, one in enumerate(images)]
    probs = [prob for text in texts for prob in text.logprobs]
    choice: JsonObject = {
        "index": 0,
        "message": message,
        "logprobs": {"content": probs, "refusal": None} if probs else None,
        "finish_reason": _finish_reason(said.ending, declined=bool(declined)),
    }
    if said.ending.reason in _TOLD:
        choice["native_finish_reason"] = said.ending.word
    return encode(
        {
            "id": answer_id(DIALECT, terms.nonce),
            "object": "chat.completion",
            "created": terms.created_s,
            "model": terms.model,
            "choices": [choice],
            "usage": chat_usage(said.usage),
        }
    )


def _call(said: SaidCall) -> JsonObject:
    function = {"name": said.name, "arguments": said.arguments}
    return {"id": said.id, "type": "function", "function": function}
