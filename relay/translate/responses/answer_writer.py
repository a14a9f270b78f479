"""Writes a response, in events or as one body.

Events are numbered, each piece names its item, and the last event holds the whole output again: so
what was sent is also gathered. Words and thinking close an item of another kind; calls may grow
side by side.

Source: OpenAI API reference, "Streaming events" of Responses.
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
from relay.translate.collected import (
    Collected,
    Said,
    SaidCall,
    SaidImage,
    SaidText,
    SaidThinking,
)
from relay.translate.counts import responses_usage
from relay.translate.fields import encode
from relay.translate.idents import answer_id, legal_name
from relay.translate.middle import JsonObject, TranslateDialect
from relay.translate.responses.items import (
    annotation,
    begun_item,
    content_part,
    custom_input,
    item_id,
    whole_item,
)
from relay.translate.troubles import openai_fault
from relay.usage import Usage

DIALECT: Final = TranslateDialect.RESPONSES
_REASONS: Final = {
    Finish.LENGTH: "max_output_tokens",
    Finish.CONTEXT: "max_output_tokens",
    Finish.PAUSED: "max_output_tokens",
    Finish.FILTERED: "content_filter",
}
"""Endings that leave a response incomplete, and the reason that is given."""


def _response(
    terms: AnswerTerms, status: str, output: list[JsonObject], usage: JsonObject | None
) -> JsonObject:
    return {
        "id": answer_id(DIALECT, terms.nonce),
        "object": "response",
        "created_at": terms.created_s,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": terms.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": usage,
        "user": None,
    }


def _ended_response(
    terms: AnswerTerms, output: list[JsonObject], ending: Ending, usage: Usage | None
) -> JsonObject:
    reason = _reason(ending, output)
    status = "completed" if reason is None else "incomplete"
    response = _response(terms, status, output, responses_usage(usage))
    if reason is not None:
        response["incomplete_details"] = {"reason": reason}
    return response


def _reason(ending: Ending, output: list[JsonObject]) -> str | None:
    if ending.reason is not Finish.DECLINED:
        return _REASONS.get(ending.reason)
    said = any(
        part["type"] == "refusal"
        for item in output
        if item["type"] == "message"
        for part in item["content"]
    )
    # Without words of its own for it, a refusal looks like an answer.
    return None if said else "content_filter"


class ResponsesAnswerWriter(AnswerWriter):
    """Writes events."""

    def __init__(self, terms: AnswerTerms) -> None:
        super().__init__(DIALECT, terms)
        self.custom = terms.custom_tools
        self.number = 0
        self.items: list[Said] = []
        self.ids: list[str] = []
        self.open: list[int] = []
        """The items that are not done; none but calls where there is more than one."""
        self.calls: dict[int, int] = {}
        self.piece_head = b""
        self.piece_item = -1
        self.usage: Usage | None = None

    def _send(self, kind: str, fields: JsonObject) -> None:
        event = {"type": kind, "sequence_number": self.number, **fields}
        self.number += 1
        self.out.append(b"event: " + kind.encode() + b"\ndata: " + encode(event) + b"\n\n")

    def begin(self, usage: Usage | None) -> None:
        """Send the response's head, twice as the dialect has it."""
        response = _response(self.terms, "in_progress", [], None)
        self._send("response.created", {"response": response})
        self._send("response.in_progress", {"response": response})

    def _piece(self, kind: bytes, member: bytes, index: int) -> None:
        """Prepare the fixed part of the pieces of an item."""
        self.piece_item = index
        self.piece_head = (
            b"event: %b\ndata: " % kind
            + b'{"type":"%b","item_id":"%b","output_index":%d,%b"delta":'
            % (kind, self.ids[index].encode(), index, member)
        )

    def _send_piece(self, text: str) -> None:
        self.out.append(
            self.piece_head + encode(text) + b',"sequence_number":%d}\n\n' % self.number
        )
        self.number += 1

    def _begin_item(self, said: Said) -> int:
        beside = self.open and isinstance(self.items[self.open[-1]], SaidCall)
        if not beside or not isinstance(said, SaidCall):
            self._close_all()
        index = len(self.items)
        self.items.append(said)
        self.ids.append(item_id(said, self.nonce, index, self.custom))
        self.open.append(index)
        item = begun_item(said, self.ids[index], self.custom)
        self._send("response.output_item.added", {"output_index": index, "item": item})
        return index

    def _text_item(self, *, declined: bool) -> SaidText:
        """Return the open message, opened where it must be."""
        last = self.items[self.open[-1]] if self.open else None
        if isinstance(last, SaidText) and last.declined is declined:
            return last
        said = SaidText([], declined)
        index = self._begin_item(said)
        place = {"item_id": self.ids[index], "output_index": index, "content_index": 0}
        part = content_part(said, "")
        self._send("response.content_part.added", {**place, "part": part})
        kind = b"response.refusal.delta" if declined else b"response.output_text.delta"
        member = b'"content_index":0,' if declined else b'"content_index":0,"logprobs":[],'
        self._piece(kind, member, index)
        return said

    def text(self, text: str, logprobs: list[JsonObject] | None) -> None:
        """Send some words."""
        said = self._text_item(declined=False)
        said.pieces.append(text)
        if not logprobs:
            self._send_piece(text)
            return
        said.logprobs.extend(logprobs)
        index = self.open[-1]
        place = {"item_id": self.ids[index], "output_index": index, "content_index": 0}
        fields = {**place, "delta": text, "logprobs": logprobs}
        self._send("response.output_text.delta", fields)

    def declined(self, text: str) -> None:
        """Send some words for not answering."""
        self._text_item(declined=True).pieces.append(text)
        self._send_piece(text)

    def thinking(self, text: str) -> None:
        """Send some words of the thinking, as its summary."""
        last = self.items[self.open[-1]] if self.open else None
        if not isinstance(last, SaidThinking):
            last = SaidThinking([])
            index = self._begin_item(last)
            place = {"item_id": self.ids[index], "output_index": index, "summary_index": 0}
            part = {"type": "summary_text", "text": ""}
            self._send("response.reasoning_summary_part.added", {**place, "part": part})
            self._piece(b"response.reasoning_summary_text.delta", b'"summary_index":0,', index)
        last.pieces.append(text)
        self._send_piece(text)

    def call(self, key: int, call_id: str, name: str) -> None:
        """Open a call's item."""
        self.calls[key] = self._begin_item(SaidCall(call_id, name))

    def arguments(self, key: int, fragment: str) -> None:
        """Send a piece of a call's arguments; free text is sent when it is whole."""
        index = self.calls[key]
        said = self.items[index]
        assert isinstance(said, SaidCall)
        said.pieces.append(fragment)
        if said.name in self.custom:
            return
        if self.piece_item != index:
            self._piece(b"response.function_call_arguments.delta", b"", index)
        self._send_piece(fragment)

    def image(self, mime: str, payload: str) -> None:
        """Send an image as the result of a call that made it."""
        self._begin_item(SaidImage(mime, payload))
        self._close_all()

    def cite(self, citation: Citation) -> None:
        """Send where the words of the open message come from."""
        index = self.open[-1] if self.open else -1
        said = self.items[index] if self.open else None
        if not isinstance(said, SaidText):
            self.lose("citations")
            return
        place = {"item_id": self.ids[index], "output_index": index, "content_index": 0}
        number = len(said.citations)
        said.citations.append(citation)
        fields = {**place, "annotation_index": number, "annotation": annotation(citation)}
        self._send("response.output_text.annotation.added", fields)

    def _close_all(self) -> None:
        for index in self.open:
            self._close(index)
        self.open.clear()
        self.piece_item = -1

    def _close(self, index: int) -> None:
        said = self.items[index]
        place: JsonObject = {"item_id": self.ids[index], "output_index": index}
        if isinstance(said, SaidText):
            content: JsonObject = {**place, "content_index": 0}
            part = content_part(said, said.text)
            if said.declined:
                self._send("response.refusal.done", {**content, "refusal": said.text})
            else:
                fields = {**content, "text": said.text, "logprobs": said.logprobs}
                self._send("response.output_text.done", fields)
            self._send("response.content_part.done", {**content, "part": part})
        elif isinstance(said, SaidThinking):
            summary: JsonObject = {**place, "summary_index": 0}
            self._send("response.reasoning_summary_text.done", {**summary, "text": said.text})
            part = {"type": "summary_text", "text": said.text}
            self._send("response.reasoning_summary_part.done", {**summary, "part": part})
        elif isinstance(said, SaidCall):
            self._close_call(said, place)
        item = whole_item(said, self.ids[index], self.custom)
        self._send("response.output_item.done", {"output_index": index, "item": item})

    def _close_call(self, said: SaidCall, place: JsonObject) -> None:
        if said.name not in self.custom:
            fields = {**place, "name": said.name, "arguments": said.arguments}
            self._send("response.function_call_arguments.done", fields)
            return
        text = custom_input(said.arguments)
        self._send("response.custom_tool_call_input.delta", {**place, "delta": text})
        self._send("response.custom_tool_call_input.done", {**place, "input": text})

    def _output(self) -> list[JsonObject]:
        return [
            whole_item(said, identity, self.custom)
            for said, identity in zip(self.items, self.ids, strict=True)
        ]

    def finish(self, ending: Ending, usage: Usage | None) -> None:
        """Send the end of all items, and the whole response."""
        self._close_all()
        response = _ended_response(self.terms, self._output(), ending, usage)
        self._send(f"response.{response['status']}", {"response": response})

    def tell(self, trouble: Trouble) -> None:
        """Send the response as a failed one."""
        response = _response(self.terms, "failed", self._output(), None)
        fault = openai_fault(trouble)
        code = fault["code"] or ("server_error" if trouble.status >= 500 else trouble.kind)
        response["error"] = {"code": code, "message": fault["message"]}
        self._send("response.failed", {"response": response})


def write_answer(said: Collected, terms: AnswerTerms, lost: list[str]) -> bytes:
    """Return a whole answer; `lost` is never added to, since this dialect can say all."""
    assert said.ending is not None
    nonce = legal_name(terms.nonce)
    custom = terms.custom_tools
    output = [
        whole_item(one, item_id(one, nonce, index, custom), custom)
        for index, one in enumerate(said.items)
    ]
    return encode(_ended_response(terms, output, said.ending, said.usage))
