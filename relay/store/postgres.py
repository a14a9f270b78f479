"""Connections to Postgres, and the border where its failures become ours.

asyncpg quotes rows and logins in its messages; none of that gets into ours, it stays in the cause.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from relay.errors import ConfigError, DependencyDown

CONNECT_S: Final = 5.0
STATEMENT_S: Final = 30.0
"""What one statement may take before the server cancels it. No request waits for Postgres."""
ANSWER_S: Final = STATEMENT_S + 5.0
"""What we wait for a server that does not even cancel."""
IDLE_IN_TRANSACTION_S: Final = 60.0
"""A transaction that we forgot must not hold back vacuum for long."""
IDLE_CONNECTION_S: Final = 300.0

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
else:  # asyncpg's classes are generic in its stubs only.
    Connection = asyncpg.Connection
    Pool = asyncpg.Pool

DOWN: Final = (
    OSError,  # Refused, reset, no such socket, TLS; TimeoutError is one of them.
    asyncpg.PostgresConnectionError,  # 08: broke off.
    asyncpg.InsufficientResourcesError,  # 53: out of connections, memory or disk.
    asyncpg.OperatorInterventionError,  # 57: starting, shutting down, or timed out by the server.
    asyncpg.ReadOnlySQLTransactionError,  # 25006: a standby took over the address.
    asyncpg.InternalClientError,  # Used between the server's farewell and the end of the stream.
)
_REFUSED: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,  # 28: user or password.
    asyncpg.InvalidCatalogNameError,  # 3D: no such database.
    asyncpg.ClientConfigurationError,  # Not a URL that asyncpg understands.
)


@contextmanager
def border() -> Iterator[None]:
    """Raise our errors for those of asyncpg that say something about the server, not the query.

    A failed constraint or a mistake in a statement passes as it is: the caller knows about it.

    Raises:
        DependencyDown: Postgres cannot be reached, broke off, is overloaded or too slow.
        ConfigError: Postgres refused the login, or the URL is not one.
    """
    try:
        yield
    except _REFUSED as error:
        raise ConfigError(
            f"Postgres refused [database] url ({type(error).__name__}): "
            "check its user, password and database"
        ) from error
    except DOWN as error:
        raise DependencyDown(f"Postgres does not answer ({type(error).__name__})") from error
    except asyncpg.InterfaceError as error:
        # Using a closed connection has no class of its own; the rest of these are our mistakes.
        if "clos" not in str(error):
            raise
        raise DependencyDown("the connection to Postgres is closed") from error


async def connect(
    url: str, *, application: str = "relay", connect_s: float = CONNECT_S
) -> Connection:
    """Return a connection of one's own; the caller closes it.

    Args:
        url: `postgresql://...`, or one of `relay.store.embedded.locate`.
        application: What pg_stat_activity calls it.
        connect_s: Seconds for connecting and logging in.

    Raises:
        DependencyDown: Postgres cannot be reached.
        ConfigError: Postgres refused the login, or the URL is not one.
    """
    with border():
        return await asyncpg.connect(
            url,
            timeout=connect_s,
            command_timeout=ANSWER_S,
            server_settings=_session(application),
        )


def hang_up(connection: Connection) -> None:
    """Drop a connection without a word: a polite end could wait for a peer that is gone."""
    connection.terminate()


async def open_pool(
    url: str,
    *,
    connections_max: int,
    application: str = "relay",
    connect_s: float = CONNECT_S,
) -> Pool:
    """Return a pool whose first connection stands; the others are made when needed.

    Args:
        url: As for `connect`.
        connections_max: Bound of the pool; the embedded server has 100 for everybody.
        application: What pg_stat_activity calls it.
        connect_s: Seconds for connecting and logging in.

    Raises:
        DependencyDown: Postgres cannot be reached.
        ConfigError: Postgres refused the login, or the URL is not one.
    """
    with border():
        return await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=connections_max,
            max_inactive_connection_lifetime=IDLE_CONNECTION_S,
            timeout=connect_s,
            command_timeout=ANSWER_S,
            server_settings=_session(application),
        )


def _session(application: str) -> dict[str, str]:
    return {
        "application_name": application,
        "statement_timeout": f"{STATEMENT_S:.0f}s",
        "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S:.0f}s",
        "timezone": "UTC",
    }
