"""Bedrock's Converse, for whatever model it has: requests of Anthropic's API said in its words.

    system, messages, tools --> one block each; a mark for the cache becomes a block behind it
    what only Claude takes  --> goes on as Claude's own (additionalModelRequestFields)
    what cannot be said     --> refused by its name

Source: Amazon Bedrock API reference, Converse and ConverseStream; botocore, bedrock-runtime.
"""

import base64
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import BadRequest
from relay.model import Channel

Fields = dict[str, Any]

_CLAUDE: Final = "anthropic."
_SAID: Final = frozenset(
    {
        *("model", "messages", "system", "max_tokens", "temperature", "top_p", "stop_sequences"),
        *("tools", "tool_choice", "stream", "metadata", "output_config", "service_tier"),
    }
)
"""Members that Converse has words for, and those that say nothing of an answer."""
_INFERENCE: Final = (
    ("max_tokens", "maxTokens"),
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("stop_sequences", "stopSequences"),
)
_MEDIUM_TOKENS: Final = 4_096
_HIGH_TOKENS: Final = 16_384
_IMAGES: Final = {f"image/{name}": name for name in ("png", "jpeg", "gif", "webp")}
_DOCUMENTS: Final = {
    "application/pdf": "pdf",
    "text/plain": "txt",
    "text/markdown": "md",
    "text/html": "html",
    "text/csv": "csv",
}
_NO_NAME: Final = re.compile(r"[^A-Za-z0-9\-()\[\] ]+")
_USER: Final = re.compile(r"[a-zA-Z0-9\s:_@$#=/+,.\-]{1,256}")
_BETA: Final = re.compile(rb"(?mi)^anthropic-beta: ([^\r\n]*)\r\n")
_VERSION: Final = re.compile(rb"(?mi)^anthropic-version: [^\r\n]*\r\n")
_LENGTH: Final = re.compile(rb"(?mi)^content-length: \d+\r\n")

_decode = Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def host_converse(channel: Channel, head: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return a request of Anthropic's API as Converse takes it.

    Args:
        channel: Whose.
        head: A whole one of ours, from its first line to the empty one.
        body: JSON.

    Raises:
        BadRequest: CLIENT; Converse has no words for a part of it.
    """
    try:
        return _host(channel, head, _decode(body))
    except (Undecodable, RecursionError, AttributeError, TypeError, ValueError):
        raise BadRequest("A field of this request is not of the type it should be.") from None


def _host(channel: Channel, head: bytes, fields: Fields) -> tuple[bytes, bytes]:
    model = str(fields.get("model", ""))
    betas = [beta.strip().decode() for all_ in _BETA.findall(head) for beta in all_.split(b",")]
    said = converse_request(fields, model, betas)
    if b"/count_tokens" in head.partition(b" HTTP/")[0]:
        verb = "count-tokens"
        kept = ("messages", "system", "toolConfig", "additionalModelRequestFields")
        said = {"input": {"converse": {name: said[name] for name in kept if name in said}}}
    else:
        verb = "converse-stream" if fields.get("stream") is True else "converse"
    told = _encode(said)
    path = f"{urlsplit(channel.api_root).path}/model/{quote(model, safe='@-._~')}/{verb}"
    rest = _VERSION.sub(b"", _BETA.sub(b"", head))
    rest = _LENGTH.sub(b"Content-Length: %d\r\n" % len(told), rest).partition(b"\r\n")[2]
    return b"POST %b HTTP/1.1\r\n%b" % (path.encode(), rest), told


def converse_request(fields: Fields, model: str, betas: list[str]) -> Fields:
    """Return the body of a Converse request.

    Args:
        fields: Of a request to Anthropic's API.
        model: The upstream's name of the model: some fields are taken by Claude alone.
        betas: What the client asks to try out.

    Raises:
        BadRequest: CLIENT; there are no words for a part of it.
    """
    said: Fields = {"messages": _messages(fields.get("messages"))}
    system = _system(fields.get("system"))
    if system:
        said["system"] = system
    inference = {ours: fields[name] for name, ours in _INFERENCE if fields.get(name) is not None}
    if inference:
        said["inferenceConfig"] = inference
    tools = _tools(fields)
    if tools is not None:
        said["toolConfig"] = tools
    output = _output_config(fields.get("output_config"))
    if _CLAUDE not in model and "effort" not in output:
        output |= _effort_of(fields.get("thinking"))
    if output:
        said["outputConfig"] = output
    user = (fields.get("metadata") or {}).get("user_id")
    if isinstance(user, str) and _USER.fullmatch(user):
        said["requestMetadata"] = {"user_id": user}
    own = {name: value for name, value in fields.items() if name not in _SAID}
    own = _own_fields(own, model)
    if betas and _CLAUDE in model:
        own["anthropic_beta"] = betas
    if own:
        said["additionalModelRequestFields"] = own
    return said


def _own_fields(own: Fields, model: str) -> Fields:
    """Return what goes to the model past Converse: Claude takes what is Anthropic's."""
    if _CLAUDE in model:
        return own
    for name in own:
        if name != "thinking":
            raise _unsaid(name)
    return {}


def _effort_of(thinking: Any) -> Fields:
    """Return what is asked of a model that thinks, and knows no budget for it."""
    if not isinstance(thinking, dict) or thinking.get("type") != "enabled":
        return {}
    budget = thinking.get("budget_tokens")
    tokens = budget if isinstance(budget, int) else _HIGH_TOKENS
    if tokens >= _HIGH_TOKENS:
        return {"effort": "high"}
    return {"effort": "medium" if tokens >= _MEDIUM_TOKENS else "low"}


def _output_config(config: Any) -> Fields:
    if not isinstance(config, dict):
        return {}
    said: Fields = {}
    for name, value in config.items():
        if name == "effort":
            said["effort"] = value
        elif name == "format" and isinstance(value, dict) and value.get("type") == "json_schema":
            schema = _encode(value.get("schema")).decode()
            named = {"name": value["name"]} if value.get("name") else {}
            structure = {"jsonSchema": {"schema": schema, **named}}
            said["textFormat"] = {"type": "json_schema", "structure": structure}
        elif value is not None:
            raise _unsaid(f"output_config.{name}")
    return said


def _system(system: Any) -> list[Fields]:
    if isinstance(system, str):
        return [{"text": system}] if system else []
    return _blocks(system, "system", _TEXT_ONLY)


def _messages(messages: Any) -> list[Fields]:
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list with something in it.", param="messages")
    said: list[Fields] = []
    for at, message in enumerate(messages):
        where = f"messages[{at}]"
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise _unsaid(f"{where}.role")
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        blocks = _blocks(content, f"{where}.content", _CONTENT)
        if blocks:
            said.append({"role": message["role"], "content": blocks})
    return said


Writer = Callable[[Fields, str], Fields | None]


def _blocks(content: Any, where: str, writers: dict[str, Writer]) -> list[Fields]:
    """Return blocks in Converse's words; a mark for the cache stands behind its block."""
    said: list[Fields] = []
    for at, block in enumerate(content or ()):
        place = f"{where}[{at}]"
        kind = block.get("type") if isinstance(block, dict) else None
        writer = writers.get(kind) if isinstance(kind, str) else None
        if writer is None:
            raise _unsaid(f"{place}.type")
        told = writer(block, place)
        if told is not None:
            said.append(told)
            said += _cache_point(block)
    return said


def _cache_point(block: Fields) -> list[Fields]:
    mark = block.get("cache_control")
    if not isinstance(mark, dict):
        return []
    ttl = {"ttl": mark["ttl"]} if mark.get("ttl") else {}
    return [{"cachePoint": {"type": "default", **ttl}}]


def _text(block: Fields, where: str) -> Fields | None:
    text = block.get("text")
    return {"text": text} if text else None


def _image(block: Fields, where: str) -> Fields | None:
    source = block.get("source") or {}
    kind = _IMAGES.get(str(source.get("media_type")))
    if source.get("type") != "base64" or kind is None:
        raise _unsaid(f"{where}.source")
    return {"image": {"format": kind, "source": {"bytes": source.get("data")}}}


def _document(block: Fields, where: str) -> Fields | None:
    source = block.get("source") or {}
    kind = _DOCUMENTS.get(str(source.get("media_type")))
    if kind is None or source.get("type") not in ("base64", "text"):
        raise _unsaid(f"{where}.source")
    content = source.get("data")
    if source["type"] == "text":
        content = base64.b64encode(str(content).encode()).decode()
    name = " ".join(_NO_NAME.sub(" ", str(block.get("title") or "document")).split())
    said: Fields = {"format": kind, "name": name or "document", "source": {"bytes": content}}
    if block.get("context"):
        said["context"] = block["context"]
    if (block.get("citations") or {}).get("enabled"):
        said["citations"] = {"enabled": True}
    return {"document": said}


def _tool_use(block: Fields, where: str) -> Fields | None:
    told = {"toolUseId": block.get("id"), "name": block.get("name")}
    return {"toolUse": {**told, "input": block.get("input") or {}}}


def _tool_result(block: Fields, where: str) -> Fields | None:
    content = block.get("content")
    if isinstance(content, str) or content is None:
        content = [{"type": "text", "text": content or " "}]
    told = _blocks(content, f"{where}.content", _RESULT)
    said: Fields = {"toolUseId": block.get("tool_use_id"), "content": told or [{"text": " "}]}
    if block.get("is_error"):
        said["status"] = "error"
    return {"toolResult": said}


def _thinking(block: Fields, where: str) -> Fields | None:
    told = {"text": block.get("thinking"), "signature": block.get("signature")}
    return {"reasoningContent": {"reasoningText": {k: v for k, v in told.items() if v}}}


def _redacted(block: Fields, where: str) -> Fields | None:
    return {"reasoningContent": {"redactedContent": block.get("data")}}


_TEXT_ONLY: Final[dict[str, Writer]] = {"text": _text}
_RESULT: Final[dict[str, Writer]] = {"text": _text, "image": _image, "document": _document}
_CONTENT: Final[dict[str, Writer]] = {
    **_RESULT,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
}


def _tools(fields: Fields) -> Fields | None:
    tools = fields.get("tools")
    if not tools:
        return None
    said: list[Fields] = []
    for at, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") not in (None, "custom"):
            raise _unsaid(f"tools[{at}].type")  # it runs at Anthropic, and nowhere else
        spec: Fields = {"name": tool.get("name")}
        if tool.get("description"):
            spec["description"] = tool["description"]
        spec["inputSchema"] = {"json": tool.get("input_schema") or {"type": "object"}}
        if tool.get("strict") is not None:
            spec["strict"] = tool["strict"]
        said.append({"toolSpec": spec})
        said += _cache_point(tool)
    return {"tools": said, **_choice(fields.get("tool_choice"))}


def _choice(choice: Any) -> Fields:
    if choice is None:
        return {}
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind is None or choice.get("disable_parallel_tool_use"):
        raise _unsaid("tool_choice.disable_parallel_tool_use" if kind else "tool_choice")
    if kind == "tool":
        return {"toolChoice": {"tool": {"name": choice.get("name")}}}
    if kind in ("auto", "any"):
        return {"toolChoice": {kind: {}}}
    raise _unsaid("tool_choice.type")


def _unsaid(param: str) -> BadRequest:
    return BadRequest(f"{param} is not available on this route: Converse lacks it.", param=param)
