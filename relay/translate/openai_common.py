"""What OpenAI's two dialects, chat and Responses, write in the same way."""

from typing import Final

from relay.translate.fields import (
    flag_at,
    number_at,
    object_at,
    split_inline_url,
    text_at,
    wrong,
)
from relay.translate.idents import digest
from relay.translate.middle import (
    Ask,
    JsonObject,
    Media,
    MediaKind,
    OutputFormat,
    Sampling,
    Thinking,
    ToolChoice,
    TranslateDialect,
    refusal,
)
from relay.translate.middle import ChoiceMode as Mode

NAME_CHARS_MAX: Final = 64
EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
_MODES: Final = {"auto": Mode.AUTO, "required": Mode.ANY, "any": Mode.ANY, "none": Mode.NONE}
_WORDS: Final = {Mode.AUTO: "auto", Mode.ANY: "required", Mode.NONE: "none"}
_CACHE_PARTS: Final = ("prompt_cache_retention", "prompt_cache_options")

_OPENAI: Final = frozenset({TranslateDialect.OPENAI_CHAT, TranslateDialect.RESPONSES})
_BUDGETS: Final = ((1024, "minimal"), (4096, "low"), (16384, "medium"))
"""Up to so many tokens a budget is this effort; above all of them it is "high"."""


def cache_at(fields: JsonObject, path: str) -> str | None:
    """Return the time to live that a part's `cache_control` asks for, None without one."""
    mark = object_at(fields, "cache_control", path)
    return None if mark is None else text_at(mark, "ttl", f"{path}.cache_control") or "5m"


def read_shared(body: JsonObject, ask: Ask) -> None:
    """Read what both dialects have at the top under one name."""
    sampling = ask.sampling
    sampling.temperature = number_at(body, "temperature")
    sampling.top_p = number_at(body, "top_p")
    ask.parallel = flag_at(body, "parallel_tool_calls")
    ask.cache_key = text_at(body, "prompt_cache_key")
    ask.user = text_at(body, "safety_identifier") or text_at(body, "user")
    ask.tier = text_at(body, "service_tier")
    for name in _CACHE_PARTS:
        if body.get(name) is not None:
            ask.drop(name)
    if body.get("metadata"):
        ask.drop("metadata")
    if body.get("store"):
        ask.drop("store")


def read_image(found: object, detail: str | None, param: str, cache: str | None) -> Media:
    """Return the image of an address, which may be a data URL."""
    if not isinstance(found, str):
        raise wrong(param, "a URL")
    media = Media(MediaKind.IMAGE, param, detail=detail or "", cache=cache)
    if found.startswith("data:"):
        media.mime, media.data = split_inline_url(found, param)
    else:
        media.url = found
    return media


def read_file(fields: JsonObject, path: str, cache: str | None) -> Media:
    """Return the document of a `file` or `input_file` part."""
    if fields.get("file_id") is not None:
        raise refusal(f"{path}.file_id", "a stored file belongs to one provider")
    media = Media(MediaKind.DOCUMENT, path, cache=cache)
    media.title = text_at(fields, "filename", path) or ""
    media.url = text_at(fields, "file_url", path) or ""
    sent = text_at(fields, "file_data", path)
    if sent is not None:
        if sent.startswith("data:"):
            media.mime, media.data = split_inline_url(sent, f"{path}.file_data")
        else:
            media.mime, media.data = "application/pdf", sent
    if not media.data and not media.url:
        raise wrong(path, "a file with file_data")
    return media


def inline_url(media: Media) -> str:
    """Return a medium as an address: its own one, or one that holds it."""
    return media.url or f"data:{media.mime};base64,{media.data}"


def read_choice(found: object, param: str) -> ToolChoice | None:
    """Return what a `tool_choice` of either dialect means."""
    if found is None:
        return None
    if isinstance(found, str):
        mode = _MODES.get(found)
        if mode is None:
            raise wrong(param, "none, auto or required")
        return ToolChoice(mode)
    if not isinstance(found, dict):
        raise wrong(param, "a string or an object")
    match found.get("type"):
        case "function" | "custom":
            named = found.get("function") or found.get("custom") or found
            name = named.get("name") if isinstance(named, dict) else None
            if not isinstance(name, str):
                raise wrong(f"{param}.name", "a string")
            return ToolChoice(Mode.ANY, [name])
        case "allowed_tools":
            return _read_allowed(found, param)
        case _:
            raise refusal(param, "no tool of this type")


def _read_allowed(found: JsonObject, param: str) -> ToolChoice:
    inner = found.get("allowed_tools")
    allowed = inner if isinstance(inner, dict) else found
    tools = allowed.get("tools")
    names: list[str] = []
    for tool in tools if isinstance(tools, list) else []:
        named = tool.get("function") or tool if isinstance(tool, dict) else None
        name = named.get("name") if isinstance(named, dict) else None
        if not isinstance(name, str):
            raise refusal(f"{param}.tools", "only functions")
        names.append(name)
    return ToolChoice(_MODES.get(str(allowed.get("mode")), Mode.AUTO), names)


def choice_word(choice: ToolChoice) -> str:
    """Return the word for a choice among all tools."""
    return _WORDS[choice.mode]


def read_format(found: JsonObject | None, param: str) -> OutputFormat | None:
    """Return the output format of chat's `response_format` or of Responses' `text.format`."""
    if found is None:
        return None
    match found.get("type"):
        case "text" | None:
            return None
        case "json_object":
            return OutputFormat(param)
        case "json_schema":
            inner = object_at(found, "json_schema", param) or found
            schema = object_at(inner, "schema", param)
            return OutputFormat(
                param,
                schema or {"type": "object"},
                text_at(inner, "name", param) or "answer",
                text_at(inner, "description", param),
                flag_at(inner, "strict", param),
            )
        case _:
            raise refusal(f"{param}.type", "no such output format")


def format_members(wanted: OutputFormat) -> JsonObject:
    """Return the members of a JSON schema format, which stand one level deeper in chat."""
    members: JsonObject = {"name": wanted.name, "schema": wanted.schema}
    if wanted.description is not None:
        members["description"] = wanted.description
    if wanted.strict is not None:
        members["strict"] = wanted.strict
    return members


def read_effort(effort: str | None, param: str) -> Thinking | None:
    """Return what a reasoning effort asks for."""
    if effort is None:
        return None
    if effort not in EFFORTS:
        raise wrong(param, "a reasoning effort")
    enabled = effort != "none"
    return Thinking(param, enabled=enabled, effort=effort, shown=enabled)


def effort_of(thinking: Thinking, ask: Ask) -> str | None:
    """Return the effort for the model; None: as much as it likes, or (off) as little as it can."""
    if thinking.effort == "max" and ask.source not in _OPENAI:
        return "xhigh"
    if thinking.effort is not None:
        return thinking.effort
    if thinking.budget is None or thinking.budget < 0 or thinking.enabled is False:
        return None
    return next((name for most, name in _BUDGETS if thinking.budget <= most), "high")


def write_sampling(sampling: Sampling, ask: Ask, body: JsonObject, known: frozenset[str]) -> None:
    """Write what the dialect knows under its own name, drop the rest."""
    for name in (
        *("temperature", "top_p", "top_k", "seed"),
        *("presence_penalty", "frequency_penalty"),
    ):
        value = getattr(sampling, name)
        if value is None:
            continue
        if name in known:
            body[name] = value
        else:
            ask.drop_named(name)


def _short(text: str) -> str:
    """Return what may stand for a user or a session: OpenAI refuses more than 64 characters."""
    return text if len(text) <= NAME_CHARS_MAX else digest(text)


def write_shared(ask: Ask, body: JsonObject, cache_key: str | None) -> None:
    """Write what both dialects have at the top under one name."""
    if ask.parallel is not None and ask.tools:
        body["parallel_tool_calls"] = ask.parallel
    if cache_key:
        body["prompt_cache_key"] = _short(cache_key)
    if ask.user is not None:
        # Servers that follow OpenAI's chat know the older name alone.
        name = "user" if ask.target is TranslateDialect.OPENAI_CHAT else "safety_identifier"
        body[name] = _short(ask.user)
    if ask.source in _OPENAI and ask.tier is not None:
        body["service_tier"] = ask.tier
    elif ask.tier not in {None, "auto"}:
        ask.drop_named("tier")
