"""What the console's handlers work with: the pool, the keys of digests, the renderer, the throttle.

The pool is small and every statement of it is bounded in time: a view that takes longer than a
person waits is cancelled by Postgres, and whoever wants more rows exports them over a connection of
their own.
"""

import asyncio
import contextlib
import datetime
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from relay.config import Config
from relay.console.checkout import StripeCheckout
from relay.console.mail import Mailer
from relay.console.queries.export import SESSION
from relay.console.render import Renderer, StaticFiles
from relay.console.signin.passwords import Passwords
from relay.console.signin.throttle import Throttle
from relay.console.signin.users import Side
from relay.control.api.stripe import resolve_stripe
from relay.errors import ConfigError, RateLimited, Unavailable
from relay.outside import find_missing
from relay.store import postgres
from relay.store.embedded.locate import database_url, redis_url
from relay.store.postgres import Connection, Pool
from relay.store.secrets import refs as secret_refs
from relay.store.secrets.vault import load_pepper, open_vault

if TYPE_CHECKING:
    from relay.console.oidc import OidcClient

CONNECTIONS_MAX: Final = 6
STATEMENT_S: Final = 8.0
ACQUIRE_S: Final = 10.0
EXPORTS_MAX: Final = 2
"""At once, of all accounts: an export is as fast as its reader, and takes a core where it may."""
EXPORT_S: Final = 1_800.0
IDLE_S: Final = 300.0


class Services:
    """Made once a process, in its loop."""

    def __init__(self, config: Config, data_dir: Path) -> None:
        self.config = config
        self.data_dir = data_dir
        self.pepper = load_pepper(config, data_dir, os.environ)
        self.vault = open_vault(config, data_dir, os.environ)
        self.static = StaticFiles()
        self.renderer = Renderer(self.static)
        self.passwords = Passwords()
        self.throttle = Throttle(time.monotonic)
        key, _ = resolve_stripe(config.billing)
        self.stripe = StripeCheckout(config.billing.stripe.api, key) if key.reveal() else None
        self.mailer = _open_mailer(config)
        self._oidc = _open_oidc(config)
        self._pool: Pool | None = None
        self._opening = asyncio.Lock()
        self._exports = asyncio.Semaphore(EXPORTS_MAX)

    @property
    def calls_url(self) -> str:
        """Return where models are called, for snippets."""
        public = self.config.console.relay_url
        return (public.rstrip("/") or f"http://{self.config.server.listen}") + "/v1"

    def address(self, side: Side) -> str:
        """Return where people reach a side of the console, for links."""
        server = self.config.server
        if side == "account":
            return self.config.console.url.rstrip("/") or f"http://{server.console}"
        return f"http://{server.admin}"

    def oidc_of(self, side: Side) -> "OidcClient | None":
        """Return the identity provider at which people of a side may sign in."""
        return self._oidc if self.config.console.oidc.sides in {side, "both"} else None

    def now(self) -> datetime.datetime:
        """Return this moment."""
        return datetime.datetime.now(datetime.UTC)

    def redis_url(self) -> str:
        """Return where the workers' gossip is."""
        return redis_url(self.config, self.data_dir)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Give a connection for as long as a view takes.

        Raises:
            DependencyDown: RELAY; Postgres does not answer, or not in time.
            Unavailable: RELAY; everybody looks at once.
        """
        with postgres.border():
            pool = self._pool or await self._open()
            try:
                async with asyncio.timeout(ACQUIRE_S):
                    connection = await pool.acquire()
            except TimeoutError:
                raise Unavailable("the console is busy: try again", retry_after_s=5) from None
            try:
                yield connection  # type: ignore[misc]  # a proxy of one
            finally:
                await pool.release(connection)

    @contextlib.asynccontextmanager
    async def connect_for_export(self) -> AsyncIterator[Connection]:
        """Give a connection of its own to an export, which may take as long as its reader does.

        Raises:
            RateLimited: CLIENT; others export at this moment.
            DependencyDown: RELAY; Postgres does not answer.
        """
        if self._exports.locked():
            raise RateLimited("other exports are running: try again", retry_after_s=10)
        async with self._exports:
            connection = await postgres.connect(
                database_url(self.config, self.data_dir), application="relay console export"
            )
            try:
                with postgres.border():
                    settings = {**SESSION, "statement_timeout": f"{EXPORT_S:.0f}s"}
                    for name, value in settings.items():
                        await connection.execute(f"SET {name} = '{value}'")
                    yield connection
            finally:
                connection.terminate()

    async def close(self) -> None:
        """Let go of everything."""
        self.passwords.close()
        if self._pool is not None:
            self._pool.terminate()

    async def _open(self) -> Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    database_url(self.config, self.data_dir),
                    min_size=0,
                    max_size=CONNECTIONS_MAX,
                    max_inactive_connection_lifetime=IDLE_S,
                    timeout=self.config.database.connect_s,
                    command_timeout=STATEMENT_S + 2,
                    server_settings={
                        "application_name": "relay console",
                        "statement_timeout": f"{STATEMENT_S:.0f}s",
                        "idle_in_transaction_session_timeout": "30s",
                        "timezone": "UTC",
                        # A page is short; compiling its statement would take longer than it.
                        "jit": "off",
                    },
                )
            return self._pool


def _open_oidc(config: Config) -> "OidcClient | None":
    """Return the client of an identity provider; its library is an extra of the package.

    Raises:
        ConfigError: RELAY; there is one, and the library is not there.
    """
    oidc = config.console.oidc
    if not oidc.issuer:
        return None
    if (missing := find_missing(oidc)) is not None:
        raise ConfigError(missing)
    from relay.console.oidc import OidcClient

    path = "console.oidc.client_secret"
    secret = secret_refs.resolve(oidc.client_secret, os.environ, path=path, optional=True)
    return OidcClient(oidc, secret)


def _open_mailer(config: Config) -> Mailer | None:
    mail = config.console.mail
    if not mail.host:
        return None
    path = "console.mail.password"
    password = secret_refs.resolve(mail.password, os.environ, path=path, optional=True)
    return Mailer(mail, password)
