"""The two sides of the console: which paths each has. Nothing of the one is on the other.

account     [server] console: pages, /account/v1, POST /hooks/payment
operator    behind the admin listener: pages, /openapi.json
"""

import os
from importlib.metadata import version
from typing import Any, Final

from aiohttp import web

from relay.console.account_api import calls, compat, keys, money, openapi
from relay.console.account_api import people as account_people
from relay.console.operator_api import people
from relay.console.operator_api.described import DESCRIBED
from relay.console.pages import (
    billing,
    entrances,
    looking,
    oidc,
    operator,
    operator_catalog,
    operator_log,
    operator_money,
    operator_people,
    prices,
    settings,
)
from relay.console.pages import keys as key_pages
from relay.console.routes import Ask, Page, Route
from relay.console.server import LANGUAGE_COOKIE, ConsoleServer, local_path
from relay.console.services import Services
from relay.console.signin.actor import Permit
from relay.control.api.payment import PaymentHook
from relay.control.api.stripe import StripeHook, resolve_stripe
from relay.control.watch.notices import Notices
from relay.errors import BadRequest
from relay.store.secrets import refs as secret_refs

LANGUAGE_S: Final = 400 * 86_400


async def _set_language(ask: Ask) -> web.Response:
    chosen = ask.text("language")
    if chosen not in {"en", "zh"}:
        raise BadRequest("language: en or zh", param="language")
    answer = web.Response(status=303, headers={"Location": local_path(ask.text("next", 1_000))})
    answer.set_cookie(LANGUAGE_COOKIE, chosen, max_age=LANGUAGE_S, samesite="Lax", httponly=True)
    return answer


LANGUAGE: Final = Page(method="POST", path="/language", permit=Permit.PUBLIC, work=_set_language)

ACCOUNT_ROUTES: Final = (
    *calls.ROUTES,
    *keys.ROUTES,
    *money.ROUTES,
    *account_people.ROUTES,
    *compat.ROUTES,
)
ACCOUNT_PAGES: Final = (
    *entrances.PAGES,
    *oidc.PAGES,
    *looking.PAGES,
    *key_pages.PAGES,
    *billing.PAGES,
    *prices.PAGES,
    *settings.PAGES,
    LANGUAGE,
)
OPERATOR_ROUTES: Final = (*people.ROUTES,)
OPERATOR_PAGES: Final = (
    *entrances.PAGES,
    *oidc.PAGES,
    *operator.PAGES,
    *operator_catalog.PAGES,
    *operator_log.PAGES,
    *operator_money.PAGES,
    *operator_people.PAGES,
    *settings.SELF_PAGES,
    LANGUAGE,
)


def account_side(services: Services, notices: Notices) -> ConsoleServer:
    """Return the side of account holders."""
    billing_config = services.config.billing
    secret = secret_refs.resolve(
        billing_config.payment_secret, os.environ, path="billing.payment_secret", optional=True
    )
    hook = PaymentHook(billing_config, secret, services.connect, notices)

    async def receive(ask: Ask) -> web.StreamResponse:
        return await hook.receive(ask.request)

    payment = Route(
        method="POST",
        path="/hooks/payment",
        permit=Permit.PUBLIC,
        work=receive,
        summary="A shop tells, signed, that an order is paid",
        answer=dict[str, Any],
    )
    hook_of_stripe = StripeHook(
        billing_config, resolve_stripe(billing_config)[1], services.connect, notices
    )

    async def receive_of_stripe(ask: Ask) -> web.StreamResponse:
        return await hook_of_stripe.receive(ask.request)

    stripe = Route(
        method="POST",
        path="/hooks/stripe",
        permit=Permit.PUBLIC,
        work=receive_of_stripe,
        summary="Stripe tells, signed, how a payment page ended",
        answer=dict[str, Any],
    )
    routes = (*ACCOUNT_ROUTES, payment, stripe)
    return ConsoleServer(
        "account", services, (*routes, _document(routes, "relay: account")), ACCOUNT_PAGES
    )


def operator_side(services: Services) -> ConsoleServer:
    """Return the side of operators."""
    document = _document((*DESCRIBED, *OPERATOR_ROUTES), "relay: admin")
    routes = (*OPERATOR_ROUTES, document)
    return ConsoleServer("operator", services, routes, OPERATOR_PAGES)


def _document(routes: tuple[Route, ...], title: str) -> Route:
    """Return the path of the OpenAPI document of these routes."""
    document = openapi.describe(routes, title=title, version=version("relay"))

    async def show(_ask: Ask) -> dict[str, Any]:
        return document

    return Route(
        method="GET",
        path="/openapi.json",
        permit=Permit.PUBLIC,
        work=show,
        summary="This document",
        answer=dict[str, Any],
    )
