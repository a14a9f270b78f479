"""Which channels reach which endpoints by translation: the dialect at either end of a call.

A protocol of the catalog is the API of a provider; OpenAI's has two ways of asking for an answer,
and some of its channels have one of them only (`Channel.openai_api`).
"""

from typing import Final

from relay.model import Channel, Dialect, OpenAiApi
from relay.reach import ClaudeHost
from relay.records import Endpoint
from relay.translate.middle import TranslateDialect

_CHAT: Final = TranslateDialect.OPENAI_CHAT
_RESPONSES: Final = TranslateDialect.RESPONSES
_SPOKEN_AT: Final = {
    Endpoint.CHAT: _CHAT,
    Endpoint.RESPONSES: _RESPONSES,
    Endpoint.MESSAGES: TranslateDialect.ANTHROPIC,
    Endpoint.GENERATE: TranslateDialect.GEMINI,
    Endpoint.STREAM_GENERATE: TranslateDialect.GEMINI,
    Endpoint.COUNT_TOKENS: TranslateDialect.ANTHROPIC,
    Endpoint.COUNT_CONTENT_TOKENS: TranslateDialect.GEMINI,
    Endpoint.INPUT_TOKENS: _RESPONSES,
    Endpoint.EMBEDDINGS: _CHAT,
    Endpoint.EMBED_CONTENT: TranslateDialect.GEMINI,
    Endpoint.BATCH_EMBED_CONTENTS: TranslateDialect.GEMINI,
}
EMBEDDING: Final = frozenset(
    {Endpoint.EMBEDDINGS, Endpoint.EMBED_CONTENT, Endpoint.BATCH_EMBED_CONTENTS}
)
"""Endpoints that tell vectors."""
_COUNTED_AT: Final = {
    TranslateDialect.ANTHROPIC: Endpoint.COUNT_TOKENS,
    TranslateDialect.GEMINI: Endpoint.COUNT_CONTENT_TOKENS,
    _RESPONSES: Endpoint.INPUT_TOKENS,
}
COUNTING: Final = frozenset(_COUNTED_AT.values())
"""Endpoints that tell how many tokens a request is, and answer nothing."""
_SPOKEN_BY: Final = {
    Dialect.ANTHROPIC: TranslateDialect.ANTHROPIC,
    Dialect.GEMINI: TranslateDialect.GEMINI,
}
_ENDPOINTS: Final = {
    _CHAT: Endpoint.CHAT,
    _RESPONSES: Endpoint.RESPONSES,
    TranslateDialect.ANTHROPIC: Endpoint.MESSAGES,
}
_WORDS: Final = {
    _CHAT: "openai",
    _RESPONSES: "responses",
    TranslateDialect.ANTHROPIC: "anthropic",
    TranslateDialect.GEMINI: "gemini",
}


def spoken_at(endpoint: Endpoint) -> TranslateDialect | None:
    """Return what a client of an endpoint speaks, None where nothing is translated."""
    return _SPOKEN_AT.get(endpoint)


def spoken_by(channel: Channel, endpoint: Endpoint) -> TranslateDialect:
    """Return what a channel is asked in by those who do not speak its dialect."""
    known = _SPOKEN_BY.get(channel.protocol)
    if known is not None:
        return known
    if endpoint in COUNTING:
        return _RESPONSES
    if endpoint in EMBEDDING:
        return _CHAT
    return _RESPONSES if channel.openai_api is OpenAiApi.RESPONSES else _CHAT


def may_be_asked(channel: Channel, endpoint: Endpoint) -> bool:
    """Tell whether a channel of another dialect can serve an endpoint.

    Not all of them count; Anthropic has no embeddings, and Vertex has them at paths of its own.
    """
    if endpoint in EMBEDDING:
        elsewhere = "/publishers/" in channel.base_url
        return channel.protocol is not Dialect.ANTHROPIC and not elsewhere
    if endpoint not in COUNTING:
        return True
    reach = channel.reach
    hosted = reach is not None and reach.claude_on is ClaudeHost.BEDROCK
    return not hosted and channel.openai_api is not OpenAiApi.CHAT


def serves_natively(channel: Channel, endpoint: Endpoint) -> bool:
    """Tell whether a channel has an endpoint of its own protocol."""
    if channel.openai_api is OpenAiApi.BOTH:
        return True
    if endpoint is Endpoint.CHAT:
        return channel.openai_api is OpenAiApi.CHAT
    if endpoint is Endpoint.RESPONSES:
        return channel.openai_api is OpenAiApi.RESPONSES
    return True  # `openai_api` says nothing of the others


def endpoint_of(dialect: TranslateDialect, asked: Endpoint, *, stream: bool) -> Endpoint:
    """Return where a dialect's answers are asked for, or its counts where `asked` is a count."""
    if asked in COUNTING:
        return _COUNTED_AT[dialect]
    if asked in EMBEDDING:
        gemini = dialect is TranslateDialect.GEMINI
        return Endpoint.BATCH_EMBED_CONTENTS if gemini else Endpoint.EMBEDDINGS
    if dialect is TranslateDialect.GEMINI:
        return Endpoint.STREAM_GENERATE if stream else Endpoint.GENERATE
    return _ENDPOINTS[dialect]


def query_of(dialect: TranslateDialect, *, stream: bool) -> str:
    """Return the query by which a dialect's endpoint is asked, with its question mark."""
    return "?alt=sse" if stream and dialect is TranslateDialect.GEMINI else ""


def takes_any_signature(channel: Channel) -> bool:
    """Tell whether a channel takes thinking that another one of its provider's has signed.

    Anthropic's signatures are good with each of its credentials; others' are not.
    """
    return channel.protocol is Dialect.ANTHROPIC


def way_of(client: TranslateDialect, upstream: TranslateDialect) -> str:
    """Return how a translated call is called: `openai>anthropic`."""
    return f"{_WORDS[client]}>{_WORDS[upstream]}"
