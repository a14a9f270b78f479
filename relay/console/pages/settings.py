"""Settings: one's own password, second factor, sessions, identities; an owner's users, webhook."""

import os
from typing import Any, Final, cast

from relay.console.account_api import people
from relay.console.account_api.people import AccountRole
from relay.console.pages.entrances import open_totp
from relay.console.routes import ID, Ask, Page, Redirect, Shown
from relay.console.signin import audit, identities, passwords, sessions, totp, users
from relay.console.signin.actor import Permit
from relay.console.signin.users import User
from relay.console.views import Notice, SettingsView
from relay.errors import BadRequest, Forbidden, NotFound
from relay.model import Secret
from relay.store.postgres import Connection
from relay.store.secrets.vault import totp_owner, webhook_owner
from relay.units import format_usd

AUDIT_SHOWN: Final = 50
ISSUER_CHARS_MAX: Final = 2_000
ROLES: Final = ("owner", "member", "viewer")


async def _show(ask: Ask, *, invited_url: str = "", notice: Notice | None = None) -> Shown:
    async with ask.services.connect() as connection:
        view = await _draw(ask, connection, invited_url)
    return Shown(view, notice=notice)


async def _draw(ask: Ask, connection: Connection, invited_url: str) -> SettingsView:
    actor = ask.actor
    user = await _own_user(ask, connection)
    manages = actor.may(Permit.PEOPLE)
    offered = b"" if user.totp_sealed is not None else os.urandom(totp.SECRET_BYTES)
    account_id = actor.account_id
    webhook_url, alert = "", None
    if account_id is not None:
        webhook_url, alert = await _read_contacts(ask, connection, account_id)
    return SettingsView(
        totp=user.totp_sealed is not None,
        totp_secret=totp.to_base32(offered) if offered else "",
        totp_url=totp.link_of(offered, user.email) if offered else "",
        sessions=await sessions.list_sessions(connection, user.id, actor.session),
        identities=await identities.list_identities(connection, user.id),
        has_password=user.password is not None,
        users=await users.list_users(connection, account_id=account_id) if manages else [],
        invited_url=invited_url,
        audit=await audit.list_acts(
            connection, account_id=account_id, before=None, limit=AUDIT_SHOWN
        )
        if manages
        else [],
        password_chars_min=passwords.CHARS_MIN,
        webhook_url=webhook_url if manages else "",
        low_balance_alert_usd=None if alert is None else format_usd(alert),
    )


async def _read_contacts(
    ask: Ask, connection: Connection, account_id: int
) -> tuple[str, int | None]:
    """Return an account's webhook and the balance below which it is told, nano-USD."""
    sealed: bytes | None = await connection.fetchval(
        "SELECT webhook_sealed FROM account_contacts WHERE account_id = $1", account_id
    )
    webhook = ask.services.vault.open(sealed or b"", webhook_owner(account_id))
    alert: int | None = await connection.fetchval(
        "SELECT low_balance_nanos FROM accounts WHERE id = $1", account_id
    )
    return "" if webhook is None else webhook.reveal(), alert


async def _own_user(ask: Ask, connection: Connection) -> User:
    user_id = ask.actor.user_id
    assert user_id is not None, "only a session comes here"
    return await users.find_in_account(connection, user_id, ask.actor.account_id)


async def _show_settings(ask: Ask) -> Shown:
    return await _show(ask)


async def _prove(ask: Ask, field: str) -> User:
    """Return the user, who gave the present password once more.

    Raises:
        Forbidden: CLIENT; it is wrong.
    """
    async with ask.services.connect() as connection:
        user = await _own_user(ask, connection)
    ask.services.throttle.admit(user.email, ask.ip)
    if not await ask.services.passwords.check(user.password, ask.form.get(field, "")):
        raise Forbidden("the password is wrong")
    ask.services.throttle.forgive(user.email, ask.ip)
    return user


async def _set_password(ask: Ask) -> Redirect:
    user = await _prove(ask, "current")
    kept = await ask.services.passwords.make(ask.form.get("password", ""))
    agent = ask.request.headers.get("User-Agent", "")
    async with ask.services.connect() as connection, connection.transaction():
        await users.set_password(connection, user.id, kept)
        token = await sessions.open_session(
            connection, ask.services.pepper, user, ip=ask.ip, agent=agent
        )
        await audit.note(connection, ask.actor, "user.password", user.email)
    text = "The password is changed; everybody else was signed out."
    return Redirect("/settings", Notice(kind="good", text=text), session=token)


async def _set_totp(ask: Ask) -> Redirect:
    secret = totp.from_base32(ask.text("secret"))
    now_s = ask.services.now().timestamp()
    step = totp.find_step(secret, ask.text("code"), now_s, 0)
    if len(secret) != totp.SECRET_BYTES or step is None:
        raise BadRequest("that is not the code of this secret: try again with a new one")
    async with ask.services.connect() as connection, connection.transaction():
        user = await _own_user(ask, connection)
        sealed = ask.services.vault.seal(Secret(totp.to_base32(secret)), totp_owner(user.id))
        await users.set_totp(connection, user.id, sealed, step)
        await audit.note(connection, ask.actor, "user.totp", user.email, "on")
    return Redirect("/settings", Notice(kind="good", text="A code is asked for from now on."))


async def _drop_totp(ask: Ask) -> Redirect:
    user = await _prove(ask, "password")
    secret, now_s = open_totp(ask.services.vault, user), ask.services.now().timestamp()
    if secret and totp.find_step(secret, ask.text("code"), now_s, user.totp_step) is None:
        raise Forbidden("the code is wrong")
    async with ask.services.connect() as connection, connection.transaction():
        await users.set_totp(connection, user.id, None, 0)
        await audit.note(connection, ask.actor, "user.totp", user.email, "off")
    return Redirect("/settings", Notice(kind="good", text="No code is asked for any more."))


async def _end_sessions(ask: Ask) -> Redirect:
    wanted = ask.text("id")
    user_id = ask.actor.user_id
    assert user_id is not None
    async with ask.services.connect() as connection, connection.transaction():
        if wanted == "others":
            await sessions.end_others(connection, user_id, ask.actor.session)
        elif wanted.isascii() and wanted.isdecimal() and len(wanted) < 19:
            await sessions.end_one(connection, user_id, int(wanted))
        else:
            raise BadRequest("id: a number, or others", param="id")
        await audit.note(connection, ask.actor, "session.end", wanted)
    return Redirect("/settings", Notice(kind="good", text="Signed out there."))


async def _unlink(ask: Ask) -> Redirect:
    issuer = ask.text("issuer", ISSUER_CHARS_MAX)
    async with ask.services.connect() as connection:
        user = await _own_user(ask, connection)
    if user.password is not None:
        await _prove(ask, "password")
    async with ask.services.connect() as connection, connection.transaction():
        if not await identities.unlink(connection, user.id, issuer):
            raise NotFound("you are nobody there")
        await audit.note(connection, ask.actor, "user.unlink", user.email, issuer)
    text = "Unlinked: the next sign-in there, under your address, links anew."
    return Redirect("/settings", Notice(kind="good", text=text))


def parse_role(text: str) -> AccountRole:
    """Return a role of an account.

    Raises:
        BadRequest: CLIENT; there is no such role.
    """
    if text not in ROLES:
        raise BadRequest("role: owner, member or viewer", param="role")
    return cast(AccountRole, text)


async def _invite(ask: Ask) -> Shown:
    guest = await people.invite(ask, ask.text("email"), parse_role(ask.text("role")))
    return await _show(ask, invited_url=guest.url)


async def _set_role(ask: Ask) -> Redirect:
    user = await people.set_role(ask, ask.number("id"), parse_role(ask.text("role")))
    return Redirect("/settings", Notice(kind="good", text=f"{user.email} is {user.role} now."))


async def _disable(ask: Ask) -> Redirect:
    user = await people.switch(ask, ask.number("id"), disabled=True)
    text = f"{user.email} was signed out and cannot come back."
    return Redirect("/settings", Notice(kind="good", text=text))


async def _enable(ask: Ask) -> Redirect:
    user = await people.switch(ask, ask.number("id"), disabled=False)
    return Redirect("/settings", Notice(kind="good", text=f"{user.email} may sign in again."))


async def _set_webhook(ask: Ask) -> Redirect:
    await people.set_webhook(ask, ask.text("url", people.URL_CHARS_MAX))
    return Redirect("/settings", Notice(kind="good", text="The webhook is set."))


def _post(path: str, permit: Permit, work: Any) -> Page:
    return Page(method="POST", path=f"/settings/{path}", permit=permit, work=work)


SELF_PAGES: Final = (
    Page(method="GET", path="/settings", permit=Permit.SELF, work=_show_settings),
    _post("password", Permit.SELF, _set_password),
    _post("totp", Permit.SELF, _set_totp),
    _post("totp/off", Permit.SELF, _drop_totp),
    _post("sessions/end", Permit.SELF, _end_sessions),
    _post("identities/unlink", Permit.SELF, _unlink),
)
"""Of both sides."""

PAGES: Final = (
    *SELF_PAGES,
    _post("users", Permit.PEOPLE, _invite),
    _post(f"users/{ID}/role", Permit.PEOPLE, _set_role),
    _post(f"users/{ID}/disable", Permit.PEOPLE, _disable),
    _post(f"users/{ID}/enable", Permit.PEOPLE, _enable),
    _post("webhook", Permit.PEOPLE, _set_webhook),
)
