"""Money on the admin listener, for whoever holds the admin token; amounts are decimal strings.

POST /admin/v1/recharges      a paid order, credited once by its number
GET  /admin/v1/orders         POST: opened, to be paid later (see payment.py)
POST /admin/v1/credits        by hand, with who and why
GET  /admin/v1/ledger         ?account=  what was booked, with the balance after each
GET  /admin/v1/balance        ?account=
GET  /admin/v1/codes          POST: made, shown once    POST /admin/v1/codes/redeem
"""

import datetime
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from relay.billing.recharge import Currency
from relay.config import Billing
from relay.control.api.json import decode_body, json_answer
from relay.control.watch.notices import Notices
from relay.errors import BadRequest, Conflict
from relay.store.billing import codes, orders, recharges, statements
from relay.store.billing.orders import Order
from relay.store.billing.recharges import find_account, parse_positive
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper
from relay.units import format_usd

ACTOR: Final = "admin API"
"""Who acts is who showed what: a caller's own word for itself is kept as a claim, no more."""

Connect = Callable[[], AbstractAsyncContextManager[Connection]]
Text = Annotated[str, Meta(min_length=1, max_length=256)]
Amount = Annotated[str, Meta(min_length=1, max_length=40)]

_Query = TypeVar("_Query", bound=msgspec.Struct)


class OrderRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/recharges and /orders; as the flags of `relay recharge`."""

    account: Text
    amount: Amount
    order: Text
    currency: Currency = Currency.USD
    actor: Text = ACTOR


class CreditRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/credits; as the flags of `relay credit`."""

    account: Text
    amount_usd: Amount
    reason: Text
    actor: Text
    ref: Annotated[str, Meta(max_length=256)] = ""


class CodesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/codes; as the flags of `relay code create`."""

    amount_usd: Amount
    count: Annotated[int, Meta(ge=1, le=codes.CODES_MAX)] = 1
    expires: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    actor: Text = ACTOR


class RedeemRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/codes/redeem."""

    account: Text
    code: Text


class ListQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many rows, newest first."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class OrdersQuery(ListQuery, kw_only=True, forbid_unknown_fields=True):
    """Whose orders, and in which state."""

    account: Text | None = None
    status: Literal["pending", "paid", "credited"] | None = None


class LedgerQuery(ListQuery, kw_only=True, forbid_unknown_fields=True):
    """Whose entries."""

    account: Text


class MoneyApi:
    """The handlers, and what they need.

    Args:
        billing: What recharges are worth.
        pepper: Keys the digests of redemption codes.
        connect: Gives a connection for as long as one request takes.
        notices: Who is told of promotions, and of recharges that contradict what is known.
    """

    def __init__(
        self, billing: Billing, pepper: Pepper, connect: Connect, notices: Notices
    ) -> None:
        self._billing = billing
        self._pepper = pepper
        self._connect = connect
        self._notices = notices

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, all below /admin/v1."""
        return [
            web.post("/admin/v1/recharges", self._recharge),
            web.get("/admin/v1/orders", self._list_orders),
            web.post("/admin/v1/orders", self._open_order),
            web.post("/admin/v1/credits", self._credit),
            web.get("/admin/v1/ledger", self._list_entries),
            web.get("/admin/v1/balance", self._show_balance),
            web.get("/admin/v1/codes", self._list_codes),
            web.post("/admin/v1/codes", self._create_codes),
            web.post("/admin/v1/codes/redeem", self._redeem_code),
        ]

    async def _recharge(self, request: web.Request) -> web.Response:
        wanted = decode_body(await request.read(), OrderRequest)
        async with self._connect() as connection:
            order = await self._compose(connection, wanted)
            try:
                recharged, promotion = await recharges.recharge(connection, self._billing, order)
            except Conflict as error:
                self._notices.refused(order.order_no, error.message)
                raise
            balance = await statements.show_balance(connection, wanted.account)
        if promotion is not None:
            self._notices.promoted(promotion)
        row = recharges.recharged_row(order.order_no, recharged, promotion)
        return json_answer({**row, **balance}, status=201 if recharged.fresh else 200)

    async def _open_order(self, request: web.Request) -> web.Response:
        wanted = decode_body(await request.read(), OrderRequest)
        async with self._connect() as connection:
            order = await self._compose(connection, wanted)
            status = await orders.open_order(connection, order)
        return json_answer({"order": order.order_no, "status": status}, status=201)

    async def _compose(self, connection: Connection, wanted: OrderRequest) -> Order:
        return await recharges.compose_order(
            connection,
            self._billing,
            wanted.account,
            (wanted.amount, wanted.currency),
            order_no=wanted.order,
            actor=name_actor(wanted.actor),
        )

    async def _list_orders(self, request: web.Request) -> web.Response:
        asked = _parse(request.query, OrdersQuery)
        async with self._connect() as connection:
            rows = await orders.list_orders(connection, asked.account, asked.status, asked.limit)
        return json_answer({"orders": rows})

    async def _credit(self, request: web.Request) -> web.Response:
        wanted = decode_body(await request.read(), CreditRequest)
        async with self._connect() as connection:
            row = await recharges.credit_by_hand(
                connection,
                wanted.account,
                wanted.amount_usd,
                actor=name_actor(wanted.actor),
                reason=wanted.reason,
                ref=wanted.ref,
            )
            balance = await statements.show_balance(connection, wanted.account)
        return json_answer({**row, **balance}, status=201 if row["booked"] else 200)

    async def _list_entries(self, request: web.Request) -> web.Response:
        asked = _parse(request.query, LedgerQuery)
        async with self._connect() as connection:
            account_id = await find_account(connection, asked.account)
            rows = await statements.list_entries(connection, account_id, asked.limit)
        return json_answer({"entries": rows})

    async def _show_balance(self, request: web.Request) -> web.Response:
        account = _parse(request.query, LedgerQuery).account
        async with self._connect() as connection:
            return json_answer(await statements.show_balance(connection, account))

    async def _list_codes(self, request: web.Request) -> web.Response:
        asked = _parse(request.query, ListQuery)
        async with self._connect() as connection:
            return json_answer({"codes": await codes.list_codes(connection, asked.limit)})

    async def _create_codes(self, request: web.Request) -> web.Response:
        wanted = decode_body(await request.read(), CodesRequest)
        nanos = parse_positive(wanted.amount_usd)
        async with self._connect() as connection:
            made = await codes.create_codes(
                connection,
                self._pepper,
                nanos,
                wanted.count,
                actor=name_actor(wanted.actor),
                expires_at=wanted.expires,
            )
        rows = [{"id": one.id, "code": one.code.reveal()} for one in made]
        return json_answer({"amount_usd": format_usd(nanos), "codes": rows}, status=201)

    async def _redeem_code(self, request: web.Request) -> web.Response:
        wanted = decode_body(await request.read(), RedeemRequest)
        async with self._connect() as connection:
            account_id = await find_account(connection, wanted.account)
            nanos = await codes.redeem_code(connection, self._pepper, wanted.code, account_id)
            balance = await statements.show_balance(connection, wanted.account)
        return json_answer({"amount_usd": format_usd(nanos), **balance})


def _parse(query: Mapping[str, str], kind: type[_Query]) -> _Query:
    try:
        return msgspec.convert(dict(query), kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def name_actor(claimed: str) -> str:
    """Return who is written down: the holder of the admin token, and whom it claims to act for."""
    return ACTOR if claimed == ACTOR else f"{ACTOR} for {claimed}"
