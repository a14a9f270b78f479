"""Reads a request for generated content into the middle form.

Protobuf's JSON takes each name in camelCase and in snake_case; both are read.

Source: Gemini API reference, `GenerateContentRequest`; its Python client's types.
"""

from collections import deque
from typing import Final

from relay.translate.fields import (
    encode_text,
    flag_at,
    integer_at,
    list_at,
    needed_text,
    number_at,
    object_at,
    objects_at,
    text_at,
    texts_at,
    wrong,
)
from relay.translate.idents import call_of_handle, made_call_id
from relay.translate.middle import (
    Ask,
    Call,
    ChoiceMode,
    JsonObject,
    Media,
    MediaKind,
    OutputFormat,
    Part,
    Result,
    Role,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
    refusal,
)
from relay.translate.schemas import from_openapi

NAMES: Final = {
    "stop": "generationConfig.stopSequences",
    "top_k": "generationConfig.topK",
    "top_p": "generationConfig.topP",
    "temperature": "generationConfig.temperature",
    "seed": "generationConfig.seed",
    "presence_penalty": "generationConfig.presencePenalty",
    "frequency_penalty": "generationConfig.frequencyPenalty",
    "max_tokens": "generationConfig.maxOutputTokens",
    "thinking": "generationConfig.thinkingConfig",
    "choice": "toolConfig.functionCallingConfig",
    "logprobs": "generationConfig.responseLogprobs",
    "tier": "serviceTier",
    "format": "generationConfig.responseMimeType",
    "is_error": "functionResponse.response.error",
}
_TOOL: Final = frozenset({"name", "description", "parameters", "parametersJsonSchema"})
_READ: Final = frozenset(
    {
        *("contents", "systemInstruction", "generationConfig", "tools", "toolConfig", "model"),
        *("safetySettings", "cachedContent", "serviceTier", "labels"),
    }
)
_CONFIG: Final = frozenset(
    {
        *("temperature", "topP", "topK", "seed", "presencePenalty", "frequencyPenalty"),
        *("stopSequences", "maxOutputTokens", "responseMimeType", "responseSchema", "logprobs"),
        *("responseJsonSchema", "candidateCount", "responseLogprobs", "thinkingConfig"),
        *("responseModalities", "speechConfig", "imageConfig"),
    }
)
_MODES: Final = {
    "AUTO": ChoiceMode.AUTO,
    "VALIDATED": ChoiceMode.AUTO,
    "ANY": ChoiceMode.ANY,
    "NONE": ChoiceMode.NONE,
}
_EFFORTS: Final = {"MINIMAL": "minimal", "LOW": "low", "MEDIUM": "medium", "HIGH": "high"}
_KINDS: Final = {
    "image": MediaKind.IMAGE,
    "audio": MediaKind.AUDIO,
    "video": MediaKind.VIDEO,
}


def _camel(fields: JsonObject) -> JsonObject:
    if not any("_" in key for key in fields):
        return fields
    return {_camel_name(key): value for key, value in fields.items()}


def _camel_name(key: str) -> str:
    head, *rest = key.split("_")
    return head + "".join(word.capitalize() for word in rest)


def read_request(body: JsonObject, ask: Ask) -> None:
    """Fill `ask` with what a body for `:generateContent` says.

    Raises:
        Refused: CLIENT; a field that no other dialect can carry, or of the wrong type.
    """
    ask.names = dict(NAMES)
    body = _camel(body)
    if body.get("cachedContent"):
        raise refusal("cachedContent", "a stored cache belongs to one provider")
    for name in ("safetySettings", "labels"):
        if body.get(name):
            ask.drop(name)
    ask.tier = text_at(body, "serviceTier")
    system = object_at(body, "systemInstruction")
    if system is not None:
        parts = _parts(_camel(system), "systemInstruction", ask, "")
        if parts:
            ask.turns.append(Turn(Role.SYSTEM, parts))
    for index, content in enumerate(objects_at(body, "contents")):
        _read_content(_camel(content), index, ask)
    _name_results(ask)
    _read_tools(body, ask)
    _read_config(_camel(object_at(body, "generationConfig") or {}), ask)
    ask.drop_unknown(body, _READ, "")


def _read_content(content: JsonObject, index: int, ask: Ask) -> None:
    path = f"contents[{index}]"
    role = text_at(content, "role", path) or "user"
    if role not in {"user", "model", "function"}:
        raise wrong(f"{path}.role", "user or model")
    parts = _parts(content, path, ask, str(index))
    ask.turns.append(Turn(Role.MODEL if role == "model" else Role.USER, parts))


def _parts(content: JsonObject, path: str, ask: Ask, seed: str) -> list[Part]:
    parts: list[Part] = []
    for index, fields in enumerate(objects_at(content, "parts", path)):
        part = _read_part(_camel(fields), f"{path}.parts[{index}]", ask, f"{seed}.{index}")
        if part is not None:
            parts.append(part)
    return parts


def _read_part(part: JsonObject, path: str, ask: Ask, seed: str) -> Part | None:
    if part.get("thought") is True:
        ask.echoed = "contents.thought"
        return None
    if "text" in part:
        text = needed_text(part, "text", path)
        return Text(text) if text else None
    for name, read in (("inlineData", _inline), ("fileData", _stored)):
        found = object_at(part, name, path)
        if found is not None:
            return read(_camel(found), f"{path}.{name}")
    call = object_at(part, "functionCall", path)
    if call is not None:
        return _read_call(_camel(call), part, path, seed)
    response = object_at(part, "functionResponse", path)
    if response is not None:
        return _read_result(_camel(response), path)
    if part.keys() <= {"thoughtSignature"}:
        return None
    raise refusal(path, "no part of this kind")


def _read_call(call: JsonObject, part: JsonObject, path: str, seed: str) -> Call:
    name = needed_text(call, "name", f"{path}.functionCall")
    arguments = encode_text(object_at(call, "args", f"{path}.functionCall") or {})
    signature = text_at(part, "thoughtSignature", path)
    known = call_of_handle(signature) if signature else None
    call_id = text_at(call, "id", f"{path}.functionCall")
    return Call(known or call_id or made_call_id(seed, name, arguments), name, arguments)


def _read_result(response: JsonObject, path: str) -> Result:
    where = f"{path}.functionResponse"
    name = needed_text(response, "name", where)
    answer = object_at(response, "response", where) or {}
    parts: list[Text | Media] = [Text(_result_text(answer))]
    for index, fields in enumerate(objects_at(response, "parts", where)):
        inner = object_at(_camel(fields), "inlineData", f"{where}.parts[{index}]")
        if inner is None:
            raise refusal(f"{where}.parts[{index}]", "inline media alone in a result")
        parts.append(_inline(_camel(inner), f"{where}.parts[{index}].inlineData"))
    call_id = text_at(response, "id", where) or ""
    return Result(call_id, parts, where, name, is_error=answer.keys() == {"error"})


def _result_text(answer: JsonObject) -> str:
    for name in ("output", "result", "error"):
        if answer.keys() == {name} and isinstance(answer[name], str):
            return str(answer[name])
    return encode_text(answer)


def _inline(fields: JsonObject, path: str) -> Media:
    mime = needed_text(fields, "mimeType", path)
    kind = _KINDS.get(mime.partition("/")[0], MediaKind.DOCUMENT)
    title = text_at(fields, "displayName", path) or ""
    return Media(kind, path, mime, needed_text(fields, "data", path), title=title)


def _stored(fields: JsonObject, path: str) -> Media:
    mime = text_at(fields, "mimeType", path) or ""
    url = needed_text(fields, "fileUri", path)
    if not url.startswith("https://") or "generativelanguage.googleapis.com" in url:
        raise refusal(f"{path}.fileUri", "a stored file belongs to one provider")
    return Media(_KINDS.get(mime.partition("/")[0], MediaKind.DOCUMENT), path, mime, url=url)


class _OpenCalls:
    """Calls that no result has answered yet, by id and by name in their order."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.names: dict[str, deque[str]] = {}

    def add(self, call: Call) -> None:
        """Wait for a call's result."""
        self.ids.add(call.id)
        self.names.setdefault(call.name, deque()).append(call.id)

    def answer(self, result: Result) -> str:
        """Return the id of the call that a result answers: the one it names, else the next."""
        if result.call_id in self.ids:
            self.ids.remove(result.call_id)
            return result.call_id
        waiting = self.names.get(result.name, deque())
        while waiting:
            call_id = waiting.popleft()
            if call_id in self.ids:
                self.ids.remove(call_id)
                return call_id
        raise wrong(result.param, "the answer to an earlier functionCall")


def _name_results(ask: Ask) -> None:
    """Give each result the id of its call."""
    calls = _OpenCalls()
    for turn in ask.turns:
        for part in turn.parts:
            if isinstance(part, Call):
                calls.add(part)
            elif isinstance(part, Result):
                part.call_id = calls.answer(part)


def _read_tools(body: JsonObject, ask: Ask) -> None:
    for index, raw in enumerate(objects_at(body, "tools")):
        fields = _camel(raw)
        path = f"tools[{index}]"
        for name in fields.keys() - {"functionDeclarations"}:
            raise refusal(f"{path}.{name}", "the provider's own tools run nowhere else")
        for count, declared in enumerate(objects_at(fields, "functionDeclarations", path)):
            where = f"{path}.functionDeclarations[{count}]"
            tool = _camel(declared)
            ask.drop_unknown(tool, _TOOL, "functionDeclarations")
            ask.tools.append(_read_tool(tool, where))
    config = _camel(object_at(body, "toolConfig") or {})
    calling = object_at(config, "functionCallingConfig", "toolConfig")
    if calling is None:
        return
    calling = _camel(calling)
    word = text_at(calling, "mode", NAMES["choice"]) or "AUTO"
    if word not in _MODES:
        raise wrong(f"{NAMES['choice']}.mode", "AUTO, ANY or NONE")
    if word == "VALIDATED":
        ask.drop(f"{NAMES['choice']}.mode=VALIDATED")
    names = texts_at(calling, "allowedFunctionNames", NAMES["choice"])
    ask.choice = ToolChoice(_MODES[word], names)


def _read_tool(fields: JsonObject, path: str) -> Tool:
    schema = object_at(fields, "parametersJsonSchema", path)
    declared = object_at(fields, "parameters", path)
    if schema is None and declared is not None:
        schema = from_openapi(declared)
    name = needed_text(fields, "name", path)
    return Tool(name, text_at(fields, "description", path), schema)


def _read_config(config: JsonObject, ask: Ask) -> None:
    path = "generationConfig"
    if (integer_at(config, "candidateCount", path) or 1) != 1:
        raise refusal(f"{path}.candidateCount", "one answer a call")
    if any(kind != "TEXT" for kind in list_at(config, "responseModalities", path)):
        raise refusal(f"{path}.responseModalities", "text alone")
    sampling = ask.sampling
    sampling.temperature = number_at(config, "temperature", path)
    sampling.top_p = number_at(config, "topP", path)
    top_k = number_at(config, "topK", path)
    sampling.top_k = None if top_k is None else int(top_k)
    sampling.seed = integer_at(config, "seed", path)
    sampling.presence_penalty = number_at(config, "presencePenalty", path)
    sampling.frequency_penalty = number_at(config, "frequencyPenalty", path)
    ask.stop = texts_at(config, "stopSequences", path)
    ask.max_tokens = integer_at(config, "maxOutputTokens", path)
    if flag_at(config, "responseLogprobs", path):
        ask.logprobs = integer_at(config, "logprobs", path) or 0
    _read_format(config, ask)
    thinking = object_at(config, "thinkingConfig", path)
    if thinking is not None:
        ask.thinking = _read_thinking(_camel(thinking))
    ask.drop_unknown(config, _CONFIG, path)


def _read_format(config: JsonObject, ask: Ask) -> None:
    path = "generationConfig"
    mime = text_at(config, "responseMimeType", path) or "text/plain"
    if mime == "text/plain":
        return
    if mime != "application/json":
        raise refusal(f"{path}.responseMimeType", "text/plain and application/json alone")
    schema = object_at(config, "responseJsonSchema", path)
    declared = object_at(config, "responseSchema", path)
    if schema is None and declared is not None:
        schema = from_openapi(declared)
    # Other providers' strict mode asks more of a schema than this dialect does.
    ask.format = OutputFormat(NAMES["format"], schema, strict=False)


def _read_thinking(fields: JsonObject) -> Thinking:
    path = NAMES["thinking"]
    budget = integer_at(fields, "thinkingBudget", path)
    level = (text_at(fields, "thinkingLevel", path) or "").upper()
    enabled = None if budget is None or budget < 0 else budget > 0
    return Thinking(
        path,
        enabled,
        _EFFORTS.get(level),
        budget,
        flag_at(fields, "includeThoughts", path) or False,
    )
