"""What a scripted upstream can be told at its start; everything else is in the request."""

from pathlib import Path
from typing import Final

import msgspec

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""A request over this gets 413; twice the relay's own default, so that the relay's limit binds."""
PIPELINED_MAX: Final = 64
"""Requests that may wait behind a running answer on one connection; beyond it: closed."""
SERVED_MAX: Final = 200_000
"""Calls the record keeps, newest last; totals count on, and `served_path` keeps all."""
REHEARSED_MAX: Final = 32
REHEARSED_BODY_BYTES_MAX: Final = 16 * 1024
REHEARSED_CHUNKS_MAX: Final = 1000
REHEARSED_ANSWER_BYTES_MAX: Final = 1024 * 1024
"""Answers kept ready for the same question: a benchmark asks few, short ones, again and again.
Beyond these bounds an answer is rendered as it goes out: 32 x (1000 events + 1 MiB) is 45 MB."""
BACKLOG: Final = 4096
"""Connections that may queue: Debian's net.core.somaxconn."""


class MockOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How one mock behaves.

    `chunks`: tokens of a whole answer. `interval_ms`: between events; 0 = as fast as the client
    takes them. `ttft_ms`: before the first byte of an answer. `body_bytes`: stretches the words
    so that a whole answer's text has about this many bytes; 0 = plain words. `cached_tokens`:
    reported as read from a cache, at most the prompt. `api_key`: "" = any credential is good.
    `fail`: faults for every request, as `relay.mock.faults.parse` reads them. `seed`: for the
    dice of faults with a probability.
    """

    name: str = "mock"
    models: tuple[str, ...] = ("mock-model", "mock-embedding")
    chunks: int = 20
    interval_ms: float = 0.0
    ttft_ms: float = 0.0
    body_bytes: int = 0
    cached_tokens: int = 0
    crlf: bool = False
    """Events end in CRLF CRLF, as Gemini's do."""
    tokens_per_event: int = 1
    """Some providers put several tokens into an event; they count as that many."""
    usage: bool = True
    """False: never report usage, asked or not."""
    done: bool = True
    """False: streams end without `[DONE]`, as Perplexity's do."""
    echo_prefix: bool = False
    """True: `prefix: true` answers begin with the prefix, as Mistral's do."""
    api_key: str = ""
    fail: tuple[str, ...] = ()
    seed: int = 0
    served_path: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
