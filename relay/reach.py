"""How a channel is reached where its provider differs from its dialect: kept with its row, as JSON.

Everything here goes into heads that are prepared once for a channel, never into the path of a call.
"""

import enum
import re
from typing import Final

import msgspec

VALUE_CHARS_MAX: Final = 1024
ITEMS_MAX: Final = 32
MODEL: Final = "{model}"
"""Stands in a path for the upstream's name of the model."""
PATH: Final = "{path}"
"""Stands in a path for what is there otherwise: /chat/completions."""
OTHER: Final = "*"
"""The endpoint that stands for all that are not named."""

_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_PROXY: Final = re.compile(r"(http|socks5)://([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?/?")
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_TEMPLATE: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/{}-]*")
_FRAMING: Final = frozenset(
    {
        *("host", "connection", "content-length", "content-type", "transfer-encoding", "te"),
        *("accept-encoding", "expect", "upgrade", "keep-alive", "trailer", "proxy-connection"),
    }
)
_CREDENTIALS: Final = frozenset(
    {
        *("authorization", "proxy-authorization", "cookie", "api-key", "x-api-key"),
        "x-goog-api-key",
    }
)
_QUERY_CREDENTIALS: Final = frozenset({"key", "api_key", "api-key", "access_token"})


class Auth(enum.StrEnum):
    """In which header a channel's credential goes."""

    DIALECT = "dialect"
    """As the dialect has it."""
    BEARER = "bearer"
    API_KEY = "api-key"
    X_API_KEY = "x-api-key"
    GOOG_API_KEY = "x-goog-api-key"
    GOOGLE = "google"
    """A bearer token, minted of a service account's or a user's document."""
    ENTRA = "entra"
    """The same, of a client's secret in a tenant of Microsoft Entra."""
    AWS = "aws"
    """None: each request is signed with an access key (Signature Version 4)."""


class ClaudeHost(enum.StrEnum):
    """Who serves Claude in Anthropic's words, but at paths and in bodies of his own."""

    NOBODY = ""
    VERTEX = "vertex"
    BEDROCK = "bedrock"
    CONVERSE = "converse"
    """Bedrock's one API for all of its models: Anthropic's words are said in its own."""


class Speaks(enum.StrEnum):
    """Whether a channel answers turns over a WebSocket of its own."""

    FOUND_OUT = "auto"
    """It is asked, and once it has refused not again for a while."""
    YES = "yes"
    NO = "no"


AUTH_HEADERS: Final[dict[Auth, tuple[str, str]]] = {
    Auth.BEARER: ("Authorization", "Bearer "),
    Auth.API_KEY: ("api-key", ""),
    Auth.X_API_KEY: ("x-api-key", ""),
    Auth.GOOG_API_KEY: ("x-goog-api-key", ""),
    Auth.GOOGLE: ("Authorization", "Bearer "),
    Auth.ENTRA: ("Authorization", "Bearer "),
    Auth.AWS: ("", ""),
}
"""The header, and what stands before the key; "" = the key is not sent."""
MINTED: Final = frozenset({Auth.GOOGLE, Auth.ENTRA})
"""Of these the credential is a document, and what is sent a token that is minted of it."""
DOCUMENTS: Final = MINTED | {Auth.AWS}
"""Of these the credential is a JSON document."""


class Egress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A way out that is not the plain one. Files are PEM, on every host that serves.

    `proxy`: http://HOST:PORT (CONNECT) or socks5://HOST:PORT; one that wants a login is not served.
    `ca_file`: whom the upstream's certificate must come from, instead of the public ones.
    `cert_file`, `key_file`: what we show of ourselves; the key may stand in the first.
    """

    proxy: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Reach(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said to a channel's upstream otherwise than its dialect would.

    `headers`, `query`: sent with each request. `paths`: by endpoint ("chat/completions", or "*"),
    what stands behind the address; {model} and {path} are filled in. `listing`: where its models
    are listed, relative to the address; "" = as the dialect has it, "-" = nowhere.
    `websocket`: whether the turns of a session on /v1/responses are asked for over one.
    """

    auth: Auth = Auth.DIALECT
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    paths: dict[str, str] = {}
    listing: str = ""
    egress: Egress | None = None
    claude_on: ClaudeHost = ClaudeHost.NOBODY
    websocket: Speaks = Speaks.FOUND_OUT

    @property
    def signs(self) -> bool:
        """Whether each request is signed, body and all."""
        return self.auth is Auth.AWS

    @property
    def names_model(self) -> bool:
        """Whether a path of it names the model."""
        return any(MODEL in path for path in self.paths.values())


NOTHING: Final = Reach()


def check_reach(reach: Reach) -> None:
    """Refuse what would break a head apart, or put a credential where everybody reads it.

    Raises:
        ValueError: The message begins with the field's name; no value is in it.
    """
    for field in ("headers", "query", "paths"):
        if len(getattr(reach, field)) > ITEMS_MAX:
            raise ValueError(f"{field}: more than {ITEMS_MAX}")
    for name, value in reach.headers.items():
        _check_header(name)
        _check_value("headers", name, value)
    for name, value in reach.query.items():
        if _QUERY_NAME.fullmatch(name) is None:
            raise ValueError("query: not a name such as api-version")
        if name.lower() in _QUERY_CREDENTIALS:
            raise ValueError(f"query: {name} is a credential: give it as api_key")
        _check_value("query", name, value)
    for endpoint, path in reach.paths.items():
        _check_path(endpoint, path)
    if reach.egress is not None:
        _check_egress(reach.egress)
    _check_listing(reach.listing)


def _check_listing(listing: str) -> None:
    if not listing.isascii() or not listing.isprintable() or " " in listing:
        raise ValueError("listing: only plain ASCII may stand in it")
    if "//" in listing or ":" in listing:
        raise ValueError("listing: a path, not another server")


def _check_egress(egress: Egress) -> None:
    if egress.proxy and _PROXY.fullmatch(egress.proxy) is None:
        raise ValueError("egress.proxy: not http://HOST:PORT or socks5://HOST:PORT")
    for field in ("ca_file", "cert_file", "key_file"):
        if not getattr(egress, field).isprintable():
            raise ValueError(f"egress.{field}: not a path")
    if egress.key_file and not egress.cert_file:
        raise ValueError("egress.cert_file: a key without a certificate")


def _check_header(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError("headers: not a header's name")
    if name.lower() in _FRAMING:
        raise ValueError(f"headers: {name} is the relay's own")
    if name.lower() in _CREDENTIALS:
        raise ValueError(f"headers: {name} is a credential: give it as api_key")


def _check_path(endpoint: str, path: str) -> None:
    if _TEMPLATE.fullmatch(path) is None or ".." in path:
        raise ValueError(f"paths: {endpoint}: not a path such as /deployments/{MODEL}{PATH}")
    rest = path.replace(MODEL, "").replace(PATH, "")
    if "{" in rest or "}" in rest:
        raise ValueError(f"paths: {endpoint}: only {MODEL} and {PATH} are filled in")


def _check_value(field: str, name: str, value: str) -> None:
    if not 0 < len(value) <= VALUE_CHARS_MAX or not (value.isascii() and value.isprintable()):
        raise ValueError(f"{field}: {name}: not one line of plain ASCII")
