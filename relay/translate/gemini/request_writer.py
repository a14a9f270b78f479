"""Writes a request for generated content from the middle form.

What it must see to: all answers to one turn's calls stand in one turn, in the order of the calls,
with name and id; a call of the current turn carries its thought signature.

Source: Gemini API reference, `GenerateContentRequest`, "Thought signatures".
"""

from typing import Final

from relay.translate.fields import arguments_object, decode_json
from relay.translate.idents import legal_call_id
from relay.translate.middle import (
    Ask,
    Call,
    ChoiceMode,
    Declined,
    JsonObject,
    Media,
    Part,
    Result,
    Role,
    Text,
    Turn,
    Upstream,
    join_turns,
    leading_system,
    open_call_turn,
    refusal,
)
from relay.translate.schemas import prune

STOPS_MAX: Final = 5
UNSIGNED: Final = "skip_thought_signature_validator"
"""What Google names for calls that another model made: its own client sends it too."""
_MODES: Final = {ChoiceMode.AUTO: "AUTO", ChoiceMode.ANY: "ANY", ChoiceMode.NONE: "NONE"}
_LEVELS: Final = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}
_BUDGETS: Final = {
    "none": 0,
    "minimal": 512,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 24576,
    "max": 24576,
}
_TYPES: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "gif": "image/gif",
    "pdf": "application/pdf",
    "wav": "audio/wav",
    "mp3": "audio/mp3",
}
_CONFIG_NAMES: Final = (
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("seed", "seed"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
)


def write_request(ask: Ask, upstream: Upstream) -> JsonObject:
    """Return the body of a request for content.

    Raises:
        Refused: CLIENT; the dialect has no way to say it.
    """
    leading, turns = leading_system(ask.turns)
    later = [turn for turn in turns if turn.role is Role.SYSTEM]
    if later:
        ask.drop("messages.system.position")
    system = [_text(part) for turn in [*leading, *later] for part in turn.parts]
    turns = join_turns([turn for turn in turns if turn.role is not Role.SYSTEM])
    older = _is_older(ask.model)
    body: JsonObject = {"contents": _contents(turns, unsigned="" if older else UNSIGNED)}
    if system:
        body["systemInstruction"] = {"parts": system}
    _write_tools(ask, body, upstream)
    config = _config(ask)
    _write_format(ask, config)
    _write_thinking(ask, config)
    if config:
        body["generationConfig"] = config
    for name, value in (("user", ask.user), ("tier", ask.tier), ("verbosity", ask.verbosity)):
        if value is not None:
            ask.drop_named(name)
    if ask.marked:
        ask.drop_named("cache")
    if ask.parallel is False:
        ask.drop_named("parallel")
    ask.drop_details()
    return body


def _text(part: Part) -> JsonObject:
    if not isinstance(part, Text):
        raise refusal("messages", "a system turn holds text alone")
    return {"text": part.text}


def _is_older(model: str) -> bool:
    """Tell whether a model counts its thinking in tokens, and asks for no signature."""
    return "gemini-2" in model or "gemini-1" in model


def _contents(turns: list[Turn], unsigned: str) -> list[JsonObject]:
    contents: list[JsonObject] = []
    calls: list[Call] = []
    current = open_call_turn(turns)
    for turn in turns:
        if turn.role is Role.MODEL:
            calls = [part for part in turn.parts if isinstance(part, Call)]
            parts = _said(turn, unsigned if turn is current else "")
            role = "model"
        else:
            parts = _user(turn.parts, calls)
            role = "user"
        if parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _said(turn: Turn, unsigned: str) -> list[JsonObject]:
    parts: list[JsonObject] = []
    first = True
    for part in turn.parts:
        if isinstance(part, Text | Declined):
            if part.text:
                parts.append({"text": part.text})
        elif isinstance(part, Call):
            call = {"id": legal_call_id(part.id), "name": part.name}
            said: JsonObject = {"functionCall": {**call, "args": arguments_object(part.arguments)}}
            for kept in part.kept:
                said.update(kept)
            if unsigned and first and "thoughtSignature" not in said:
                said["thoughtSignature"] = unsigned
            first = False
            parts.append(said)
    return parts


def _user(parts: list[Part], calls: list[Call]) -> list[JsonObject]:
    order = {call.id: index for index, call in enumerate(calls)}
    names = {call.id: call.name for call in calls}
    results = [part for part in parts if isinstance(part, Result)]
    results.sort(key=lambda result: order.get(result.call_id, len(order)))
    written: list[JsonObject] = []
    media: list[JsonObject] = []
    for result in results:
        name = result.name or names.get(result.call_id)
        if name is None:
            raise refusal(result.param, "it answers no call of the turn before")
        written.append(_result(result, name))
        media += [_media(part) for part in result.parts if isinstance(part, Media)]
    for part in parts:
        if isinstance(part, Text) and part.text:
            media.append({"text": part.text})
        elif isinstance(part, Media):
            media.append(_media(part))
    return written + media


def _result(result: Result, name: str) -> JsonObject:
    text = "\n".join(part.text for part in result.parts if isinstance(part, Text))
    found = decode_json(text)
    answer: JsonObject
    if result.is_error:
        answer = {"error": text}
    else:
        answer = found if isinstance(found, dict) else {"output": text}
    response = {"id": legal_call_id(result.call_id), "name": name, "response": answer}
    return {"functionResponse": response}


def _media(part: Media) -> JsonObject:
    if part.text:
        return {"text": f"{part.title}\n{part.text}" if part.title else part.text}
    if part.data:
        return {"inlineData": {"mimeType": part.mime, "data": part.data}}
    mime = part.mime or _TYPES.get(part.url.partition("?")[0].rpartition(".")[2].lower(), "")
    if not mime:
        raise refusal(part.param, "its address does not tell its type; send its bytes")
    return {"fileData": {"mimeType": mime, "fileUri": part.url}}


def _write_tools(ask: Ask, body: JsonObject, upstream: Upstream) -> None:
    declared: list[JsonObject] = []
    for tool in ask.tools:
        fields: JsonObject = {"name": tool.name}
        if tool.description is not None:
            fields["description"] = tool.description
        if tool.schema is not None and upstream.json_schema_tools:
            fields["parametersJsonSchema"] = tool.schema
        elif tool.schema is not None and tool.schema.get("properties"):
            fields["parameters"] = prune(tool.schema)
        if tool.strict:
            ask.drop("tools.strict")
        declared.append(fields)
    if not declared:
        return
    body["tools"] = [{"functionDeclarations": declared}]
    choice = ask.choice
    if choice is None:
        return
    calling: JsonObject = {"mode": _MODES[choice.mode]}
    if choice.names:
        # Names go with ANY alone; with AUTO all others stay callable.
        if choice.mode is ChoiceMode.ANY:
            calling["allowedFunctionNames"] = choice.names
        else:
            ask.drop_named("choice")
    body["toolConfig"] = {"functionCallingConfig": calling}


def _config(ask: Ask) -> JsonObject:
    config: JsonObject = {}
    for name, field in _CONFIG_NAMES:
        value = getattr(ask.sampling, name)
        if value is not None:
            config[field] = value
    if ask.max_tokens is not None:
        config["maxOutputTokens"] = ask.max_tokens
    if ask.stop:
        config["stopSequences"] = ask.stop[:STOPS_MAX]
        ask.cut_at(ask.stop[STOPS_MAX:])
    if ask.logprobs is not None:
        config["responseLogprobs"] = True
        if ask.logprobs:
            config["logprobs"] = ask.logprobs
    return config


def _write_format(ask: Ask, config: JsonObject) -> None:
    if ask.format is None:
        return
    config["responseMimeType"] = "application/json"
    if ask.format.schema is not None:
        config["responseJsonSchema"] = ask.format.schema


def _write_thinking(ask: Ask, config: JsonObject) -> None:
    wanted = ask.thinking
    if wanted is None:
        return
    fields: JsonObject = {}
    older = _is_older(ask.model)
    if wanted.budget is not None:
        fields["thinkingBudget"] = wanted.budget
    elif wanted.effort in _BUDGETS and older:
        fields["thinkingBudget"] = _BUDGETS[wanted.effort]
    elif wanted.effort in _LEVELS:
        fields["thinkingLevel"] = _LEVELS[wanted.effort]
    elif wanted.enabled is False:
        # Newer models cannot be told not to think at all.
        fields["thinkingBudget" if older else "thinkingLevel"] = 0 if older else "MINIMAL"
    elif older:
        fields["thinkingBudget"] = -1
    fields["includeThoughts"] = wanted.shown
    config["thinkingConfig"] = fields
