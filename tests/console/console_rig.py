"""Both sides of the console in this process, on a real Postgres, and browsers that use them.

async with opening(database_url, tmp_path) as console:
    ann = await console.sign_in("ann@acme.example", "acme", "owner")
    status, body = await ann.get("/account/v1/keys")
"""

import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp

from relay.config import Billing, Config, Console, Database, Redis
from relay.console.routes import ID, Page, Route
from relay.console.rows import Role
from relay.console.services import Services
from relay.console.signin import links, users
from relay.console.signin.management import make_key
from relay.console.signin.users import Side
from relay.console.sites import account_side, operator_side
from relay.control.watch.notices import Notices
from relay.outside import Mail, Oidc
from relay.store import postgres
from relay.store.postgres import Connection
from tests.live.money_rig import SECRET, Mailbox, make_account
from tests.local_app import serve_app

PASSWORD = "correct horse battery"
TIMEOUT = aiohttp.ClientTimeout(total=20)


class Browser:
    """One that keeps cookies, and sends the csrf token of its session."""

    def __init__(self, base: str, session: aiohttp.ClientSession) -> None:
        self.base = base
        self.csrf = ""
        self.session = session

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> tuple[int, str, dict[str, str]]:
        async with self.session.request(
            method, self.base + path, headers=headers, allow_redirects=False, **fields
        ) as answer:
            return answer.status, await answer.text(), dict(answer.headers)

    async def page(self, path: str) -> str:
        """Return a page that must be there."""
        status, text, _ = await self.ask("GET", path)
        assert status == 200, (path, status, text)
        return text

    async def get(self, path: str, *, status: int = 200) -> Any:
        """Return the JSON of an answer that must have this status."""
        found, text, _ = await self.ask("GET", path)
        assert found == status, (path, found, text)
        return json.loads(text)

    async def call(
        self, method: str, path: str, body: Any = None, *, key: str = ""
    ) -> tuple[int, Any]:
        """Call the API by the session or by a key; return status and JSON."""
        headers = {"Authorization": f"Bearer {key}"} if key else {"x-csrf-token": self.csrf}
        found, text, _ = await self.ask(method, path, json=body, headers=headers)
        return found, json.loads(text)

    async def post(
        self, path: str, fields: dict[str, str] | None = None, **more: Any
    ) -> tuple[int, str, dict[str, str]]:
        """Send a form of a page."""
        return await self.ask("POST", path, data={"csrf": self.csrf, **(fields or {})}, **more)

    def cookie(self, name: str) -> str:
        """Return the value of a cookie it keeps."""
        return next(one.value for one in self.session.cookie_jar if one.key == name)

    async def read_csrf(self) -> None:
        found = re.search(r'name="csrf" value="(\w+)"', await self.page("/settings"))
        assert found is not None
        self.csrf = found[1]


class ConsoleRig:
    """Both sides, and what their tests need."""

    def __init__(self, services: Services, bases: dict[Side, str], connection: Connection) -> None:
        self.services = services
        self.connection = connection
        self.mailbox = Mailbox()
        self._bases = bases
        self._sessions: list[aiohttp.ClientSession] = []

    def browser(self, side: Side = "account") -> Browser:
        """Return a browser without a cookie."""
        headers = {"x-relay-peer": "203.0.113.9"} if side == "operator" else {}
        session = aiohttp.ClientSession(
            timeout=TIMEOUT, cookie_jar=aiohttp.CookieJar(unsafe=True), headers=headers
        )
        self._sessions.append(session)
        return Browser(self._bases[side], session)

    async def add_account(self, name: str, **fields: Any) -> int:
        return await make_account(self.connection, name, **fields)

    async def add_user(self, email: str, account: str | None, role: str) -> int:
        """Add a user with PASSWORD."""
        account_id = None if account is None else await self._account_id(account)
        user_id = await users.add_user(self.connection, email, cast(Role, role), account_id)
        kept = await self.services.passwords.make(PASSWORD)
        await users.set_password(self.connection, user_id, kept)
        return user_id

    async def sign_in(self, email: str, account: str | None, role: str) -> Browser:
        """Return a browser that is signed in by a link, its user made."""
        user_id = await self.add_user(email, account, role)
        path = await links.make_link(self.connection, self.services.pepper, user_id, "login")
        browser = self.browser("operator" if account is None else "account")
        status, text, _ = await browser.ask("POST", path)
        assert status == 303, text
        await browser.read_csrf()
        return browser

    async def management_key(self, account: str) -> str:
        account_id = await self._account_id(account)
        name = f"m{time.monotonic_ns()}"
        return (await make_key(self.connection, self.services.pepper, account_id, name)).key

    async def acts(self) -> list[tuple[str, str, str]]:
        """Return (actor, act, target) of the audit log, the oldest first."""
        rows = await self.connection.fetch("SELECT actor, act, target FROM audit_log ORDER BY id")
        return [(row["actor"], row["act"], row["target"]) for row in rows]

    async def _account_id(self, account: str) -> int:
        account_id: int = await self.connection.fetchval(
            "SELECT id FROM accounts WHERE name = $1", account
        )
        return account_id

    async def close(self) -> None:
        for session in self._sessions:
            await session.close()


def fill(path: Route | Page, id: int = 1) -> str:
    """Return a path with this id, and words, in its places."""
    text = path.path.replace(ID, str(id)).replace(r"{month:\d{4}-\d{2}}", "2026-11")
    return re.sub(r"\{\w+\}", "none", text)


@asynccontextmanager
async def opening(
    database_url: str,
    data_dir: Path,
    *,
    billing: Billing | None = None,
    public_prices: bool = False,
    mail: Mail | None = None,
    oidc: Oidc | None = None,
    redis_url: str = "",
) -> AsyncIterator[ConsoleRig]:
    """Serve both sides on free ports."""
    if billing is None:
        file = data_dir / "hook.secret"
        file.write_text(SECRET)
        billing = Billing(payment_secret=f"file:{file}", bonus={"100": "0.05"})
    config = Config(
        database=Database(url=database_url),
        redis=Redis(url=redis_url),
        billing=billing,
        console=Console(public_prices=public_prices, mail=mail or Mail(), oidc=oidc or Oidc()),
    )
    services = Services(config, data_dir)
    connection = await postgres.connect(database_url)
    bases = {}
    async with AsyncExitStack() as parts:
        parts.push_async_callback(connection.close)
        parts.push_async_callback(services.close)
        notices = Notices(None, time.monotonic)
        for side, server in (
            ("account", account_side(services, notices)),
            ("operator", operator_side(services)),
        ):
            port = await parts.enter_async_context(serve_app(server.application()))
            bases[cast(Side, side)] = f"http://127.0.0.1:{port}"
        rig = ConsoleRig(services, bases, connection)
        try:
            yield rig
        finally:
            await rig.close()
