"""One request from one dialect to another: read, put in order, written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from relay.translate.answer import AnswerTerms
from relay.translate.anthropic import request_reader as anthropic_reader
from relay.translate.anthropic import request_writer as anthropic_writer
from relay.translate.chat import request_reader as chat_reader
from relay.translate.chat import request_writer as chat_writer
from relay.translate.fields import decode_object, encode
from relay.translate.gemini import request_reader as gemini_reader
from relay.translate.gemini import request_writer as gemini_writer
from relay.translate.idents import digest, plain_names
from relay.translate.kept import read_kept
from relay.translate.middle import (
    Ask,
    Call,
    JsonObject,
    Lookup,
    Role,
    Text,
    TranslateDialect,
    Upstream,
    join_turns,
)
from relay.translate.responses import request_reader as responses_reader
from relay.translate.responses import request_writer as responses_writer

_CHAT: Final = TranslateDialect.OPENAI_CHAT
_ANTHROPIC: Final = TranslateDialect.ANTHROPIC
_GEMINI: Final = TranslateDialect.GEMINI
_RESPONSES: Final = TranslateDialect.RESPONSES
_READERS: Final[dict[TranslateDialect, Callable[[JsonObject, Ask], None]]] = {
    _CHAT: chat_reader.read_request,
    _ANTHROPIC: anthropic_reader.read_request,
    _GEMINI: gemini_reader.read_request,
    _RESPONSES: responses_reader.read_request,
}
_WRITERS: Final[dict[TranslateDialect, Callable[[Ask, Upstream], JsonObject]]] = {
    _CHAT: chat_writer.write_request,
    _ANTHROPIC: anthropic_writer.write_request,
    _GEMINI: gemini_writer.write_request,
    _RESPONSES: responses_writer.write_request,
}
_KEYED: Final = frozenset({_CHAT, _RESPONSES})
"""Dialects whose caches are chosen by a key in the body."""


@dataclass
class TranslatedRequest:
    """What the upstream gets, and what its answer's translator has to know of the request.

    `path` begins behind the root of the provider's API (behind `/v1`, `/v1beta`).
    `dropped`: what the answer is made without, by its name in the client's dialect.
    """

    body: bytes
    path: str
    stream: bool
    dropped: tuple[str, ...] = ()
    include_usage: bool = True
    thinking_shown: bool = True
    stops: tuple[str, ...] = ()
    custom_tools: frozenset[str] = field(default_factory=frozenset)

    def terms(self, nonce: str, model: str, created_s: int) -> AnswerTerms:
        """Return what the client's answer is made with.

        Args:
            nonce: Unique to the call, legal in an id.
            model: The client's name for the model.
            created_s: Seconds since 1970 UTC.
        """
        return AnswerTerms(
            nonce,
            model,
            created_s,
            self.include_usage,
            self.thinking_shown,
            self.custom_tools,
            self.stops,
        )


def _nothing_kept(_call_id: str) -> str | None:
    return None


def translate_request(
    source: TranslateDialect,
    target: TranslateDialect,
    body: bytes | JsonObject,
    upstream: Upstream,
    *,
    stream: bool | None = None,
    signatures: Lookup = _nothing_kept,
) -> TranslatedRequest:
    """Return a request in the upstream's dialect.

    Args:
        source: The client's dialect.
        target: The upstream's.
        body: The client's body, or its object where that was decoded already; never changed.
        upstream: What is known of the model's server.
        stream: Whether events are wanted, where the path says it (Gemini); None = the body does.
        signatures: Finds what `AnswerTranslator.take_signatures` told to keep for a call's id.

    Raises:
        Refused: CLIENT; something that the upstream's dialect cannot say, named by `param`.
        BadRequest: CLIENT; the body is no JSON object.
    """
    assert source is not target, "a native call is passed through"
    ask = Ask(source, target, upstream.model)
    _READERS[source](decode_object(body), ask)
    if stream is not None:
        ask.stream = stream
    ask.turns = join_turns(ask.turns)
    _restore(ask, signatures)
    _choose_cache(ask, upstream)
    if not upstream.takes_sampling:
        ask.drop_sampling()
    written = _WRITERS[target](ask, upstream)
    shown = source is _CHAT or (ask.thinking is not None and ask.thinking.shown)
    return TranslatedRequest(
        encode(written),
        path_of(target, upstream.model, stream=ask.stream),
        ask.stream,
        plain_names(ask.dropped),
        ask.include_usage,
        shown,
        tuple(ask.cut_stops),
        frozenset(tool.name for tool in ask.tools if tool.custom),
    )


def path_of(dialect: TranslateDialect, model: str, *, stream: bool) -> str:
    """Return where a dialect's requests go, behind the root of the provider's API."""
    if dialect is _GEMINI:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/models/{model}:{verb}"
    if dialect is _ANTHROPIC:
        return "/messages"
    return "/chat/completions" if dialect is _CHAT else "/responses"


def _restore(ask: Ask, signatures: Lookup) -> None:
    """Put back before each call what the target's dialect said there when it was made."""
    found = False
    for turn in ask.turns:
        for part in turn.parts:
            if isinstance(part, Call):
                record = signatures(part.id)
                if record is not None:
                    part.kept = read_kept(record, ask.target)
                    found = found or bool(part.kept)
    if ask.echoed is not None and not found:
        # What the client sent back was signed by nobody that the target trusts.
        ask.drop(ask.echoed)


def _choose_cache(ask: Ask, upstream: Upstream) -> None:
    """Choose the key of the prompt cache, the same for each turn of a conversation."""
    if ask.target not in _KEYED:
        if ask.cache_key is not None and ask.target is _GEMINI:
            ask.drop("prompt_cache_key")
        return
    ask.cache_key = ask.cache_key or upstream.cache_key
    if ask.cache_key is None and ask.marked:
        ask.cache_key = digest(ask.user or "", *_beginning(ask))


def _beginning(ask: Ask) -> list[str]:
    """Return the words that every turn of this conversation begins with."""
    words: list[str] = []
    for turn in ask.turns:
        if turn.role is Role.MODEL:
            break
        words.extend(part.text for part in turn.parts if isinstance(part, Text))
    return words
