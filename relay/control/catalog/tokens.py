"""Tokens of channels that have no key: minted, kept sealed, and renewed at half of their life.

    credential (sealed) --sign, ask--> token server --token--> channels.token_sealed --> snapshots

Workers never see what tokens are minted of. A refusal is told at once, and a server that does not
answer after a few tries: half of a token's life is left then, so calls go on meanwhile. Where a
server's clock is another one than ours, its Date says so, and the next statement goes by it.
"""

import asyncio
import datetime
import email.utils
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import aiohttp
import asyncpg
import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.clock import clock_s
from relay.control.looking import look_forever
from relay.control.watch.webhook import Notice
from relay.model import Secret
from relay.reach import MINTED, Reach
from relay.store.postgres import Connection
from relay.store.secrets.vault import Vault, channel_owner, token_owner
from relay.tasks import Bell
from relay.wire.kinds.oauth import (
    Account,
    Token,
    TokenRefused,
    form,
    parse_account,
    parse_token,
    signed,
    statement,
)

LOOK_S: Final = 10.0
"""Looked at sooner is what has changed, and whoever refused a token."""
BACKOFF_S_MAX: Final = 30.0
DEADLINE_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024
RETRY_S: Final = (2.0, 5.0, 15.0, 30.0, 60.0)
SILENT_TRIES: Final = 3
"""A server that did not answer so often in a row is told of; one that refuses at once."""
SKEW_S_MIN: Final = 30
"""Clocks that are closer than this need no correction."""
RENEW_S: Final = 1800
"""Before its end a token is renewed whose life nobody remembers: half of the usual hour."""

_DUE: Final = """
    SELECT id, name, api_key_sealed, reach, token_expires_at FROM channels
    WHERE deleted_at IS NULL AND reach ->> 'auth' = ANY ($1::text[]) ORDER BY id"""
_KEEP: Final = """
    UPDATE channels SET token_sealed = $2, token_expires_at = $3
    WHERE id = $1 AND deleted_at IS NULL"""

_log = logging.getLogger(__name__)


class TokenFailed(Notice, frozen=True, kw_only=True):
    """A channel's token cannot be renewed; calls over it fail once the one it has is over."""

    channel: str
    reason: str
    seconds_left: int


class _ServerIll(OSError):
    """A token server answered that it cannot: that is no judgement on the credential."""


class _Standing:
    """What is known of one channel's tokens."""

    def __init__(self) -> None:
        self.renew_s: float | None = None
        """When to ask again, on the monotonic clock: a token ages as it does though the time of
        day is set back."""
        self.failures = 0
        self.told = False
        self.skew_s = 0


class TokenMinter(Collector):
    """Mints the tokens of all channels, on a connection of its own.

    Args:
        connect: Returns a new connection to the catalog.
        vault: Opens credentials, seals tokens.
        send: Sends a notice to the operator; None = only log and metrics tell.
        clock_s: The monotonic clock.
        changed: Rings where the catalog has changed, and here where it is time to try again.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        vault: Vault,
        send: Callable[[Notice], None] | None,
        clock_s: Callable[[], float] = clock_s,
        changed: Bell | None = None,
    ) -> None:
        self._connect = connect
        self._changed = Bell() if changed is None else changed
        self._clock_s = clock_s
        self._vault = vault
        self._send = send
        self._standings: dict[int, _Standing] = {}
        self._left_s: dict[str, float] = {}
        self._failures = 0

    async def run(self) -> None:
        """Mint for ever, whatever happens to Postgres meanwhile."""

        async def look(connection: Connection) -> None:
            await self.look(connection, datetime.datetime.now(datetime.UTC))

        await look_forever(
            self._connect,
            look,
            name="token minter",
            every_s=LOOK_S,
            most_s=BACKOFF_S_MAX,
            changed=self._changed,
        )

    def collect(self) -> Iterator[Metric]:
        """Return how long each channel's token is good, and how often one was not renewed."""
        left = GaugeMetricFamily(
            "relay_channel_token_seconds_left",
            "How long a channel's token is good; below 0 it is over.",
            labels=("channel",),
        )
        for channel, seconds in sorted(self._left_s.items()):
            left.add_metric((channel,), seconds)
        yield left
        yield CounterMetricFamily(
            "relay_token_failures", "Tokens that were not renewed.", value=self._failures
        )

    async def look(self, connection: Connection, now: datetime.datetime) -> None:
        """Renew what is due at `now` (aware)."""
        rows = await connection.fetch(_DUE, [auth.value for auth in MINTED])
        self._standings = {row["id"]: self._standings.get(row["id"]) or _Standing() for row in rows}
        self._left_s = {
            row["name"]: (row["token_expires_at"] - now).total_seconds()
            for row in rows
            if row["token_expires_at"] is not None
        }
        due = [row for row in rows if self._is_due(row, now)]
        for row, token in zip(
            due, await asyncio.gather(*(self._mint(row, now) for row in due)), strict=True
        ):
            if token is not None:
                await self._keep(connection, row, token, now)

    def _is_due(self, row: asyncpg.Record, now: datetime.datetime) -> bool:
        standing, expires_at = self._standings[row["id"]], row["token_expires_at"]
        if standing.failures and standing.renew_s is not None:
            return self._clock_s() >= standing.renew_s
        if expires_at is None:
            return True
        if standing.renew_s is not None:
            return self._clock_s() >= standing.renew_s
        return bool(now >= expires_at - datetime.timedelta(seconds=RENEW_S))

    async def _mint(self, row: asyncpg.Record, now: datetime.datetime) -> Token | None:
        """Return a new token; None where there is none, which is told then."""
        standing = self._standings[row["id"]]
        reach = msgspec.json.decode(row["reach"], type=Reach)
        document = self._vault.open(row["api_key_sealed"], channel_owner(row["name"]))
        refused = True
        try:
            account = parse_account(reach.auth, "" if document is None else document.reveal())
            return await _ask(account, now, standing)
        except TokenRefused as error:
            reason = str(error)
        except ValueError as error:
            reason = f"the credential: {error}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            refused, reason = False, f"no answer ({type(error).__name__})"
        self._failures += 1
        standing.failures += 1
        wait_s = RETRY_S[min(standing.failures, len(RETRY_S)) - 1]
        standing.renew_s = self._clock_s() + wait_s
        asyncio.get_running_loop().call_later(wait_s, self._changed.ring)
        if not standing.told and (refused or standing.failures >= SILENT_TRIES):
            standing.told = True
            self._tell(row, reason, now)
        return None

    async def _keep(
        self, connection: Connection, row: asyncpg.Record, token: Token, now: datetime.datetime
    ) -> None:
        standing = self._standings[row["id"]]
        expires_at = now + datetime.timedelta(seconds=token.life_s)
        sealed = self._vault.seal(Secret(token.value), token_owner(row["name"]))
        await connection.execute(_KEEP, row["id"], sealed, expires_at)
        if standing.told:
            _log.warning("a channel's token is renewed again", extra={"channel": row["name"]})
            self._notify("token_failed_over", row["name"], "", token.life_s, now)
        standing.failures, standing.told = 0, False
        standing.renew_s = self._clock_s() + token.life_s / 2
        self._left_s[row["name"]] = float(token.life_s)

    def _tell(self, row: asyncpg.Record, reason: str, now: datetime.datetime) -> None:
        expires_at = row["token_expires_at"]
        left_s = 0 if expires_at is None else max(0, int((expires_at - now).total_seconds()))
        _log.error(
            "a channel's token cannot be renewed",
            extra={"channel": row["name"], "error": reason, "seconds_left": left_s},
        )
        self._notify("token_failed", row["name"], reason, left_s, now)

    def _notify(
        self, event: str, channel: str, reason: str, left_s: int, now: datetime.datetime
    ) -> None:
        if self._send is not None:
            self._send(
                TokenFailed(
                    event=event,
                    time=now.isoformat(timespec="milliseconds"),
                    channel=channel,
                    reason=reason,
                    seconds_left=left_s,
                )
            )


async def _ask(account: Account, now: datetime.datetime, standing: _Standing) -> Token:
    """Ask for a token; once more where the server's clock turns out to be another one.

    Raises:
        TokenRefused: It gives none.
        ValueError: The account's key is none.
        aiohttp.ClientError, OSError, TimeoutError: It does not answer.
    """
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        status, body, skew_s = await _post(session, account, now, standing.skew_s)
        if status != 200 and account.private_key and abs(skew_s - standing.skew_s) > SKEW_S_MIN:
            standing.skew_s = skew_s
            status, body, _ = await _post(session, account, now, skew_s)
    if status >= 500:
        raise _ServerIll
    return parse_token(status, body)


async def _post(
    session: aiohttp.ClientSession, account: Account, now: datetime.datetime, skew_s: int
) -> tuple[int, bytes, int]:
    """Return status and body of an answer, and how far its server's clock is ahead of ours."""
    fields = form(account, _assertion(account, int(now.timestamp()) + skew_s))
    async with session.post(account.tokens_url, data=fields, allow_redirects=False) as answer:
        body = await answer.content.read(ANSWER_BYTES_MAX)
        ahead_s = skew_s
        try:
            date = email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
        except ValueError:
            pass
        else:
            ahead_s = int((date - now).total_seconds())
        return answer.status, body, ahead_s


def _assertion(account: Account, now_s: int) -> bytes:
    """Return a service account's signed statement; b"" where it has no key to sign with.

    Raises:
        ValueError: The key is none, or what signs is not installed.
    """
    if not account.private_key:
        return b""
    said = statement(account, now_s)
    return signed(said, _sign(account.private_key, said))


def _sign(private_key: str, said: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
    except ImportError:
        raise ValueError("signing needs the package cryptography: relay[google]") from None
    try:
        key: Any = serialization.load_pem_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("private_key: not a key in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("private_key: not an RSA key")
    return key.sign(said, padding.PKCS1v15(), hashes.SHA256())
