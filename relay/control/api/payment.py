"""POST /hooks/payment: the shop tells, signed, that an order is paid.

    {"order": "A-1", "account": "acme", "amount": "100.00", "currency": "USD", "status": "paid"}

Signed as relay.billing.signature says. What the shop was answered with 200 is in the ledger; any
other answer, or none, means: send it again. Duplicates, reordering and callbacks at the same moment
are harmless. "pending" and "failed" change nothing, whenever they come.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from relay.billing.recharge import Currency
from relay.billing.signature import is_fresh, is_signed
from relay.clock import wall_s
from relay.config import Billing
from relay.control.api.json import decode_body, json_answer
from relay.control.watch.notices import Notices
from relay.errors import (
    ClientError,
    RequestTimeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from relay.model import Secret
from relay.store.billing import orders, recharges
from relay.store.postgres import Connection

BODY_BYTES_MAX: Final = 16 * 1024
BODY_S: Final = 10.0
"""A stranger can reach this path through a proxy: a dripped body must not be waited for."""
SENDER: Final = "payment callback"

Connect = Callable[[], AbstractAsyncContextManager[Connection]]
Clock = Callable[[], float]
Text = Annotated[str, Meta(min_length=1, max_length=128)]


class Payment(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The body of a callback; `payment` is the shop's own number of the payment."""

    order: Text
    account: Text
    amount: Annotated[str, Meta(min_length=1, max_length=40)]
    currency: Currency
    status: Literal["pending", "paid", "failed"]
    payment: Annotated[str, Meta(max_length=128)] = ""


class SignedHook:
    """Takes what a provider of payments tells, signed.

    Args:
        billing: What recharges are worth.
        secret: What its words are signed with; empty = all are refused.
        connect: Gives a connection for as long as one message takes.
        notices: Who is told of messages that are signed and still wrong.
        now_s: Seconds since 1970.
    """

    def __init__(
        self,
        billing: Billing,
        secret: Secret,
        connect: Connect,
        notices: Notices,
        *,
        now_s: Clock = wall_s,
    ) -> None:
        self._billing = billing
        self._secret = secret.reveal().encode()
        self._connect = connect
        self._notices = notices
        self._now_s = now_s


class PaymentHook(SignedHook):
    """Takes callbacks; arguments as SignedHook."""

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one callback."""
        if not self._secret:
            raise Unavailable("payment callbacks need [billing] payment_secret")
        timestamp = request.headers.get("x-relay-timestamp", "")
        if not is_fresh(timestamp, self._now_s()):
            raise Unauthenticated("x-relay-timestamp is missing, or too far from now")
        body = await read_body(request)
        signatures = request.headers.get("x-relay-signature", "")
        if not is_signed(self._secret, timestamp, signatures, body):
            raise Unauthenticated("x-relay-signature does not match")
        order_no = ""
        try:
            payment = decode_body(body, Payment)
            order_no = payment.order
            if payment.status != "paid":
                return json_answer({"order": order_no, "status": payment.status, "credited": False})
            return json_answer(await self._credit(payment))
        except ClientError as error:
            self._notices.refused(order_no, error.message)
            raise

    async def _credit(self, payment: Payment) -> recharges.Row:
        """Keep that the money is there; then credit it. Who dies in between loses nothing."""
        async with self._connect() as connection:
            order = await recharges.compose_order(
                connection,
                self._billing,
                payment.account,
                (payment.amount, payment.currency),
                order_no=payment.order,
                actor=SENDER,
            )
            await orders.mark_paid(connection, order, payment=payment.payment)
            recharged, promotion = await recharges.credit_paid(
                connection, self._billing, order.order_no, order.account_id
            )
        if promotion is not None:
            self._notices.promoted(promotion)
        row = recharges.recharged_row(order.order_no, recharged, promotion)
        return {**row, "status": "credited"}


async def read_body(request: web.Request) -> bytes:
    """Return a callback's body.

    Raises:
        TooLarge: CLIENT; more than a callback has.
        RequestTimeout: CLIENT; it dripped.
    """
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise TooLarge("a callback has at most 16 KiB")
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.read()
    except TimeoutError:
        raise RequestTimeout("the callback did not arrive in time") from None
    if len(body) > BODY_BYTES_MAX:
        raise TooLarge("a callback has at most 16 KiB")
    return body
