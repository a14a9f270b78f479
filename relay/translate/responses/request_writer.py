"""Writes a request for a response from the middle form.

Nothing is stored at the provider: the reasoning comes back encrypted, and is kept with the calls.

Source: OpenAI API reference, "Create a model response"; "Conversation state" of its guides.
"""

from typing import Final

from relay.translate.idents import legal_call_id
from relay.translate.middle import (
    Ask,
    Call,
    Declined,
    JsonObject,
    Media,
    MediaKind,
    Part,
    Result,
    Role,
    Shown,
    Text,
    Turn,
    Upstream,
    leading_system,
    refusal,
)
from relay.translate.openai_common import (
    choice_word,
    effort_of,
    format_members,
    inline_url,
    write_sampling,
    write_shared,
)

OUTPUT_TOKENS_MIN: Final = 16
_SAMPLING: Final = frozenset({"temperature", "top_p"})


def write_request(ask: Ask, _upstream: Upstream) -> JsonObject:
    """Return the body of a request for a response.

    Raises:
        Refused: CLIENT; the dialect has no way to say it.
    """
    leading, turns = leading_system(ask.turns)
    body: JsonObject = {"model": ask.model, "store": False}
    if leading:
        body["instructions"] = "\n\n".join(
            part.text for part in leading[0].parts if isinstance(part, Text)
        )
    body["input"] = [item for turn in [*leading[1:], *turns] for item in _items(turn)]
    if ask.stream:
        body["stream"] = True
    _write_tools(ask, body)
    if ask.max_tokens is not None:
        body["max_output_tokens"] = max(ask.max_tokens, OUTPUT_TOKENS_MIN)
        if ask.max_tokens < OUTPUT_TOKENS_MIN:
            ask.drop_named("max_tokens")
    ask.cut_at(ask.stop)
    if ask.logprobs is not None:
        body["include"] = ["message.output_text.logprobs"]
        body["top_logprobs"] = ask.logprobs
    write_sampling(ask.sampling, ask, body, _SAMPLING)
    _write_output(ask, body)
    write_shared(ask, body, ask.cache_key)
    ask.drop_error_flags()
    return body


def _write_output(ask: Ask, body: JsonObject) -> None:
    text: JsonObject = {}
    if ask.format is not None and ask.format.schema is None:
        text["format"] = {"type": "json_object"}
    elif ask.format is not None:
        text["format"] = {"type": "json_schema", **format_members(ask.format)}
    if ask.verbosity is not None:
        text["verbosity"] = ask.verbosity
    if text:
        body["text"] = text
    if ask.thinking is None:
        return
    reasoning: JsonObject = {}
    effort = effort_of(ask.thinking, ask)
    if effort is not None:
        reasoning["effort"] = effort
    elif ask.thinking.enabled is False:
        ask.drop_named("thinking")
    if ask.thinking.shown:
        reasoning["summary"] = "auto"
    if reasoning:
        body["reasoning"] = reasoning
        # Models that do not reason refuse to be asked for it.
        body.setdefault("include", []).append("reasoning.encrypted_content")


def _write_tools(ask: Ask, body: JsonObject) -> None:
    tools: list[JsonObject] = []
    for tool in ask.tools:
        fields: JsonObject = {"type": "function", "name": tool.name}
        if tool.description is not None:
            fields["description"] = tool.description
        fields["parameters"] = tool.schema or {"type": "object", "properties": {}}
        # Without a word on it this dialect is strict, and refuses schemas that others take.
        fields["strict"] = tool.strict or False
        tools.append(fields)
    if not tools:
        return
    body["tools"] = tools
    choice = ask.choice
    if choice is None:
        return
    if not choice.names:
        body["tool_choice"] = choice_word(choice)
    elif len(choice.names) == 1 and choice_word(choice) == "required":
        body["tool_choice"] = {"type": "function", "name": choice.names[0]}
    else:
        allowed = [{"type": "function", "name": name} for name in choice.names]
        body["tool_choice"] = {
            "type": "allowed_tools",
            "mode": choice_word(choice),
            "tools": allowed,
        }


def _items(turn: Turn) -> list[JsonObject]:
    if turn.role is Role.MODEL:
        return _said(turn)
    if turn.role is Role.SYSTEM:
        role = "developer" if turn.developer else "system"
        return [{"type": "message", "role": role, "content": _content(turn.parts)}]
    items = [_result(part) for part in turn.parts if isinstance(part, Result)]
    content = _content(turn.parts)
    if content:
        items.append({"type": "message", "role": "user", "content": content})
    return items


def _content(parts: list[Part]) -> list[JsonObject]:
    return [_shown(part) for part in parts if isinstance(part, Text | Media)]


def _said(turn: Turn) -> list[JsonObject]:
    items: list[JsonObject] = []
    for part in turn.parts:
        if isinstance(part, Call):
            items.extend(part.kept)
            call = {"call_id": legal_call_id(part.id), "name": part.name}
            items.append({"type": "function_call", **call, "arguments": part.arguments or "{}"})
        elif isinstance(part, Text | Declined) and part.text:
            kind = "output_text" if isinstance(part, Text) else "refusal"
            member = "text" if isinstance(part, Text) else "refusal"
            content = {"type": kind, member: part.text}
            items.append({"type": "message", "role": "assistant", "content": [content]})
    return items


def _result(part: Result) -> JsonObject:
    output: str | list[JsonObject]
    if all(isinstance(one, Text) for one in part.parts):
        output = "\n".join(one.text for one in part.parts)
    else:
        output = [_shown(one) for one in part.parts]
    call_id = legal_call_id(part.call_id)
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def _shown(part: Shown) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "input_text", "text": part.text}
    if part.kind is MediaKind.IMAGE:
        image: JsonObject = {"type": "input_image", "image_url": inline_url(part)}
        if part.detail:
            image["detail"] = part.detail
        return image
    if part.kind is not MediaKind.DOCUMENT:
        raise refusal(part.param, f"no {part.kind.value}")
    if part.text:
        text = f"{part.title}\n{part.text}" if part.title else part.text
        return {"type": "input_text", "text": text}
    if part.url:
        return {"type": "input_file", "file_url": part.url}
    return {
        "type": "input_file",
        "filename": part.title or "document.pdf",
        "file_data": inline_url(part),
    }
