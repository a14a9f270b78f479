"""Tells an account itself, by the webhook it gave, of what its operator is told as well.

    new address of a key, low balance or budget, stuck order -> POST to the account's own URL
    balance or order well again -> the same with "_over" behind the event

Each is told once, whoever of many hosts finds it first: a row of account_told is the claim. The URL
is a stranger's word: it is asked over TLS only, never at an address that is not public, and no
redirect is followed; so it cannot be used to reach what only this host reaches.
"""

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import asyncpg
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from relay.clock import until_beat_s
from relay.console.queries.forms import format_moment
from relay.console.services import Services
from relay.errors import RelayError
from relay.store.secrets.vault import webhook_owner
from relay.units import format_usd

LOOK_S: Final = 5.0
DEADLINE_S: Final = 5.0
PAUSES_S: Final = (0.0, 1.0, 4.0)
TOLD_PER_LOOK: Final = 50

_CLAIM: Final = """
    WITH contacts AS (
        SELECT accounts.id AS account_id, coalesce(webhook_sealed, '') AS webhook_sealed
        FROM accounts LEFT JOIN account_contacts ON account_id = accounts.id
        WHERE accounts.deleted_at IS NULL AND ($2 OR coalesce(webhook_sealed, '') <> '')
    ), found AS (
        SELECT account_id, 'unfamiliar_ip' AS event,
            'key ' || keys.id || ' ' || host(ip) AS subject,
            json_build_object('key_id', keys.id, 'key_name', keys.name, 'address', host(ip)) AS told
        FROM contacts JOIN keys USING (account_id)
        JOIN key_addresses AS seen ON seen.key_id = keys.id
        -- By a host's clock, which may be behind; what was told once is not told again.
        WHERE first_seen > now() - interval '3 hours' AND EXISTS (
            SELECT FROM key_addresses AS older
            WHERE older.key_id = seen.key_id AND older.first_seen < seen.first_seen)
        UNION ALL
        SELECT account_id, 'low_balance', 'since ' || since, json_build_object(
            'balance_nanos', balance_nanos, 'threshold_nanos', low_balance_nanos)
        FROM contacts JOIN low_balances USING (account_id) JOIN balances USING (account_id)
        JOIN accounts ON accounts.id = account_id
        UNION ALL
        SELECT account_contacts.account_id, 'budget_low', budget_windows.name, json_build_object(
            'key_id', keys.id, 'key_name', keys.name, 'measure', measure, 'used', used,
            'budget', amount, 'begins_anew', ends_at)
        FROM budget_windows LEFT JOIN keys ON scope = 'key' AND keys.id = owner_id
        JOIN account_contacts
            ON account_contacts.account_id = coalesce(keys.account_id, owner_id)
        WHERE told_at IS NOT NULL AND ends_at > now()
        UNION ALL
        SELECT account_id, 'order_stuck', order_no, json_build_object('order', order_no)
        FROM contacts JOIN orders USING (account_id)
        WHERE status = 'pending' AND closed_at IS NULL AND orders.created_at
            BETWEEN now() - interval '1 day' AND now() - interval '10 minutes'
        UNION ALL
        SELECT account_id, 'low_balance_over', subject, json_build_object(
            'balance_nanos', balance_nanos, 'threshold_nanos', coalesce(low_balance_nanos, 0))
        FROM contacts JOIN account_told AS told USING (account_id)
        JOIN balances USING (account_id) JOIN accounts ON accounts.id = account_id
        WHERE event = 'low_balance' AND told_at > now() - interval '30 days' AND NOT EXISTS (
            SELECT FROM low_balances AS low
            WHERE low.account_id = told.account_id AND 'since ' || since = subject)
        UNION ALL
        SELECT account_id, 'order_stuck_over', subject,
            json_build_object('order', order_no, 'status', status)
        FROM contacts JOIN account_told AS told USING (account_id)
        JOIN orders USING (account_id)
        WHERE event = 'order_stuck' AND told_at > now() - interval '30 days'
            AND order_no = subject AND (status <> 'pending' OR closed_at IS NOT NULL)
    ), claimed AS (
        INSERT INTO account_told (account_id, event, subject)
        SELECT account_id, event, subject FROM found ORDER BY 1, 2, 3 LIMIT $1
        ON CONFLICT DO NOTHING RETURNING account_id, event, subject, told_at
    )
    SELECT account_id, name, event, told, told_at, webhook_sealed
    FROM claimed JOIN found USING (account_id, event, subject)
    JOIN contacts USING (account_id) JOIN accounts ON accounts.id = account_id"""
_ANYBODY: Final = "SELECT EXISTS (SELECT FROM account_contacts WHERE webhook_sealed <> '')"
# An account's owners, and whose key it is; somebody who never came, or is switched off, is nobody.
_RECIPIENTS: Final = """
    SELECT email FROM users WHERE account_id = $1 AND NOT disabled AND password IS NOT NULL
        AND (role = 'owner' OR id = (SELECT user_id FROM keys WHERE keys.id = $2))
    ORDER BY id LIMIT 20"""

_log = logging.getLogger(__name__)


Post = Callable[[aiohttp.ClientSession, str, bytes], Awaitable[bool]]


class PublicResolver(AbstractResolver):
    """Finds public addresses only."""

    def __init__(self) -> None:
        self._inner = DefaultResolver()

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        """Return the public addresses of a name.

        Raises:
            OSError: It has none.
        """
        found = await self._inner.resolve(host, port, family)
        public = [one for one in found if is_public(one["host"])]
        if not public:
            raise OSError("no public address")
        return public

    async def close(self) -> None:
        """Let go of the resolver."""
        await self._inner.close()


def is_public(host: str) -> bool:
    """Return whether an address is one that everybody reaches."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    inner = getattr(address, "ipv4_mapped", None) or address
    return bool(inner.is_global) and not inner.is_multicast


def may_ask(url: str) -> bool:
    """Return whether a URL may be asked: https, and a name or a public address."""
    try:
        parsed = URL(url)
    except ValueError:
        return False
    host = parsed.host
    if parsed.scheme != "https" or not host or parsed.user is not None:
        return False
    return is_public(host) if _is_literal(host) else True


def _is_literal(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


class AccountNotices:
    """Looks for what is to be told, and tells it.

    Args:
        services: The pool and the vault.
        post: Sends a body to a URL; returns whether it was taken.
    """

    def __init__(self, services: Services, post: Post | None = None) -> None:
        self._services = services
        self._post = post or _post

    async def run(self) -> None:
        """Tell for ever, whatever happens to Postgres meanwhile."""
        connector = aiohttp.TCPConnector(resolver=PublicResolver(), force_close=True)
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                with contextlib.suppress(RelayError, asyncpg.PostgresError, OSError):
                    await self.look(session)
                await asyncio.sleep(until_beat_s(LOOK_S))

    async def look(self, session: aiohttp.ClientSession) -> int:
        """Tell what is new; return how much there was."""
        writes = self._services.mailer is not None
        async with self._services.connect() as connection:
            if not writes and not await connection.fetchval(_ANYBODY):
                return 0
            rows = await connection.fetch(_CLAIM, TOLD_PER_LOOK, writes)
        for row in rows:
            await self._write(row)
            if row["webhook_sealed"]:
                await self._tell(session, row)
        return len(rows)

    async def _write(self, row: asyncpg.Record) -> None:
        """Write to the account's owners, and to whose key it is."""
        mailer = self._services.mailer
        if mailer is None:
            return
        told = orjson.loads(row["told"])
        async with self._services.connect() as connection:
            found = await connection.fetch(_RECIPIENTS, row["account_id"], told.get("key_id"))
        if found:
            subject, text = compose(
                row["event"], row["name"], told, self._services.address("account")
            )
            if not await mailer.send([one["email"] for one in found], subject, text):
                _log.warning("mail was not taken", extra={"reason": row["event"]})

    async def _tell(self, session: aiohttp.ClientSession, row: asyncpg.Record) -> None:
        owner = webhook_owner(row["account_id"])
        url = self._services.vault.open(row["webhook_sealed"], owner)
        if url is None or not may_ask(url.reveal()):
            return
        told = orjson.loads(row["told"])
        for name in ("balance", "threshold"):
            if f"{name}_nanos" in told:
                told[f"{name}_usd"] = format_usd(told.pop(f"{name}_nanos"))
        head = {"event": row["event"], "time": format_moment(row["told_at"])}
        body = orjson.dumps({**head, "account": row["name"], **told})
        for pause_s in PAUSES_S:
            await asyncio.sleep(pause_s)
            if await self._post(session, url.reveal(), body):
                return
        _log.warning("an account's webhook took no notice", extra={"reason": row["event"]})


def compose(event: str, account: str, told: dict[str, Any], console: str) -> tuple[str, str]:
    """Return subject and text of a mail."""
    if event == "unfamiliar_ip":
        # A name is its holder's word: no line break of it gets into a subject.
        name = " ".join(str(told["key_name"]).split())[:100]
        subject = f'Key "{name}" was used from a new address'
        said = f"{told['address']} was never seen on this key before. If that is not one of yours:"
        said += f"\n\n{console}/keys/{told['key_id']}"
    elif event == "low_balance":
        balance, threshold = (format_usd(told[f"{one}_nanos"]) for one in ("balance", "threshold"))
        subject = f"The balance is below {threshold} USD"
        said = f"There are {balance} USD left. Recharge here:\n\n{console}/billing"
    elif event == "low_balance_over":
        subject = "The balance is low no longer"
        said = f"There are {format_usd(told['balance_nanos'])} USD on the account."
    elif event == "budget_low":
        whose = f'key "{" ".join(told["key_name"].split())[:100]}"' if told["key_id"] else "account"
        subject = f"Most of a budget of the {whose} is used"
        said = f"It begins anew at {told['begins_anew']}:\n\n{console}/keys"
    elif event == "order_stuck_over":
        paid = told["status"] != "pending"
        subject = f"Order {told['order']} is {'paid' if paid else 'closed'}"
        said = f"{'Thank you' if paid else 'Nothing was charged for it'}.\n\n{console}/billing"
    else:
        subject = f"Order {told['order']} is still pending"
        said = "If you have paid it, tell support when and how:\n\n" + f"{console}/billing"
    return f"[{account}] {subject}", f"{subject}.\n\n{said}\n"


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> bool:
    headers = {"Content-Type": "application/json", "User-Agent": "relay"}
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            return 200 <= answer.status < 300
    except (aiohttp.ClientError, OSError, ValueError):
        return False
