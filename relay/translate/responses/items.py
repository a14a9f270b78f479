"""The items of a response's output, as its events and its body show them."""

from typing import Final

from relay.translate.answer import Citation
from relay.translate.collected import (
    Said,
    SaidCall,
    SaidImage,
    SaidText,
    SaidThinking,
)
from relay.translate.fields import arguments_object
from relay.translate.middle import JsonObject

COMPLETED: Final = "completed"
IN_PROGRESS: Final = "in_progress"


def item_id(said: Said, nonce: str, index: int, custom: frozenset[str]) -> str:
    """Return an item's id: each kind begins in its own way, and clients insist on it."""
    if isinstance(said, SaidText):
        prefix = "msg"
    elif isinstance(said, SaidThinking):
        prefix = "rs"
    elif isinstance(said, SaidImage):
        prefix = "ig"
    else:
        prefix = "ctc" if said.name in custom else "fc"
    return f"{prefix}_{nonce}_{index}"


def annotation(citation: Citation) -> JsonObject:
    """Return a citation as an annotation."""
    return {
        "type": "url_citation",
        "start_index": citation.start,
        "end_index": citation.end,
        "url": citation.url,
        "title": citation.title,
    }


def content_part(said: SaidText, text: str) -> JsonObject:
    """Return a message's only part, with the text so far."""
    if said.declined:
        return {"type": "refusal", "refusal": text}
    notes = [annotation(citation) for citation in said.citations]
    return {"type": "output_text", "annotations": notes, "logprobs": said.logprobs, "text": text}


def begun_item(said: Said, identity: str, custom: frozenset[str]) -> JsonObject:
    """Return an item of which nothing is said yet."""
    if isinstance(said, SaidText):
        message = {"id": identity, "type": "message", "status": IN_PROGRESS}
        return {**message, "role": "assistant", "content": []}
    if isinstance(said, SaidThinking):
        return {"id": identity, "type": "reasoning", "summary": []}
    if isinstance(said, SaidImage):
        return {"id": identity, "type": "image_generation_call", "status": IN_PROGRESS}
    return _call(said, identity, "", IN_PROGRESS, custom)


def whole_item(said: Said, identity: str, custom: frozenset[str]) -> JsonObject:
    """Return an item with all that was said of it."""
    if isinstance(said, SaidText):
        message = {"id": identity, "type": "message", "status": COMPLETED, "role": "assistant"}
        return {**message, "content": [content_part(said, said.text)]}
    if isinstance(said, SaidThinking):
        summary = [{"type": "summary_text", "text": said.text}]
        return {"id": identity, "type": "reasoning", "summary": summary}
    if isinstance(said, SaidImage):
        image = {"id": identity, "type": "image_generation_call", "status": COMPLETED}
        return {**image, "result": said.payload, "output_format": said.mime.rpartition("/")[2]}
    return _call(said, identity, said.arguments, COMPLETED, custom)


def custom_input(arguments: str) -> str:
    """Return the free text of a custom tool's call, which was a function's only argument."""
    found = arguments_object(arguments).get("input")
    return found if isinstance(found, str) else arguments


def _call(
    said: SaidCall, identity: str, arguments: str, status: str, custom: frozenset[str]
) -> JsonObject:
    head: JsonObject = {"id": identity, "type": "function_call", "status": status}
    names = {"call_id": said.id, "name": said.name}
    if said.name in custom:
        text = custom_input(arguments) if arguments else ""
        return {**head, "type": "custom_tool_call", **names, "input": text}
    return {**head, **names, "arguments": arguments}
