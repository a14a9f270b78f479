"""The paths below which a provider keeps things, and what each of them asks for.

A path is matched as a whole and written anew from its parts: nothing that a client sends goes into
a request line but an id of plain characters and the parts of a query that are known here.

A list of all files is not among them: an account of a provider's is shared by many of ours. Those
of videos and batches are made here, of those that the account began.

Source: OpenAI API reference: Responses, Conversations, Files, Uploads, Videos, Batch; Anthropic,
Files, Message Batches; Gemini API, Batch, and the google-genai clients.
"""

import re
from typing import Final
from urllib.parse import unquote

from relay.errors import MethodNotAllowed
from relay.model import DEFAULT_DIALECT, Dialect
from relay.records import BATCH_ENDPOINTS, CONTENT_BATCHES, Endpoint
from relay.wire.dialects.known import TABLES
from relay.wire.state.marks import (
    BATCH,
    CONTENT_BATCH,
    CONVERSATION,
    FILE,
    MESSAGE_BATCH,
    RESPONSE,
    VIDEO,
)

CANCEL: Final = "cancel"
REMIX: Final = "remix"
_ID: Final = r"([A-Za-z0-9][A-Za-z0-9_\-]{0,199})"
_QUERY_PART: Final = re.compile(r"([A-Za-z_]+)(?:\[\]|%5B%5D)?=([A-Za-z0-9_.,\-%]{0,256})")
_PAGE: Final = frozenset({"limit", "order", "after", "before", "include"})
_RETRIEVE: Final = frozenset({"include", "stream", "starting_after", "include_obfuscation"})
_CURSOR: Final = frozenset({"limit", "after", "after_id", "before_id"})
_PAGES: Final = frozenset({"pageSize", "pageToken"})
_VARIANT: Final = frozenset({"variant"})
_NOTHING: Final[frozenset[str]] = frozenset()
QUERY_CHARS_MAX: Final = 2048

Row = tuple[str, str, Endpoint, bytes, frozenset[str]]
"""Methods, the path below the root, its endpoint, the kind of its first id, what of its query."""
_ROWS: Final[tuple[Row, ...]] = (
    ("GET DELETE", f"responses/{_ID}", Endpoint.RESPONSE, RESPONSE, _RETRIEVE),
    ("POST", f"responses/{_ID}/{CANCEL}", Endpoint.RESPONSE, RESPONSE, _NOTHING),
    ("GET", f"responses/{_ID}/input_items", Endpoint.RESPONSE, RESPONSE, _PAGE),
    ("POST", "conversations", Endpoint.CONVERSATION, b"", _NOTHING),
    ("GET POST DELETE", f"conversations/{_ID}", Endpoint.CONVERSATION, CONVERSATION, _NOTHING),
    ("GET POST", f"conversations/{_ID}/items", Endpoint.CONVERSATION, CONVERSATION, _PAGE),
    ("POST", "files", Endpoint.FILE, b"", _NOTHING),
    ("GET DELETE", f"files/{_ID}", Endpoint.FILE, FILE, _NOTHING),
    ("GET", f"files/{_ID}/content", Endpoint.FILE, FILE, _NOTHING),
    ("POST", "uploads", Endpoint.UPLOAD, b"", _NOTHING),
    ("POST", f"uploads/{_ID}/parts", Endpoint.UPLOAD, FILE, _NOTHING),
    ("POST", f"uploads/{_ID}/(?:complete|{CANCEL})", Endpoint.UPLOAD, FILE, _NOTHING),
    ("GET", "videos", Endpoint.VIDEO, b"", _PAGE),
    ("GET DELETE", f"videos/{_ID}", Endpoint.VIDEO, VIDEO, _NOTHING),
    ("GET", f"videos/{_ID}/content", Endpoint.VIDEO, VIDEO, _VARIANT),
    ("POST", f"videos/{_ID}/{REMIX}", Endpoint.VIDEO_REMIX, VIDEO, _NOTHING),
    ("POST", "batches", Endpoint.BATCHES, b"", _NOTHING),
    ("GET", "batches", Endpoint.BATCH, b"", _CURSOR),
    ("GET", f"batches/{_ID}", Endpoint.BATCH, BATCH, _NOTHING),
    ("POST", f"batches/{_ID}/{CANCEL}", Endpoint.BATCH, BATCH, _NOTHING),
    ("POST", "messages/batches", Endpoint.MESSAGE_BATCHES, b"", _NOTHING),
    ("GET", "messages/batches", Endpoint.MESSAGE_BATCH, b"", _CURSOR),
    ("GET DELETE", f"messages/batches/{_ID}", Endpoint.MESSAGE_BATCH, MESSAGE_BATCH, _NOTHING),
    ("POST", f"messages/batches/{_ID}/{CANCEL}", Endpoint.MESSAGE_BATCH, MESSAGE_BATCH, _NOTHING),
    ("GET", f"messages/batches/{_ID}/results", Endpoint.MESSAGE_BATCH, MESSAGE_BATCH, _NOTHING),
    ("GET DELETE", f"conversations/{_ID}/items/{_ID}", Endpoint.CONVERSATION, CONVERSATION, _PAGE),
)
_GEMINI_ROWS: Final[tuple[Row, ...]] = (
    ("POST", "models/(.+):batchGenerateContent", Endpoint.CONTENT_BATCHES, b"", _NOTHING),
    ("POST", "models/(.+):asyncBatchEmbedContent", Endpoint.EMBED_BATCHES, b"", _NOTHING),
    ("GET", "batches", Endpoint.CONTENT_BATCH, b"", _PAGES),
    ("GET DELETE", f"batches/{_ID}", Endpoint.CONTENT_BATCH, CONTENT_BATCH, _NOTHING),
    ("POST", f"batches/{_ID}:{CANCEL}", Endpoint.CONTENT_BATCH, CONTENT_BATCH, _NOTHING),
)
"""Of its batches: a `models` path alone tells by itself whose it is."""
_PREFIX: Final = r"/(?:v1/){0,2}"
_GEMINI_PREFIX: Final = r"/(?:v1/|v1beta/|v1alpha/){0,3}"
_COMPILED: Final = [(re.compile(_PREFIX + row[1]), _PREFIX, row) for row in _ROWS]
_GEMINI: Final = [
    (re.compile(_GEMINI_PREFIX + row[1]), _GEMINI_PREFIX, row) for row in _GEMINI_ROWS
]
_VERSIONS: Final = ("/v1beta/batches", "/v1alpha/batches", "/v1/v1beta/batches")
_UNVERSIONED: Final = ("/v1/batches", "/batches")
"""Google's clients ask here as OpenAI's do."""
_BEGINS: Final = (":batchGenerateContent", ":asyncBatchEmbedContent")
_OF_LINES: Final = frozenset({Endpoint.FILE, Endpoint.MESSAGE_BATCH})
_RAW: Final = ("/content", "/results")
_LITERALS: Final = frozenset({"input_tokens", "compact", "edits", "extensions", "characters"})
"""What stands where an id may, and is none."""
_MADE_AT: Final = "/videos"
"""Where something is begun that names a model: an endpoint like others (edge.routes)."""
_ROOTS: Final = (
    *("responses", "conversations", "files", "uploads", "videos"),
    *("batches", "messages/batches"),
)


class KeptPath:
    """What a request asks of what a provider keeps.

    `mark`: what it is about, b"" = a new one is made. `path`: below an upstream's root, with its
    query. `streamed`: its answer are events. `origin`: how the client reaches us, like
    `https://relay.example`; "" = it does not say. `model`: where its path names one, "" = nowhere.
    """

    __slots__ = ("endpoint", "mark", "method", "model", "origin", "path", "streamed")

    def __init__(
        self, endpoint: Endpoint, method: str, path: str, mark: bytes, *, streamed: bool
    ) -> None:
        self.endpoint = endpoint
        self.method = method
        self.path = path
        self.mark = mark
        self.streamed = streamed
        self.origin = ""
        self.model = ""

    @property
    def begins_batch(self) -> bool:
        """Whether it begins a batch, which is paid for."""
        return self.endpoint in BATCH_ENDPOINTS

    @property
    def passes_raw(self) -> bool:
        """Whether what it asks for is a file of lines, or holds one, whatever stands in it."""
        if self.endpoint is Endpoint.CONTENT_BATCH:
            return self.method == "GET" and bool(self.mark)
        return self.endpoint in _OF_LINES and self.path.endswith(_RAW)

    @property
    def lists(self) -> bool:
        """Whether it asks for a list of things."""
        return self.method == "GET" and not self.mark

    @property
    def takes_form(self) -> bool:
        """Whether what it sends is a file in a form, and no JSON."""
        parts = self.endpoint is Endpoint.UPLOAD and self.path.endswith("/parts")
        return self.endpoint is Endpoint.FILE or parts


def find_kept(method: str, target: str, dialect: Dialect = DEFAULT_DIALECT) -> KeptPath | None:
    """Return what a request asks of what is kept, None where its path is another one.

    `dialect`: the client's, which tells whose `/v1/batches` it means.

    Raises:
        MethodNotAllowed: CLIENT; the path exists under other methods.
    """
    path, _, query = target.partition("?")
    rows = _COMPILED
    if (
        path.startswith(_VERSIONS)
        or path.endswith(_BEGINS)
        or (path.startswith(_UNVERSIONED) and TABLES[dialect].verbs)
    ):
        rows = _GEMINI
    elif not path.removeprefix("/v1").removeprefix("/v1").lstrip("/").startswith(_ROOTS):
        return None
    allowed: list[str] = []
    for pattern, prefix, (methods, _, endpoint, kind, known) in rows:
        found = pattern.fullmatch(path)
        if found is None or (found.lastindex and found[1] in _LITERALS):
            continue
        if method in methods.split():
            kept = _known_parts(query, known)
            below = "/" + re.sub(prefix, "", path, count=1)
            mark = kind + found[1].encode() if kind else b""
            streamed = method == "GET" and "stream=true" in kept
            asked = f"?{'&'.join(kept)}" if kept else ""
            found_path = KeptPath(endpoint, method, below + asked, mark, streamed=streamed)
            if endpoint in CONTENT_BATCHES:
                found_path.model = unquote(found[1])
            return found_path
        allowed += methods.split()
    if allowed and not (method == "POST" and path.endswith(_MADE_AT)):
        raise MethodNotAllowed(f"Use {' or '.join(allowed)} here.")
    return None


def _known_parts(query: str, known: frozenset[str]) -> list[str]:
    if not query or len(query) > QUERY_CHARS_MAX:
        return []
    parts = ((part, _QUERY_PART.fullmatch(part)) for part in query.split("&"))
    return [part for part, found in parts if found is not None and found[1] in known]
