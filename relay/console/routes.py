"""A path of the console as a value: what it asks for, what it answers, and who may call it.

Handlers, the role table's test and the OpenAPI document are all made of these.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from aiohttp import web

from relay.console.services import Services
from relay.console.signin.actor import Actor, Permit
from relay.console.signin.users import Side
from relay.console.views import Notice, View
from relay.errors import BadRequest, Unauthenticated

BODY_BYTES_MAX: Final = 64 * 1024
"""What a body or a form may have, unless its page says otherwise."""
REQUEST_ID: Final = web.RequestKey("request_id", str)
ACTOR: Final[web.RequestKey[Actor | None]] = web.RequestKey("actor", Actor)


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No parameters."""


@dataclass(frozen=True, slots=True)
class Redirect:
    """Go to a path of this side, and say there what happened."""

    path: str
    notice: Notice | None = None
    session: str | None = None
    """A token for the cookie; "" = forget the one there is."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A page, and what else there is to say about it."""

    view: View
    as_api: str = ""
    notice: Notice | None = None
    status: int = 200


@dataclass(slots=True)
class Ask:
    """One request, as far as it was understood."""

    request: web.Request
    services: Services
    side: Side
    ip: str
    found: Actor | None = None
    query: Any = None
    body: Any = None
    form: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What a form brings as files; one that was left out is not there."""

    @property
    def actor(self) -> Actor:
        """Who asks; of paths that ask for somebody."""
        if self.found is None:
            raise Unauthenticated("sign in first")
        return self.found

    def part(self, name: str) -> str:
        """Return a part of the path."""
        return self.request.match_info[name]

    def number(self, name: str) -> int:
        """Return a part of the path that is an id."""
        return int(self.request.match_info[name])

    def text(self, name: str, chars_max: int = 256) -> str:
        """Return a field of the form, "" if it is not there.

        Raises:
            BadRequest: CLIENT; it is longer than it may be.
        """
        text = self.form.get(name, "").strip()
        if len(text) > chars_max:
            raise BadRequest(f"{name}: at most {chars_max} characters", param=name)
        return text


Work = Callable[[Ask], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A path of an API: JSON in, JSON out."""

    method: str
    path: str
    """As aiohttp has it: /account/v1/keys/{id}; {id} is a number where `ids` says so."""
    permit: Permit
    work: Work
    summary: str
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    """The type of what is answered; None: the handler answers itself."""
    status: int = 200
    raw: tuple[str, ...] = ()
    """The content types of an answer that is no JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A path of the pages: a form in, HTML out."""

    method: str
    path: str
    permit: Permit
    work: Work
    form_bytes_max: int = BODY_BYTES_MAX
    """What its form may have, where who sends it is signed in."""
    tries: bool = False
    """Strangers try to come in by it: who tried too often is refused before it is read."""


ID: Final = r"{id:\d{1,18}}"
"""An id in a path; a longer number is none of ours."""
