"""Writes a request for an Anthropic message from the middle form.

What it must see to: `max_tokens` is needed; a budget of thinking is less than it; thinking and a
forced choice, a temperature or `top_k` exclude each other; the turn whose calls were just answered
begins with its own thinking, or thinking is off; empty text blocks are refused.

Source: Anthropic API reference, "Create a Message", "Extended thinking", "Prompt caching".
"""

from typing import Final

from relay.translate.fields import arguments_object
from relay.translate.idents import legal_call_id
from relay.translate.middle import (
    Ask,
    Call,
    ChoiceMode,
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
    join_turns,
    leading_system,
    open_call_turn,
    refusal,
)

BREAKPOINTS_MAX: Final = 4
BUDGET_MIN: Final = 1024
_BUDGETS: Final = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
    "max": 32768,
}
_EFFORTS: Final = {"minimal": "low", "xhigh": "max"}
_IMAGES: Final = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def write_request(ask: Ask, upstream: Upstream) -> JsonObject:
    """Return the body of a request for a message.

    Raises:
        Refused: CLIENT; the dialect has no way to say it.
    """
    body: JsonObject = {
        "model": ask.model,
        "max_tokens": upstream.output_tokens_max if ask.max_tokens is None else ask.max_tokens,
    }
    system, turns = _split_system(ask)
    if system:
        body["system"] = system
    body["messages"] = _messages(turns)
    if ask.stream:
        body["stream"] = True
    _write_tools(ask, body)
    thinks = _write_thinking(ask, body, turns, upstream)
    _write_sampling(ask, body, thinks=thinks)
    _write_stop(ask, body)
    _write_format(ask, body)
    if ask.user is not None:
        body["metadata"] = {"user_id": ask.user}
    if ask.tier not in {None, "auto", "default"}:
        ask.drop_named("tier")
    if ask.verbosity is not None:
        ask.drop_named("verbosity")
    if ask.logprobs is not None:
        raise ask.refuse("logprobs")
    ask.drop_details()
    if not ask.marked and upstream.breakpoints:
        _set_breakpoints(body)
    return body


def _mark(ttl: str | None) -> JsonObject:
    mark: JsonObject = {"type": "ephemeral"}
    if ttl is not None and ttl != "5m":
        mark["ttl"] = ttl
    return mark


def _split_system(ask: Ask) -> tuple[list[JsonObject], list[Turn]]:
    """Return the system's blocks, and the turns without it; a later one is moved to the top."""
    leading, rest = leading_system(ask.turns)
    later = [turn for turn in rest if turn.role is Role.SYSTEM]
    if later:
        ask.drop("messages.system.position")
    blocks: list[JsonObject] = []
    for turn in [*leading, *later]:
        for part in turn.parts:
            if not isinstance(part, Text):
                raise refusal("messages", "a system turn holds text alone")
            if part.text.strip():
                blocks.append(_marked({"type": "text", "text": part.text}, part.cache))
    return blocks, join_turns([turn for turn in rest if turn.role is not Role.SYSTEM])


def _marked(block: JsonObject, cache: str | None) -> JsonObject:
    if cache is not None:
        block["cache_control"] = _mark(cache)
    return block


def _messages(turns: list[Turn]) -> list[JsonObject]:
    messages: list[JsonObject] = []
    for turn in turns:
        role = "assistant" if turn.role is Role.MODEL else "user"
        blocks = _said(turn) if turn.role is Role.MODEL else _user(turn.parts)
        if not blocks:
            continue
        # Dropping an empty turn can bring two of one side together.
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].extend(blocks)
        else:
            messages.append({"role": role, "content": blocks})
    if messages and messages[-1]["role"] == "assistant":
        last = messages[-1]["content"][-1]
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
    return messages


def _said(turn: Turn) -> list[JsonObject]:
    thoughts: list[JsonObject] = []
    blocks: list[JsonObject] = []
    first = True
    for part in turn.parts:
        if isinstance(part, Text | Declined):
            if part.text.strip():
                cache = part.cache if isinstance(part, Text) else None
                blocks.append(_marked({"type": "text", "text": part.text}, cache))
        elif isinstance(part, Call):
            # Its first thinking comes before all else in the turn: anywhere else it is refused.
            (thoughts if first else blocks).extend(part.kept)
            first = False
            blocks.append(_marked(_call(part), part.cache))
    return thoughts + blocks


def _call(part: Call) -> JsonObject:
    return {
        "type": "tool_use",
        "id": legal_call_id(part.id),
        "name": part.name,
        "input": arguments_object(part.arguments),
    }


def _user(parts: list[Part]) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for part in parts:
        if isinstance(part, Result):
            block: JsonObject = {
                "type": "tool_result",
                "tool_use_id": legal_call_id(part.call_id),
            }
            content = [shown for one in part.parts for shown in _shown(one)]
            if content:
                block["content"] = content
            if part.is_error:
                block["is_error"] = True
            blocks.append(_marked(block, part.cache))
        elif isinstance(part, Text | Media):
            blocks.extend(_shown(part))
    return blocks


def _shown(part: Shown) -> list[JsonObject]:
    if isinstance(part, Text):
        block: JsonObject = {"type": "text", "text": part.text}
        return [_marked(block, part.cache)] if part.text.strip() else []
    if part.kind is MediaKind.IMAGE:
        if part.data and part.mime not in _IMAGES:
            raise refusal(part.param, "no image of this type")
        return [_marked({"type": "image", "source": _source(part)}, part.cache)]
    if part.kind is not MediaKind.DOCUMENT:
        raise refusal(part.param, f"no {part.kind.value}")
    block = {"type": "document", "source": _source(part)}
    if part.title:
        block["title"] = part.title
    return [_marked(block, part.cache)]


def _source(part: Media) -> JsonObject:
    if part.url:
        return {"type": "url", "url": part.url}
    if part.text:
        return {"type": "text", "media_type": "text/plain", "data": part.text}
    if part.kind is MediaKind.DOCUMENT and part.mime != "application/pdf":
        raise refusal(part.param, "no document of this type")
    return {"type": "base64", "media_type": part.mime, "data": part.data}


def _write_tools(ask: Ask, body: JsonObject) -> None:
    choice = ask.choice
    allowed = choice.names if choice is not None else []
    tools: list[JsonObject] = []
    for tool in ask.tools:
        if len(allowed) > 1 and tool.name not in allowed:
            continue
        fields: JsonObject = {"name": tool.name}
        if tool.description is not None:
            fields["description"] = tool.description
        fields["input_schema"] = tool.schema or {"type": "object", "properties": {}}
        if tool.strict:
            fields["strict"] = True
        tools.append(_marked(fields, tool.cache))
    if not tools:
        return
    body["tools"] = tools
    wanted: JsonObject = {"type": "auto"}
    if choice is not None and choice.mode is ChoiceMode.NONE:
        wanted = {"type": "none"}
    elif choice is not None and choice.mode is ChoiceMode.ANY:
        named = len(choice.names) == 1
        wanted = {"type": "tool", "name": choice.names[0]} if named else {"type": "any"}
    if ask.parallel is False and wanted["type"] != "none":
        wanted["disable_parallel_tool_use"] = True
    if choice is not None or ask.parallel is False:
        body["tool_choice"] = wanted


def _write_thinking(ask: Ask, body: JsonObject, turns: list[Turn], upstream: Upstream) -> bool:
    """Write how much to think, and tell whether the model will."""
    wanted = ask.thinking
    if wanted is None:
        return False
    if wanted.enabled is False:
        body["thinking"] = {"type": "disabled"}
        return False
    forced = body.get("tool_choice", {}).get("type") in {"any", "tool"}
    looped = open_call_turn(turns)
    if forced or (looped is not None and not _begins_with_thinking(looped)):
        # A forced choice, or a call that was made without this provider's thinking.
        ask.drop_named("thinking")
        return False
    if upstream.adaptive_thinking:
        body["thinking"] = {"type": "adaptive"}
        if wanted.effort is not None:
            effort = _EFFORTS.get(wanted.effort, wanted.effort)
            body.setdefault("output_config", {})["effort"] = effort
        return True
    budget = wanted.budget
    if budget is None or budget < 0:
        budget = _BUDGETS.get(wanted.effort or "medium", BUDGET_MIN)
    budget = min(max(budget, BUDGET_MIN), body["max_tokens"] - 1)
    if budget < BUDGET_MIN:
        ask.drop_named("thinking")
        return False
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return True


def _begins_with_thinking(turn: Turn) -> bool:
    first = next((part for part in turn.parts if isinstance(part, Call)), None)
    return first is None or bool(first.kept)


def _write_sampling(ask: Ask, body: JsonObject, *, thinks: bool) -> None:
    sampling = ask.sampling
    for name in ("seed", "presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) is not None:
            ask.drop_named(name)
    if thinks:
        _drop_sampling(ask)
        return
    temperature = sampling.temperature
    if temperature is not None:
        body["temperature"] = min(temperature, 1.0) if temperature > 1 else temperature
        if temperature > 1:
            ask.drop("temperature>1")
    if sampling.top_p is not None:
        # Newer models refuse both; the temperature is the one that is set on purpose.
        if temperature is None:
            body["top_p"] = sampling.top_p
        elif sampling.top_p != 1:
            ask.drop_named("top_p")
    if sampling.top_k is not None:
        body["top_k"] = sampling.top_k


def _drop_sampling(ask: Ask) -> None:
    for name in ("temperature", "top_p", "top_k"):
        value = getattr(ask.sampling, name)
        if value is not None and not (name == "temperature" and value == 1):
            ask.drop_named(name)


def _write_stop(ask: Ask, body: JsonObject) -> None:
    kept = [stop for stop in ask.stop if stop.strip()]
    if kept:
        body["stop_sequences"] = kept
    ask.cut_at([stop for stop in ask.stop if not stop.strip()])


def _write_format(ask: Ask, body: JsonObject) -> None:
    if ask.format is None:
        return
    if ask.format.schema is None:
        raise refusal(ask.format.param, "JSON of no schema; give one")
    wanted = {"type": "json_schema", "schema": ask.format.schema}
    body.setdefault("output_config", {})["format"] = wanted


def _set_breakpoints(body: JsonObject) -> None:
    """Let a cache end where dialects that cache by themselves would have one end.

    After the tools, after the system, after the last two turns of the user: so the longest prefix
    that the next turn shares with this one is found. Prefixes too short to be cached cost nothing.
    """
    blocks: list[JsonObject] = [body[name][-1] for name in ("tools", "system") if body.get(name)]
    users = [message["content"] for message in body["messages"] if message["role"] == "user"]
    blocks.extend(content[-1] for content in users[-2:])
    for block in blocks[:BREAKPOINTS_MAX]:
        block["cache_control"] = _mark(None)
