"""What a client asks, in three values that a call is composed of.

    head     what the request's head says; kept by the connection, and used again with its next one
    request  what its body says, as far as limits, routing and billing need it; no content
    rights   who asks and what that key may have, out of one snapshot; shared by all such calls

None of them changes once it is there, so each can be shared. A call begins with the empty ones, and
has the others put in their place as admission goes on.
"""

from typing import Final
from urllib.parse import quote

from relay.billing.tariff import Tariff
from relay.extras import NOTHING_ASKED, Asked
from relay.model import DEFAULT_DIALECT, Account, Channel, Dialect, Group, Key, Line
from relay.records import Endpoint
from relay.wire.state.paths import KeptPath


class RequestHead:
    """What a head asks for, and who asks.

    `credential`: the digest of the presented key, b"" where it can be none; None: no key was given.
    `ip`: the client's address. `content_type`: as it came. `dialect`: what the client speaks:
    errors are told in it, and channels that speak it serve the call. `query`, `forwarded`: what of
    the query (with its question mark) and of the headers (whole lines) goes on to an upstream.
    `model`: where the path names it, else "".
    `line`: the line it names, "" = none. `path`: of its URL.
    `kept`: what of a provider's own it is about, None for most. `session`: what the client says its
    calls belong together by, b"" = nothing.
    """

    __slots__ = (
        "content_type",
        "credential",
        "dialect",
        "endpoint",
        "forwarded",
        "ip",
        "kept",
        "line",
        "model",
        "path",
        "query",
        "session",
    )

    def __init__(  # noqa: PLR0913 - a field a line
        self,
        endpoint: Endpoint,
        credential: bytes | None,
        ip: str,
        content_type: str,
        dialect: Dialect,
        query: str,
        forwarded: bytes,
        model: str = "",
        line: str = "",
        kept: KeptPath | None = None,
        path: str = "",
        session: bytes = b"",
    ) -> None:
        self.session = session
        self.kept = kept
        self.model = model
        self.endpoint = endpoint
        self.credential = credential
        self.ip = ip
        self.content_type = content_type
        self.dialect = dialect
        self.query = query
        self.forwarded = forwarded
        self.line = line
        self.path = path


class RequestFacts:
    """What a body asks for.

    `choices`: answers or images asked for. `output_tokens_max`: the client's bound on each of them,
    None: it set none. `input_estimate`: tokens. `text_bytes`: of its body, pictures left out.
    `body_bytes`: with them. `images`: pictures in it. `counts_bytes`: the answer is text, so that
    its bytes tell its tokens where nobody reports them. `asked`: what is no token.
    """

    __slots__ = (
        "asked",
        "body_bytes",
        "choices",
        "counts_bytes",
        "images",
        "input_estimate",
        "model",
        "output_tokens_max",
        "stream",
        "text_bytes",
    )

    def __init__(  # noqa: PLR0913 - a field a line
        self,
        model: str,
        *,
        stream: bool = False,
        choices: int = 1,
        output_tokens_max: int | None = None,
        input_estimate: int = 0,
        text_bytes: int = 0,
        body_bytes: int = 0,
        images: int = 0,
        counts_bytes: bool = False,
        asked: Asked = NOTHING_ASKED,
    ) -> None:
        self.model = model
        self.stream = stream
        self.choices = choices
        self.output_tokens_max = output_tokens_max
        self.input_estimate = input_estimate
        self.text_bytes = text_bytes
        self.images = images
        self.counts_bytes = counts_bytes
        self.body_bytes = body_bytes
        self.asked = asked

    def with_asked(self, asked: Asked) -> "RequestFacts":
        """Return the same facts of a body out of which something costly was taken."""
        return RequestFacts(
            self.model,
            stream=self.stream,
            choices=self.choices,
            output_tokens_max=self.output_tokens_max,
            input_estimate=self.input_estimate,
            text_bytes=self.text_bytes,
            body_bytes=self.body_bytes,
            images=self.images,
            counts_bytes=self.counts_bytes,
            asked=asked,
        )


class Rights:
    """Who asks, and what its key may have for a model: all that a snapshot fixes.

    Each is None as long as nobody has found it. `tariff`: what the call is charged by. `channels`:
    all that serve the model in the client's dialect, lowest tier first. `foreign`: those of other
    dialects, which are asked by translation where none of `channels` is well. `note`: the header
    line that names the line.
    """

    __slots__ = ("account", "channels", "foreign", "group", "key", "line", "note", "tariff")

    def __init__(  # noqa: PLR0913 - a field a line
        self,
        key: Key | None = None,
        account: Account | None = None,
        group: Group | None = None,
        line: Line | None = None,
        tariff: Tariff | None = None,
        channels: tuple[Channel, ...] = (),
        foreign: tuple[Channel, ...] = (),
    ) -> None:
        self.key = key
        self.account = account
        self.group = group
        self.line = line
        self.tariff = tariff
        self.channels = channels
        self.foreign = foreign
        # A header can show no more than ASCII: other names are said as URLs say them.
        self.note = b"x-relay-line: %s\r\n" % quote(line.name, " ").encode() if line else b""


def unread_head(dialect: Dialect, endpoint: Endpoint = Endpoint.CHAT) -> RequestHead:
    """Return what is known of a head that nobody has read further: in what to tell its errors."""
    return RequestHead(endpoint, None, "", "", dialect, "", b"")


UNREAD: Final = unread_head(DEFAULT_DIALECT)
NO_FACTS: Final = RequestFacts("")
NO_RIGHTS: Final = Rights()
