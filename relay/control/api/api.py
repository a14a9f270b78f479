"""The admin listener: health, metrics, and /admin/v1 for whoever holds the admin token.

    GET  /livez /readyz /metrics                  open: they tell nothing of anybody
    GET  /admin/v1/keys?account=  POST  DELETE /{id}  POST /{id}/enable|disable|limit
    GET  /admin/v1/channels       POST /{name}/drain|enable|test; {"now": true} moves calls
    GET  /admin/v1/logs           /{request id}: with its receipt
    GET  /admin/v1/usage          requests, tokens, errors, cost over time
    GET  /admin/v1/keys/{id}/addresses     where a key was used from
    catalog: see catalog.py        money: see money.py        the night: see maintenance.py
    POST /hooks/payment, /hooks/stripe: see payment.py, stripe.py
    everything else: the operator's pages, in a process of their own; see console_proxy.py

Rows are those of the commands with --json; money is decimal strings in USD. A failure is
{"error": {"message", "type", "code"}}; nothing that was sent is quoted in it.
"""

import asyncio
import contextlib
import datetime
import hmac
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import msgspec
from aiohttp import web
from msgspec import Meta
from prometheus_client.registry import Collector

from relay.billing.budget import canonical_budgets
from relay.clock import wall_s, wall_us
from relay.config import Config
from relay.control.api import metrics
from relay.control.api.catalog import CatalogApi
from relay.control.api.json import Handler, answer_in_json
from relay.control.api.json import decode_body as _decode
from relay.control.api.json import json_answer as _json
from relay.control.api.maintenance import MaintenanceApi
from relay.control.api.money import ACTOR, MoneyApi
from relay.control.api.payment import PaymentHook
from relay.control.api.queries import parse_log_query, parse_usage_query
from relay.control.api.readiness import judge
from relay.control.api.stripe import StripeHook, resolve_stripe
from relay.control.console_proxy import PASSED_ON, ConsoleProxy
from relay.control.watch.notices import Notices
from relay.control.watch.probe import probe
from relay.errors import BadRequest, Unauthenticated
from relay.model import Secret
from relay.store import metrics as worker_metrics
from relay.store import postgres
from relay.store.acts import Act, keep_act
from relay.store.catalog import keys, listings
from relay.store.catalog.canonical import canonical_networks, canonical_usd
from relay.store.catalog.entry import Budgets, Concurrency, Limit
from relay.store.catalog.keys import KeyTerms
from relay.store.catalog.snapshot import load_channel
from relay.store.embedded.locate import database_url, redis_url
from relay.store.health.listing import add_health, read_conditions
from relay.store.log import addresses, reports
from relay.store.postgres import Connection
from relay.store.secrets import refs as secret_refs
from relay.store.secrets.vault import load_pepper, open_vault
from relay.units import format_usd, parse_usd

BODY_BYTES_MAX: Final = 64 * 1024
CONNECTIONS_MAX: Final = 8
"""To Postgres at once; further requests wait for their turn."""
ADDRESSES_SHOWN: Final = 1_000


class KeyRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/keys; as the flags of `relay key create`."""

    account: str
    name: Annotated[str, Meta(max_length=128)] = ""
    expires: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    models: list[str] | None = None
    allow_ip: list[str] | None = None
    quota_usd: str | None = None
    budgets: Budgets = []
    tpm: Limit = 0
    rpm: Limit = 0
    concurrency: Concurrency = 0


class LimitRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/keys/{id}/limit; what is left out stays, 0 = no limit."""

    tpm: Limit | None = None
    rpm: Limit | None = None
    concurrency: Concurrency | None = None


class DrainRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/channels/{name}/drain; may be left out."""

    now: bool = False


class AdminApi:
    """The handlers, and what they need.

    Args:
        config: The whole of relay.toml.
        data_dir: Where the relay keeps its state.
        token: What a caller of /admin/v1 has to send.
        collector: What /metrics shows.
        notices: Who is told of payments and promotions.
    """

    def __init__(
        self,
        config: Config,
        data_dir: Path,
        token: Secret,
        collector: Collector,
        notices: Notices,
    ) -> None:
        self._config = config
        self._data_dir = data_dir
        self._token = token.reveal().encode()
        self._collector = collector
        self._metrics_dir = data_dir / "run" / "metrics"
        self._vault = open_vault(config, data_dir, os.environ)
        self._pepper = load_pepper(config, data_dir, os.environ)
        self._console = ConsoleProxy(data_dir)
        self._connections = asyncio.Semaphore(CONNECTIONS_MAX)
        self._money = MoneyApi(config.billing, self._pepper, self._connection, notices)
        self._catalog = CatalogApi(config, self._vault, self._connection)
        self._maintenance = MaintenanceApi(config.maintenance, self._connection)
        secret = secret_refs.resolve(
            config.billing.payment_secret, os.environ, path="billing.payment_secret", optional=True
        )
        self._payment = PaymentHook(config.billing, secret, self._connection, notices)
        self._stripe = StripeHook(
            config.billing, resolve_stripe(config.billing)[1], self._connection, notices
        )

    def application(self) -> web.Application:
        """Return the routes as an application."""
        app = web.Application(
            middlewares=[answer_in_json, self._authenticate], client_max_size=BODY_BYTES_MAX
        )
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/admin/v1/keys", self._list_keys),
                web.post("/admin/v1/keys", self._create_key),
                web.delete(r"/admin/v1/keys/{id:\d+}", self._delete_key),
                web.post(r"/admin/v1/keys/{id:\d+}/{verb:enable|disable}", self._switch_key),
                web.post(r"/admin/v1/keys/{id:\d+}/limit", self._limit_key),
                web.get("/admin/v1/channels", self._list_channels),
                web.post("/admin/v1/channels/{name}/{verb:drain|enable}", self._switch_channel),
                web.post("/admin/v1/channels/{name}/test", self._test_channel),
                web.get("/admin/v1/logs", self._list_calls),
                web.get("/admin/v1/logs/{id}", self._show_call),
                web.get("/admin/v1/usage", self._list_usage),
                web.get(r"/admin/v1/keys/{id:\d+}/addresses", self._list_addresses),
                *self._money.routes(),
                *self._catalog.routes(),
                *self._maintenance.routes(),
                web.post("/hooks/payment", self._payment.receive),
                web.post("/hooks/stripe", self._stripe.receive),
                web.route("*", PASSED_ON, self._console.pass_on),
            ]
        )
        app.on_cleanup.append(self._console.close)
        return app

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        ours = request.match_info.handler != self._console.pass_on
        if request.path.startswith("/admin/") and ours:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            good = hmac.compare_digest(token.strip().encode(errors="replace"), self._token)
            if scheme.lower() != "bearer" or not good:
                raise Unauthenticated("Send the admin token: Authorization: Bearer TOKEN.")
            answer = await handler(request)
            if request.method != "GET":
                await self._keep_act(request)
            return answer
        return await handler(request)

    async def _keep_act(self, request: web.Request) -> None:
        """Write down that the holder of the token changed something; a body may hold secrets."""
        act = Act(
            actor=ACTOR,
            act=f"api.{request.method.lower()}",
            target=request.path,
            ip=request.remote or "",
        )
        async with self._connection() as connection:
            await keep_act(connection, act)

    # --- open -------------------------------------------------------------------------------

    async def _livez(self, _request: web.Request) -> web.Response:
        return _json({"alive": True})

    async def _readyz(self, _request: web.Request) -> web.Response:
        found = judge(worker_metrics.read_all(self._metrics_dir), wall_s())
        return _json(msgspec.to_builtins(found), status=200 if found.ready else 503)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=metrics.render(self._collector), headers={"Content-Type": metrics.CONTENT_TYPE}
        )

    # --- keys -------------------------------------------------------------------------------

    async def _list_keys(self, request: web.Request) -> web.Response:
        async with self._connection() as connection:
            rows = await keys.list_keys(connection, request.query.get("account"))
        return _json({"keys": [_key_row(row) for row in rows]})

    async def _create_key(self, request: web.Request) -> web.Response:
        wanted = _decode(await request.read(), KeyRequest)
        terms = _terms(wanted)
        async with self._connection() as connection:
            made = await keys.create_key(
                connection, self._pepper, wanted.account, wanted.name, terms
            )
        return _json({"id": made.id, "name": made.name, "key": made.key.reveal()}, status=201)

    async def _switch_key(self, request: web.Request) -> web.Response:
        disabled = request.match_info["verb"] == "disable"
        async with self._connection() as connection:
            row = await keys.find_key(connection, _key_named(request))
            await keys.set_disabled(connection, row["id"], disabled=disabled)
        return _json({"id": row["id"], "disabled": disabled})

    async def _limit_key(self, request: web.Request) -> web.Response:
        wanted = _decode(await request.read(), LimitRequest)
        async with self._connection() as connection:
            row = await keys.find_key(connection, _key_named(request))
            now = await keys.set_limits(connection, row["id"], **msgspec.structs.asdict(wanted))
        limits = {"tpm": now.tpm, "rpm": now.rpm, "concurrency": now.concurrency}
        return _json({"id": row["id"], **limits})

    async def _delete_key(self, request: web.Request) -> web.Response:
        async with self._connection() as connection:
            row = await keys.find_key(connection, _key_named(request))
            await keys.delete_key(connection, row["id"])
        return _json({"id": row["id"], "deleted": True})

    async def _list_addresses(self, request: web.Request) -> web.Response:
        async with self._connection() as connection:
            row = await keys.find_key(connection, _key_named(request))
            rows = await addresses.list_addresses(connection, row["id"], ADDRESSES_SHOWN)
        return _json({"id": row["id"], "addresses": rows})

    # --- channels ---------------------------------------------------------------------------

    async def _list_channels(self, _request: web.Request) -> web.Response:
        async with self._connection() as connection:
            rows = await listings.list_channels(connection, self._vault)
        conditions = await read_conditions(
            lambda: redis_url(self._config, self._data_dir), wall_us()
        )
        return _json({"channels": add_health(rows, conditions)})

    async def _switch_channel(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        drained = request.match_info["verb"] == "drain"
        wanted = _decode(await request.read() or b"{}", DrainRequest)
        evicted = drained and wanted.now
        async with self._connection() as connection:
            await listings.set_drained(connection, name, drained=drained, evicted=evicted)
        return _json({"name": name, "drained": drained, "evicted": evicted})

    async def _test_channel(self, request: web.Request) -> web.Response:
        async with self._connection() as connection:
            channel = await load_channel(connection, self._vault, request.match_info["name"])
        return _json(msgspec.to_builtins(await asyncio.to_thread(probe, channel)))

    # --- the request log --------------------------------------------------------------------

    async def _list_calls(self, request: web.Request) -> web.Response:
        wanted, limit = parse_log_query(request.query, _now())
        async with self._connection() as connection:
            rows = [row async for row in reports.list_calls(connection, wanted, limit)]
        return _json({"logs": rows})

    async def _show_call(self, request: web.Request) -> web.Response:
        async with self._connection() as connection:
            return _json(await reports.show_call(connection, request.match_info["id"]))

    async def _list_usage(self, request: web.Request) -> web.Response:
        scope, unit = parse_usage_query(request.query, _now())
        async with self._connection() as connection:
            return _json({"usage": await reports.list_usage(connection, scope, unit)})

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """Give a connection of its own to a request: so rare a caller needs no pool to go stale."""
        async with self._connections:
            connection = await postgres.connect(
                database_url(self._config, self._data_dir), application="relay admin"
            )
            try:
                with postgres.border():
                    yield connection
            finally:
                await connection.close()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _terms(wanted: KeyRequest) -> KeyTerms:
    try:
        quota = canonical_usd("quota_usd", wanted.quota_usd) if wanted.quota_usd else None
        networks = canonical_networks("allow_ip", wanted.allow_ip or ()) or None
        budgets = canonical_budgets(wanted.budgets)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    return KeyTerms(
        expires_at=wanted.expires,
        models=sorted(set(wanted.models)) if wanted.models else None,
        networks=networks,
        quota_nanos=parse_usd(quota) if quota is not None else None,
        tpm=wanted.tpm,
        rpm=wanted.rpm,
        concurrency=wanted.concurrency,
        budgets=budgets,
    )


def _key_named(request: web.Request) -> str:
    """Return what a key is looked up by: a number in a path is an id, as the listing tells it."""
    told = request.match_info["id"]
    return f"id:{told}" if told.isdecimal() else told


def _key_row(row: asyncpg.Record) -> dict[str, Any]:
    """Return what may be shown of a key: all but its digest."""
    shown = ("id", "account", "name", "last4", "disabled", "expires_at", "models", "networks")
    limits = ("tpm", "rpm", "concurrency")
    quota = row["quota_nanos"]
    return {
        **{field: row[field] for field in (*shown, *limits)},
        "quota_usd": None if quota is None else format_usd(quota),
        "budgets": list(row["budgets"]),
        "spent_usd": format_usd(row["spent_nanos"]),
        "last_used_at": row["last_used_at"],
    }
