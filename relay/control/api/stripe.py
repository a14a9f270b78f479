"""POST /hooks/stripe: Stripe tells, signed, how a payment page ended.

The page was made for an order of ours (console/checkout.py), so an event opens nothing: it names a
known order, and its page, currency and amount to the cent are that order's, or it is refused and
the operator is told. Repetitions, at once or years later, credit nothing twice. Whoever saw no
event asks Stripe how the page stands, and goes the same way.
"""

import os
from typing import Any, Final

import msgspec
from aiohttp import web

from relay.billing import stripe
from relay.billing.stripe import Session
from relay.config import Billing
from relay.control.api.json import json_answer
from relay.control.api.payment import SignedHook, read_body
from relay.errors import BadRequest, ClientError, Conflict, NotFound, Unauthenticated, Unavailable
from relay.model import Secret
from relay.store.billing import orders, recharges
from relay.store.billing.promotions import Promotion
from relay.store.postgres import Connection
from relay.store.secrets import refs as secret_refs

PROVIDER: Final = "stripe"


class Event(msgspec.Struct, frozen=True):
    """What Stripe sends; its own documents tell the rest. Described for the OpenAPI document."""

    id: str
    type: str
    data: dict[str, Any]


class StripeHook(SignedHook):
    """Takes events; arguments as SignedHook."""

    async def receive(self, request: web.Request) -> web.Response:
        """Answer one event."""
        if not self._secret:
            raise Unavailable("events of Stripe need [billing.stripe] webhook_secret")
        header = request.headers.get("Stripe-Signature", "")
        body = await read_body(request)
        if not stripe.is_signed(self._secret, header, body, self._now_s()):
            raise Unauthenticated("Stripe-Signature does not match, or its time is far from now")
        order_no = ""
        try:
            event = _read_event(body)
            if event is None:
                return json_answer({"ignored": True})
            order_no = event.session.client_reference_id or ""
            return json_answer(await self._take(event, order_no))
        except ClientError as error:
            self._notices.refused(order_no, error.message)
            raise

    async def _take(self, event: stripe.StripeEvent, order_no: str) -> recharges.Row:
        async with self._connect() as connection:
            known = await orders.find_order(connection, order_no)
            check_fits(known, event.session)
            if event.is_paid:
                row, promotion = await credit(connection, self._billing, known, event.session)
                if promotion is not None:
                    self._notices.promoted(promotion)
                return row
            if event.kind in stripe.GIVEN_UP:
                await orders.close_order(connection, order_no)
        return {"order": order_no, "status": known.status, "credited": False}


def resolve_stripe(billing: Billing) -> tuple[Secret, Secret]:
    """Return the key that pages are made with, and the secret of events; empty: there are none."""
    path = "billing.stripe"
    key, secret = (
        secret_refs.resolve(one, os.environ, path=f"{path}.{name}", optional=True)
        for name, one in (
            ("secret_key", billing.stripe.secret_key),
            ("webhook_secret", billing.stripe.webhook_secret),
        )
    )
    return key, secret


def check_fits(known: orders.Known, session: Session) -> None:
    """Refuse a page that is not this order's.

    Raises:
        Conflict: CLIENT; it was made for something else, or by somebody else.
    """
    if known.provider != PROVIDER or session.id != known.checkout:
        raise Conflict("this order was not opened with this page of Stripe's")
    if session.client_reference_id != known.order_no:
        raise Conflict("this page is about another order")
    if not stripe.fits(session, known.amount_nanos, known.currency):
        raise Conflict("the amount or the currency that was paid is not the order's")


async def credit(
    connection: Connection, billing: Billing, known: orders.Known, session: Session
) -> tuple[recharges.Row, Promotion | None]:
    """Keep that an order's money is there, then credit it; who dies in between loses nothing."""
    payment = session.payment_intent or session.id
    await orders.confirm_paid(connection, known.order_no, payment=payment)
    recharged, promotion = await recharges.credit_paid(
        connection, billing, known.order_no, known.account_id
    )
    row = recharges.recharged_row(known.order_no, recharged, promotion)
    return {**row, "status": "credited"}, promotion


def _read_event(body: bytes) -> stripe.StripeEvent | None:
    try:
        event = stripe.read_event(body)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if event is not None and not event.session.client_reference_id:
        raise NotFound("this page names no order of ours")
    return event
