"""The paths of /admin/v1 that the control process serves, as the OpenAPI document tells them.

They are described by the very types that they decode; a test compares the paths with those that the
control process has.
"""

from typing import Any, Final

from relay.console.routes import ID, Ask, Route
from relay.console.signin.actor import Permit
from relay.control.api.api import DrainRequest, KeyRequest, LimitRequest
from relay.control.api.catalog import ApplyRequest, GrantRequest
from relay.control.api.maintenance import RunRequest, SkipRequest
from relay.control.api.money import (
    CodesRequest,
    CreditRequest,
    LedgerQuery,
    ListQuery,
    OrderRequest,
    OrdersQuery,
    RedeemRequest,
)
from relay.control.api.payment import Payment
from relay.control.api.queries import LogQuery, UsageQuery
from relay.control.api.stripe import Event

Rows = dict[str, Any]


async def _elsewhere(_ask: Ask) -> None:
    raise AssertionError("the control process serves this")


def _route(method: str, path: str, summary: str, **fields: Any) -> Route:
    return Route(
        method=method,
        path=path if path.startswith("/") else f"/admin/v1/{path}",
        permit=fields.pop("permit", Permit.OPERATE),
        work=_elsewhere,
        summary=summary,
        answer=Rows,
        **fields,
    )


DESCRIBED: Final = (
    _route("GET", "/livez", "Whether the control process lives", permit=Permit.PUBLIC),
    _route("GET", "/readyz", "Whether calls are served", permit=Permit.PUBLIC),
    _route("GET", "/metrics", "For Prometheus", permit=Permit.PUBLIC, raw=("text/plain",)),
    _route(
        "POST", "/hooks/payment", "A shop tells of a payment", permit=Permit.PUBLIC, body=Payment
    ),
    _route("POST", "/hooks/stripe", "Stripe tells of a page", permit=Permit.PUBLIC, body=Event),
    _route("GET", "keys", "Keys of all accounts"),
    _route("POST", "keys", "Make a key; told this once", body=KeyRequest, status=201),
    _route("DELETE", f"keys/{ID}", "Delete a key for good"),
    _route("POST", f"keys/{ID}/enable", "Take a key again"),
    _route("POST", f"keys/{ID}/disable", "Refuse a key"),
    _route("POST", f"keys/{ID}/limit", "Change a key's own limits", body=LimitRequest),
    _route("GET", f"keys/{ID}/addresses", "Where a key was used from"),
    _route("GET", "channels", "Channels and how they stand"),
    _route("POST", "channels/{name}/drain", "Send new calls elsewhere", body=DrainRequest),
    _route("POST", "channels/{name}/enable", "Put a channel back into service"),
    _route("POST", "channels/{name}/test", "Ask an upstream for its models"),
    _route("GET", "accounts", "Accounts"),
    _route("GET", "lines", "Lines, their limits and who may use them"),
    _route("POST", "lines/{name}/grant", "Let an account use a line", body=GrantRequest),
    _route("POST", "lines/{name}/revoke", "Let it use the line no more", body=GrantRequest),
    _route("GET", "prices", "Prices in force"),
    _route("POST", "apply", "Make a catalog file hold", body=ApplyRequest),
    _route("GET", "logs", "Calls, newest first", query=LogQuery),
    _route("GET", "logs/{id}", "One call with its receipt"),
    _route("GET", "usage", "Requests, tokens, errors, cost over time", query=UsageQuery),
    _route("POST", "recharges", "A paid order, credited once", body=OrderRequest, status=201),
    _route("GET", "orders", "Orders", query=OrdersQuery),
    _route("POST", "orders", "Open an order", body=OrderRequest, status=201),
    _route("POST", "credits", "Credit by hand", body=CreditRequest, status=201),
    _route("GET", "ledger", "What was booked on an account", query=LedgerQuery),
    _route("GET", "balance", "What an account has", query=LedgerQuery),
    _route("GET", "codes", "Redemption codes", query=ListQuery),
    _route("POST", "codes", "Make redemption codes", body=CodesRequest, status=201),
    _route("POST", "codes/redeem", "Redeem a code for an account", body=RedeemRequest),
    _route("GET", "maintenance", "The nightly window, and what each work did last"),
    _route("POST", "maintenance/run", "Have the night's works done now", body=RunRequest),
    _route("POST", "maintenance/skip", "Skip nights", body=SkipRequest),
)
