"""The request that asks a channel to go on from what is already out.

Each form is the client's own body with three things changed: the answer so far stands behind its
messages as the assistant's turn, the channel is told to continue that turn, and the bound on tokens
is lowered by what is out. No instruction in words: a model told in English to go on has been seen
to change persona and language, and to write prose where a tool call was due.

The answer is given without its trailing whitespace. Templates and providers strip it or refuse it,
and models write it anew with the next word; the seam drops what is then there twice.

Source: docs/streams.md, "Continuing an answer: forms".
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.model import Resume
from relay.records import Endpoint
from relay.splice.anchor import anchor_of, notice_of
from relay.splice.gates import (
    Delivered,
    SplicePlan,
    SpliceRefusal,
    anchored_bound,
    remaining_tokens,
)

TRUE: Final = msgspec.Raw(b"true")
FALSE: Final = msgspec.Raw(b"false")
_VLLM_FLAGS: Final = ("add_generation_prompt", "continue_final_message")
_TURN_FLAGS: Final = ("prefix", "partial")

_fields_decoder: Final = Decoder(dict[str, msgspec.Raw])
_list_decoder: Final = Decoder(list[msgspec.Raw])
_text_decoder: Final = Decoder(str)


class ContinuedRequest(NamedTuple):
    """A request for the rest of an answer.

    `fields`: the top level of its body. `given`: the text the channel was given to go on from.
    """

    fields: dict[str, msgspec.Raw]
    given: str


def continue_request(
    fields: Mapping[str, msgspec.Raw], plan: SplicePlan, delivered: Delivered, resume: Resume
) -> ContinuedRequest | SpliceRefusal:
    """Return the request that goes on where `delivered` ends, or why there is none.

    Args:
        fields: The top level of the client's body, values verbatim; left as it is.
        plan: What was judged of it.
        delivered: What is out; its text is more than whitespace.
        resume: How the channel wants to be asked; not looked at for a text completion.
    """
    try:
        if plan.endpoint is Endpoint.MESSAGES and resume is not Resume.ANCHORED:
            return _continue_claude(fields, plan, delivered)
        if resume is Resume.ANCHORED and plan.endpoint is not Endpoint.COMPLETIONS:
            return _continue_anchored(fields, plan, delivered)
        if plan.endpoint is Endpoint.COMPLETIONS:
            asked: ContinuedRequest | SpliceRefusal = _continue_prompt(fields, delivered.text)
        else:
            asked = _continue_messages(fields, delivered.text, resume)
    except Undecodable:
        return SpliceRefusal.UNREADABLE
    if isinstance(asked, ContinuedRequest):
        _lower_bound(asked.fields, remaining_tokens(plan, delivered))
    return asked


def _continue_prompt(fields: Mapping[str, msgspec.Raw], text: str) -> ContinuedRequest:
    prompt = _text_decoder.decode(fields["prompt"])
    given = text.rstrip()
    return ContinuedRequest({**fields, "prompt": raw_of(prompt + given)}, given)


def _continue_claude(
    fields: Mapping[str, msgspec.Raw], plan: SplicePlan, delivered: Delivered
) -> ContinuedRequest | SpliceRefusal:
    """Return a request in Anthropic's dialect whose last turn is the answer so far."""
    thinking = _fields_decoder.decode(fields.get("thinking", b"{}"))
    if thinking.get("type") not in (None, raw_of("disabled")):
        return SpliceRefusal.OPEN_THINKING  # it takes no beginning of an answer then
    messages = _list_decoder.decode(fields["messages"])
    if messages and _fields_decoder.decode(messages[-1]).get("role") == raw_of("assistant"):
        return SpliceRefusal.LAST_TURN
    given = delivered.text.rstrip()
    turn = {"role": "assistant", "content": given}
    asked = {**fields, "messages": raw_of([*messages, turn])}
    _lower_bound(asked, remaining_tokens(plan, delivered))
    return ContinuedRequest(asked, given)


def _continue_anchored(
    fields: Mapping[str, msgspec.Raw], plan: SplicePlan, delivered: Delivered
) -> ContinuedRequest | SpliceRefusal:
    """Return a request for the last words of what is out, and for what comes behind them."""
    anchor = anchor_of(delivered.text)
    if not anchor:
        return SpliceRefusal.SHORT
    messages = _list_decoder.decode(fields["messages"])
    if messages and _fields_decoder.decode(messages[-1]).get("role") == raw_of("assistant"):
        return SpliceRefusal.LAST_TURN
    given = delivered.text.rstrip()
    turns = [
        {"role": "assistant", "content": given},
        {"role": "user", "content": notice_of(anchor)},
    ]
    asked = {**fields, "messages": raw_of([*messages, *turns])}
    _lower_bound(asked, anchored_bound(plan, delivered, anchor))
    return ContinuedRequest(asked, given)


def _continue_messages(
    fields: Mapping[str, msgspec.Raw], text: str, resume: Resume
) -> ContinuedRequest | SpliceRefusal:
    messages = _list_decoder.decode(fields["messages"])
    turn = _fields_decoder.decode(messages[-1]) if messages else {}
    before = ""
    if turn.get("role") == raw_of("assistant"):
        # Only a turn that the client marked as unfinished is ours to finish: nobody can tell
        # whether the first channel took an unmarked one for unfinished.
        if not _is_marked(turn, fields):
            return SpliceRefusal.LAST_TURN
        before = _text_decoder.decode(turn["content"])
        messages.pop()
    else:
        turn = {"role": raw_of("assistant")}
    # A channel that echoes has sent the client's own beginning as part of the answer already.
    given = (text if text.startswith(before) else before + text).rstrip()
    for flag in _TURN_FLAGS:
        turn.pop(flag, None)
    turn["content"] = raw_of(given)
    if resume in (Resume.PREFIX, Resume.PARTIAL):
        turn[resume.value] = TRUE
    asked = {name: raw for name, raw in fields.items() if name not in _VLLM_FLAGS}
    asked["messages"] = raw_of([*messages, turn])
    if resume is Resume.CONTINUE_FINAL_MESSAGE:
        asked["add_generation_prompt"] = FALSE
        asked["continue_final_message"] = TRUE
    return ContinuedRequest(asked, given)


def _is_marked(turn: Mapping[str, msgspec.Raw], fields: Mapping[str, msgspec.Raw]) -> bool:
    return fields.get("continue_final_message") == TRUE or any(
        turn.get(flag) == TRUE for flag in _TURN_FLAGS
    )


def _lower_bound(fields: dict[str, msgspec.Raw], remaining: int | None) -> None:
    if remaining is None:
        return
    for name in ("max_tokens", "max_completion_tokens"):
        if name in fields:
            fields[name] = raw_of(remaining)


def raw_of(value: object) -> msgspec.Raw:
    """Return a value as the JSON that stands for it in a body or an event."""
    return msgspec.Raw(msgspec.json.encode(value))
