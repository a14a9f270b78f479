"""How people come in and go out: the same on both sides."""

from typing import Final

from relay.console.routes import Ask, Page, Redirect, Shown
from relay.console.signin import audit, half, identities, links, passwords, sessions, totp, users
from relay.console.signin.actor import Actor, Permit
from relay.console.signin.users import User
from relay.console.views import InvitationView, LinkView, LoginView, Notice
from relay.errors import NotFound
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault, totp_owner

CODE_LENGTH_MAX: Final = 16
_WRONG: Final = Notice(kind="bad", text="E-mail, password or code is wrong.")
_GONE: Final = "This link was used, is too old, or never was one. Ask for a new one."


async def _show_login(ask: Ask) -> Shown | Redirect:
    following = ask.request.query.get("next", "")[:1_000]
    if ask.found is not None:
        return Redirect(following or "/")
    return Shown(LoginView(next=following, sso=_sso(ask)))


async def _login(ask: Ask) -> Shown | Redirect:
    following = ask.text("next", 1_000)
    proof = ask.text("half")
    user = await (_find_half(ask, proof) if proof else _find_by_password(ask))
    if user is None:
        return _refuse(ask, following)
    if user.totp_sealed is not None:
        code = ask.text("code")[:CODE_LENGTH_MAX]
        asked = ask_for_code(ask, user, following)
        if not code:
            return asked
        ask.services.throttle.admit(f"code of {user.id}", ask.ip)
        if not await _take_code(ask, user, code):
            return Shown(asked.view, notice=_WRONG, status=401)
        ask.services.throttle.forgive(f"code of {user.id}", ask.ip)
    return await enter(ask, user, following or "/", "session.open")


def ask_for_code(ask: Ask, user: User, following: str) -> Shown:
    """Ask a user who is known for the second factor, too."""
    proof = half.seal(ask.services.pepper, user.id, ask.services.now().timestamp())
    return Shown(LoginView(email=user.email, next=following, wants_code=True, half=proof))


def _sso(ask: Ask) -> str:
    client = ask.services.oidc_of(ask.side)
    return "" if client is None else client.config.name


def _refuse(ask: Ask, following: str) -> Shown:
    view = LoginView(email=ask.text("email"), next=following, sso=_sso(ask))
    return Shown(view, notice=_WRONG, status=401)


async def _find_by_password(ask: Ask) -> User | None:
    """Return whose e-mail and password these are; a stranger waits as long as anybody."""
    email, password = ask.text("email").lower(), ask.form.get("password", "")
    ask.services.passwords.look(known=ask.services.throttle.knows(ask.ip))
    ask.services.throttle.admit(email, ask.ip)
    async with ask.services.connect() as connection:
        user = await users.find_user(connection, email, ask.side)
    good = await ask.services.passwords.check(None if user is None else user.password, password)
    if user is None or not good or user.disabled:
        return None
    ask.services.throttle.forgive(email, ask.ip)
    return user


async def _find_half(ask: Ask, proof: str) -> User | None:
    user_id = half.open_half(ask.services.pepper, proof, ask.services.now().timestamp())
    if user_id is None:
        return None
    async with ask.services.connect() as connection:
        known = await users.find_by_id(connection, user_id)
        user = await users.find_user(connection, known.email, ask.side)
    return user if user is not None and user.id == user_id and not user.disabled else None


async def _take_code(ask: Ask, user: User, code: str) -> bool:
    secret = open_totp(ask.services.vault, user)
    step = totp.find_step(secret, code, ask.services.now().timestamp(), user.totp_step)
    if not secret or step is None:
        return False
    async with ask.services.connect() as connection:
        return await users.use_step(connection, user.id, step)


def open_totp(vault: Vault, user: User) -> bytes:
    """Return a user's second factor, b"" where there is none or it cannot be read."""
    found = vault.open(user.totp_sealed or b"", totp_owner(user.id))
    return totp.from_base32(found.reveal()) if found is not None else b""


async def enter(ask: Ask, user: User, following: str, act: str) -> Redirect:
    """Sign a user in, and note how."""
    async with ask.services.connect() as connection, connection.transaction():
        token = await _open(connection, ask, user, act)
    return Redirect(following, session=token)


async def _open(connection: Connection, ask: Ask, user: User, act: str) -> str:
    """Open a session in a transaction of the caller's, and note it."""
    agent = ask.request.headers.get("User-Agent", "")
    printable = "".join(one for one in agent if one.isprintable())
    actor = Actor(
        label=user.email,
        role=user.role,
        user_id=user.id,
        account_id=user.account_id,
        account=user.account,
        ip=ask.ip,
    )
    await audit.note(connection, actor, act, user.email)
    return await sessions.open_session(
        connection, ask.services.pepper, user, ip=ask.ip, agent=printable
    )


async def _logout(ask: Ask) -> Redirect:
    async with ask.services.connect() as connection, connection.transaction():
        await sessions.end_session(connection, ask.actor.session)
        await audit.note(connection, ask.actor, "session.end", ask.actor.email)
    return Redirect("/login", Notice(kind="good", text="You are signed out."), session="")


async def _find(ask: Ask, *kinds: links.Kind) -> tuple[User, links.Kind]:
    ask.services.throttle.admit(f"links of {ask.ip}", ask.ip)
    async with ask.services.connect() as connection:
        found = await links.find_link(
            connection, ask.services.pepper, ask.part("token"), ask.side, kinds
        )
    if found is None:
        raise NotFound(_GONE)
    ask.services.throttle.forgive(f"links of {ask.ip}", ask.ip)
    return found


async def _show_invitation(ask: Ask) -> InvitationView:
    user, kind = await _find(ask, "invite", "reset")
    return InvitationView(
        email=user.email,
        account=user.account,
        role=user.role,
        is_reset=kind == "reset",
        password_chars_min=passwords.CHARS_MIN,
    )


async def _accept(ask: Ask) -> Redirect:
    user, kind = await _find(ask, "invite", "reset")
    kept = await ask.services.passwords.make(ask.form.get("password", ""))
    async with ask.services.connect() as connection, connection.transaction():
        if not await links.use_link(connection, ask.services.pepper, ask.part("token")):
            raise NotFound(_GONE)
        await users.set_password(connection, user.id, kept)
        if kind == "reset":
            # Who lost the password may have lost the authenticator: the operator vouched for them.
            await users.set_totp(connection, user.id, None, 0)
            await identities.forget_identities(connection, user.id)
        token = await _open(connection, ask, user, f"user.{kind}")
    return Redirect("/", session=token)


async def _show_link(ask: Ask) -> LinkView:
    user, _ = await _find(ask, "login")
    return LinkView(email=user.email, account=user.account)


async def _use_link(ask: Ask) -> Redirect:
    user, _ = await _find(ask, "login")
    async with ask.services.connect() as connection, connection.transaction():
        if not await links.use_link(connection, ask.services.pepper, ask.part("token")):
            raise NotFound(_GONE)
        token = await _open(connection, ask, user, "user.link")
    return Redirect("/", session=token)


PAGES: Final = (
    Page(method="GET", path="/login", permit=Permit.PUBLIC, work=_show_login),
    Page(method="POST", path="/login", permit=Permit.PUBLIC, work=_login, tries=True),
    Page(method="POST", path="/logout", permit=Permit.SELF, work=_logout),
    Page(
        method="GET",
        path="/invite/{token}",
        permit=Permit.PUBLIC,
        work=_show_invitation,
        tries=True,
    ),
    Page(method="POST", path="/invite/{token}", permit=Permit.PUBLIC, work=_accept, tries=True),
    Page(method="GET", path="/link/{token}", permit=Permit.PUBLIC, work=_show_link, tries=True),
    Page(method="POST", path="/link/{token}", permit=Permit.PUBLIC, work=_use_link, tries=True),
)
