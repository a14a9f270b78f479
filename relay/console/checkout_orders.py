"""Orders that are paid at Stripe: their pages, and asking how they stand.

No connection to the database is held while Stripe is waited for.
"""

from relay.billing.stripe import Session
from relay.console.checkout import StripeCheckout, minor_of
from relay.console.services import Services
from relay.control.api.stripe import PROVIDER, check_fits, credit
from relay.errors import BadRequest, Conflict
from relay.store.billing import orders
from relay.store.billing.orders import Known, Order


def check_order(services: Services, order: Order) -> None:
    """Refuse an order that cannot be paid at Stripe.

    Raises:
        BadRequest: CLIENT; it is not offered here, or takes no such amount.
    """
    _stripe(services)
    minor_of(order.amount_nanos)


async def make_page(services: Services, order_no: str, account_id: int) -> str:
    """Return where a pending order of an account is paid; the page is made where there is none.

    Raises:
        NotFound: CLIENT; there is no such order.
        Conflict: CLIENT; it is paid, or not through Stripe.
        Unavailable: RELAY; Stripe does not answer.
    """
    known = await _find(services, order_no, account_id)
    if known.status != "pending":
        raise Conflict("this order is paid")
    if known.checkout:
        return known.checkout_url
    back_url = services.address("account") + "/billing"
    page = await _stripe(services).make_page(known, back_url)
    async with services.connect() as connection:
        await orders.keep_checkout(connection, order_no, page.id, page.url or "")
    return page.url or ""


async def check(services: Services, order_no: str, account_id: int | None) -> Session | None:
    """Ask Stripe how an order stands, and credit it where it is paid; None: no page was made.

    Raises:
        NotFound: CLIENT; there is no such order.
        Conflict: CLIENT; it is not paid through Stripe, or the page is not the order's.
        Unavailable: RELAY; Stripe does not answer.
    """
    known = await _find(services, order_no, account_id)
    if not known.checkout:
        return None
    page = await _stripe(services).read_page(known.checkout)
    check_fits(known, page)
    async with services.connect() as connection:
        if page.payment_status == "paid":
            await credit(connection, services.config.billing, known, page)
        elif page.status == "expired":
            await orders.close_order(connection, order_no)
    return page


async def _find(services: Services, order_no: str, account_id: int | None) -> Known:
    async with services.connect() as connection:
        known = await orders.find_order(connection, order_no, account_id)
    if known.provider != PROVIDER:
        raise Conflict("this order is not paid through a provider that could be asked")
    return known


def _stripe(services: Services) -> StripeCheckout:
    if services.stripe is None:
        raise BadRequest("provider: stripe is not offered here", param="provider")
    return services.stripe
