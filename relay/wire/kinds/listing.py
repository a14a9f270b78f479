"""What an upstream lists: names, context and modalities, of any dialect's list.

Nothing of a list is believed but what has the right form: it is somebody else's text, and names
from it go into heads and tables. Source: the model lists of OpenAI, Anthropic, Gemini, Cohere,
OpenRouter, Together (a bare array), Groq, Mistral and vLLM (context under names of their own).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from relay.decoding import Decoder, Undecodable

NAME_CHARS_MAX: Final = 256
TOKENS_MAX: Final = 2**31 - 1
MODELS_MAX: Final = 20_000
MODALITIES: Final = ("text", "image", "audio", "video", "file", "embeddings")

_CONTEXT: Final = (
    *("context_length", "context_window", "max_model_len", "max_context_length"),
    *("inputTokenLimit", "max_input_tokens"),
)
_OUTPUT: Final = ("outputTokenLimit", "max_completion_tokens", "max_output_tokens", "max_tokens")


_any = Decoder(Any)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A model of a list; 0 and (): the list does not say."""

    name: str
    context_tokens: int = 0
    output_tokens: int = 0
    input_modalities: tuple[str, ...] = ()
    output_modalities: tuple[str, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """A page of a list; `more`: what asks for the next one in a query, "" = it is the last."""

    models: list[Listed]
    more: str


def parse_page(body: bytes) -> Page:
    """Return what a list of models says.

    Raises:
        ValueError: It is no such list.
    """
    try:
        said = _any.decode(body)
    except Undecodable:
        raise ValueError("what it answers is not JSON") from None
    found: dict[str, Listed] = {}
    for entry in _entries(said):
        model = _listed(entry)
        if model is not None and len(found) < MODELS_MAX:
            found.setdefault(model.name, model)
    return Page(list(found.values()), _more(said))


def _entries(said: Any) -> Iterator[Mapping[str, Any]]:
    listed = said
    if isinstance(said, dict):
        listed = said["data"] if isinstance(said.get("data"), list) else said.get("models")
    if not isinstance(listed, list):
        raise ValueError("what it answers is no list of models")
    yield from (entry for entry in listed if isinstance(entry, dict))


def _more(said: Any) -> str:
    if not isinstance(said, dict):
        return ""
    token, last = said.get("nextPageToken"), said.get("last_id")
    if isinstance(token, str) and token:
        return urlencode({"pageToken": token})
    if said.get("has_more") is True and isinstance(last, str) and last:
        return urlencode({"after_id": last})
    return ""


def _listed(entry: Mapping[str, Any]) -> Listed | None:
    name = entry.get("id") or entry.get("name")
    if not isinstance(name, str):
        return None
    name = name.removeprefix("models/")
    good = 0 < len(name) <= NAME_CHARS_MAX and name.isprintable() and name == name.strip()
    # A star or a "=" would be read as a pattern or a renaming where names are declared.
    if not good or "*" in name or "=" in name or name.startswith("!"):
        return None
    provider = entry.get("top_provider")
    places = [entry, provider] if isinstance(provider, dict) else [entry]
    shape = entry.get("architecture")
    shape = shape if isinstance(shape, dict) else entry
    return Listed(
        name=name,
        context_tokens=_tokens(places, _CONTEXT),
        output_tokens=_tokens(places, _OUTPUT),
        input_modalities=_modalities(shape.get("input_modalities")),
        output_modalities=_modalities(shape.get("output_modalities")),
    )


def _tokens(places: list[Mapping[str, Any]], names: tuple[str, ...]) -> int:
    for place in places:
        for name in names:
            value = place.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= TOKENS_MAX:
                return value
    return 0


def _modalities(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(name for name in MODALITIES if name in value)
