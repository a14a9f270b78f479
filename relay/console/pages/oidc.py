"""Signing in at an identity provider: out to it, and back with who it says one is.

Nobody is made a user by it: it lets in whom an account or the operator has invited, under the
e-mail address that the provider has verified, and from then on under the identity it was.
"""

from typing import Final

from aiohttp import web

from relay.console.oidc import OidcClient, is_this_provider
from relay.console.pages.entrances import ask_for_code, enter
from relay.console.routes import Ask, Page, Redirect, Shown
from relay.console.signin import identities, journey, tokens, users
from relay.console.signin.actor import Permit
from relay.console.signin.users import User
from relay.console.views import LoginView, Notice
from relay.errors import NotFound, Unauthenticated

COOKIE: Final = "relay_oidc"
CODE_CHARS_MAX: Final = 4_096
_STALE: Final = "That sign-in was begun elsewhere, or too long ago: sign in anew."
_UNKNOWN: Final = "Nobody here has your e-mail address: ask an owner of your account to invite you."
_OTHER: Final = "This address belonged to another identity before: ask the operator for a link."


async def _start(ask: Ask) -> web.Response:
    client = _client_of(ask)
    now_s = ask.services.now().timestamp()
    begun = journey.begin(ask.side, ask.request.query.get("next", ""), now_s)
    address = await client.start(
        state=begun.state, nonce=begun.nonce, verifier=begun.verifier, back_url=_back_url(ask)
    )
    answer = web.Response(status=303, headers={"Location": address})
    answer.set_cookie(
        COOKIE,
        journey.seal(ask.services.pepper, begun),
        path="/oidc",
        max_age=journey.LIFE_S,
        httponly=True,
        samesite="Lax",
        secure=_back_url(ask).startswith("https://"),
    )
    return answer


async def _finish(ask: Ask) -> Redirect | Shown:
    """Let in who comes back; a failure is told where one signs in."""
    client = _client_of(ask)
    try:
        user, following = await _find_user(ask, client)
    except Unauthenticated as error:
        view = LoginView(sso=client.config.name)
        return Shown(view, notice=Notice(kind="bad", text=error.message), status=error.status)
    if user.totp_sealed is not None:
        return ask_for_code(ask, user, following)
    return await enter(ask, user, following or "/", "session.oidc")


async def _find_user(ask: Ask, client: OidcClient) -> tuple[User, str]:
    """Return who came back, and where to.

    Raises:
        Unauthenticated: CLIENT; it is nobody who may come in.
    """
    query = ask.request.query
    sealed = ask.request.cookies.get(COOKIE, "")[: journey.CHARS_MAX]
    now_s = ask.services.now().timestamp()
    begun = journey.open_journey(ask.services.pepper, sealed, ask.side, now_s)
    if begun is None or not tokens.is_same(query.get("state", ""), begun.state):
        raise Unauthenticated(_STALE)
    code = query.get("code", "")
    if not is_this_provider(query.get("iss"), client.config) or not 0 < len(code) <= CODE_CHARS_MAX:
        raise Unauthenticated("The identity provider did not sign you in.")
    ask.services.throttle.admit(f"oidc of {ask.ip}", ask.ip)
    person = await client.redeem(
        code, nonce=begun.nonce, verifier=begun.verifier, back_url=_back_url(ask)
    )
    async with ask.services.connect() as connection, connection.transaction():
        user = await users.find_user(connection, person.email, ask.side)
        if user is None or user.disabled:
            raise Unauthenticated(_UNKNOWN)
        issuer = client.config.issuer
        if not await identities.is_same_person(connection, user.id, issuer, person.subject):
            raise Unauthenticated(_OTHER)
    ask.services.throttle.forgive(f"oidc of {ask.ip}", ask.ip)
    return user, begun.following


def _client_of(ask: Ask) -> OidcClient:
    client = ask.services.oidc_of(ask.side)
    if client is None:
        raise NotFound("there is no identity provider here")
    return client


def _back_url(ask: Ask) -> str:
    return f"{ask.services.address(ask.side)}/oidc/callback"


PAGES: Final = (
    Page(method="GET", path="/oidc/start", permit=Permit.PUBLIC, work=_start),
    Page(method="GET", path="/oidc/callback", permit=Permit.PUBLIC, work=_finish, tries=True),
)
