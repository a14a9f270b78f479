"""Payment pages at Stripe: made for an order, and asked how they stand.

    POST {api}/v1/checkout/sessions         one page an order: the order's number is the key
    GET  {api}/v1/checkout/sessions/{id}    that makes a repetition harmless

What Stripe answers to a mistake may quote what was sent, so none of it is passed on.
"""

import logging
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from relay.billing import stripe
from relay.billing.stripe import Session
from relay.errors import BadRequest, Unavailable
from relay.model import Secret
from relay.store.billing.orders import Known

DEADLINE_S: Final = 15.0
ANSWER_BYTES_MAX: Final = 256 * 1024
MINOR_MIN: Final = 50
"""Half a dollar: Stripe takes no less."""

_log = logging.getLogger(__name__)


class StripeCheckout:
    """Asks Stripe.

    Args:
        api: Its address.
        key: What we show it.
    """

    def __init__(self, api: str, key: Secret) -> None:
        self._api = api.rstrip("/")
        self._key = key

    async def make_page(self, order: Known, back_url: str) -> Session:
        """Return the page where an order is paid; the same one however often it is asked for.

        Raises:
            BadRequest: CLIENT; Stripe cannot take such an amount.
            Unavailable: RELAY; Stripe does not answer, or not with a page.
        """
        form = {
            "mode": "payment",
            "client_reference_id": order.order_no,
            "metadata[order]": order.order_no,
            "line_items[0][quantity]": "1",
            "line_items[0][price_data][currency]": order.currency.value.lower(),
            "line_items[0][price_data][unit_amount]": str(minor_of(order.amount_nanos)),
            "line_items[0][price_data][product_data][name]": f"Balance, order {order.order_no}",
            "success_url": back_url,
            "cancel_url": back_url,
        }
        page = await self._ask("POST", "", data=form, idempotency=order.order_no)
        if not page.url or not page.url.startswith(("https://", "http://127.0.0.1:")):
            raise Unavailable("Stripe made no page: try again", retry_after_s=30)
        return page

    async def read_page(self, checkout: str) -> Session:
        """Return how a page stands.

        Raises:
            Unavailable: RELAY; Stripe does not answer, or not with a page.
        """
        return await self._ask("GET", "/" + quote(checkout, safe=""))

    async def _ask(
        self, method: str, path: str, *, data: Any = None, idempotency: str = ""
    ) -> Session:
        headers = {"Authorization": f"Bearer {self._key.reveal()}"}
        if idempotency:
            headers["Idempotency-Key"] = f"relay-{idempotency}"
        url = f"{self._api}/v1/checkout/sessions{path}"
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    method, url, data=data, headers=headers, allow_redirects=False
                ) as answer,
            ):
                body = await answer.content.read(ANSWER_BYTES_MAX)
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable("Stripe does not answer: try again", retry_after_s=30) from error
        if status != 200:
            _log.warning("Stripe refused a payment page", extra={"status": status})
            raise Unavailable("Stripe refused: support can help", retry_after_s=60)
        try:
            return stripe.read_session(body)
        except ValueError as error:
            raise Unavailable("Stripe answered something else", retry_after_s=60) from error


def minor_of(amount_nanos: int) -> int:
    """Return an amount in hundredths.

    Raises:
        BadRequest: CLIENT; it is none that Stripe takes.
    """
    try:
        minor = stripe.to_minor(amount_nanos)
    except ValueError as error:
        raise BadRequest(str(error), param="amount") from None
    if minor < MINOR_MIN:
        raise BadRequest("the amount is less than 0.50", param="amount")
    return minor
