"""What is asked of a dialect: one table for each, so that nobody else has to know its name.

    edge      whose key is that, which headers and query parts go on, how is a model list said
    flow      how is an error said, in a body or in a running stream; what keeps a client's way open
    upstream  where is an endpoint, and how is a credential presented
    control   how is a channel asked for its models

A new dialect is a module with a table, a member of model.Dialect and its endpoints in records.
Nothing outside of these folders asks which dialect it is dealing with.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from relay.errors import RelayError
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.refusals.blame import Row

HeaderItems = Iterable[tuple[str, str]]
"""Names in any case, values as they came."""

VALUE_CHARS_MAX: Final = 4096
"""Codex tells of its turn in JSON, of about 1 KiB."""
FORWARDED_CHARS_MAX: Final = 12 * 1024
"""All that goes on together: many servers take heads of 16 KiB and no more."""
OURS: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"),
        *("x-goog-api-key", "x-goog-user-project", "openai-organization", "openai-project"),
        "anthropic-workspace-id",
    }
)
"""Never passed on, whatever a table says: who pays an upstream is not the client's to name."""
TRACE: Final = frozenset({"traceparent", "tracestate", "idempotency-key", "x-client-request-id"})
"""What clients of any dialect send along to find a call again. Source: W3C Trace Context; the
Idempotency-Key and X-Client-Request-Id of the official clients."""
_VALUE: Final = re.compile(r"[\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectTable:
    """What one dialect says differently. Header names of clients are in lower case."""

    dialect: Dialect
    entrance: str
    """Where its models are asked for most often."""
    versions: tuple[str, ...]
    """What the paths of its clients begin with, once the host is taken off."""
    verbs: dict[str, Endpoint]
    """Endpoints whose path names the model before these; empty: its bodies name the model."""
    mark: str
    """A header that only its clients send; "" = none does."""

    error_status: Callable[[RelayError], int]
    """The HTTP status that tells an error."""
    error_body: Callable[[RelayError, str], bytes]
    """The JSON body that tells an error; the text is the request's id."""
    error_event: Callable[[RelayError, str, Endpoint, bytes, int], bytes]
    """The last event of a stream that failed. The official clients raise on it; a stream that just
    ended would look whole to them. Of the error, the request's id, the endpoint, the first events
    the client got (a failed response must keep their id), and how many it got in all."""
    keep_alive: bytes | None
    """What keeps the way to a client open while an upstream is silent; None: its clients break."""

    models_body: Callable[[list[str], int], bytes]
    """The list of models; the number is seconds since 1970."""
    model_body: Callable[[str, int], bytes]
    """One model."""

    client_credentials: tuple[str, ...]
    """Headers that a client may present its key in, besides `Authorization: Bearer`."""
    query_credential: str
    """Part of a query that may hold a client's key; "" = none."""
    upstream_credential: tuple[str, str]
    """The header an upstream wants its key in, and what stands before the key."""

    path: Callable[[Endpoint, str], str]
    """Where an endpoint is, below a channel's root; the text is the upstream's name of the
    model."""
    queries: dict[Endpoint, tuple[str, ...]]
    """Parts of a client's query that go on to an upstream; all others end here."""
    models_query: str
    """What has every model on one page of an upstream's list."""
    probe_headers: tuple[tuple[str, str], ...]
    """What a question for the models needs besides the credential."""

    forward: Callable[[HeaderItems], bytes]
    """The header lines of a client's that go on to an upstream; raises BadRequest."""
    returned: tuple[tuple[bytes, bytes], ...]
    """Headers of an upstream's answer that a client gets, and what they are called then."""
    rate_names: tuple[bytes, bytes, bytes]
    """Headers that tell limit, rest and reset of requests or tokens."""
    rate_reset_is_moment: bool
    """The reset is told as a time of day in RFC 3339, not as a span."""

    session_fields: tuple[str, ...]
    """Fields of a request that tell one conversation from another, the best first."""
    usage_on_demand: frozenset[Endpoint]
    """Streams that report usage only where `stream_options.include_usage` asks for it."""
    last_words: frozenset[str]
    """Types of the events that end a stream well."""
    no_output_yet: frozenset[str]
    """Types of the events that announce an answer and hold nothing of it."""
    blames: tuple[Row, ...]
    """Refusals that only its providers say so; asked before those that hold for all."""
    splices: bool
    """A broken stream of it can be carried on over another channel."""


def forwarded(items: HeaderItems, names: frozenset[str], prefixes: tuple[str, ...] = ()) -> bytes:
    """Return the lines of those headers that go on; odd or endless ones stay behind.

    Args:
        items: The client's headers.
        names: What goes on, in lower case.
        prefixes: What names that go on may begin with.
    """
    lines: list[str] = []
    chars = 0
    for given, value in items:
        name = given.lower()
        if name not in names and not (prefixes and name.startswith(prefixes)):
            continue
        chars += len(name) + len(value) + 4
        good = len(value) <= VALUE_CHARS_MAX and _VALUE.fullmatch(value) is not None
        if good and name not in OURS and chars <= FORWARDED_CHARS_MAX:
            lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("ascii")
