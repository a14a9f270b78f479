"""The operator's pages, on the admin listener."""

from typing import Literal

import msgspec

from relay.console.rows import (
    AccountRow,
    AuditRow,
    CallRow,
    CallTotals,
    ChangeRow,
    ChannelRow,
    LineRow,
    Moment,
    OrderRow,
    PriceRow,
    UsageRow,
    Usd,
    UserRow,
    WindowRow,
    WorkRow,
)
from relay.console.views.account import LogFilter
from relay.console.views.frame import Need, View


class OperatorOverviewView(View, frozen=True):
    """GET / of the admin listener: what needs a hand first."""

    template = "operator/overview.html"
    page = "overview"
    title = "Overview"
    rpm: int
    tpm: int
    error_share: float | None
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    log_age_s: float | None
    """Of the newest row of the request log."""
    workers: dict[str, str]
    usage: list[UsageRow]
    needs: list[Need]


class ChannelsView(View, frozen=True):
    """GET /channels. Posts to /channels/{name}/drain (field `now`), /enable, /test."""

    template = "operator/channels.html"
    page = "channels"
    title = "Channels"
    channels: list[ChannelRow]


class OperatorLogsView(View, frozen=True):
    """GET /logs: calls of all accounts, or of the one in `account`."""

    template = "operator/logs.html"
    page = "logs"
    title = "Log"
    account: str
    filter: LogFilter
    totals: CallTotals | None
    """None: this filter has none in reach (address, id, latency, cost); say nothing."""
    logs: list[CallRow]
    next_url: str | None


class LinesView(View, frozen=True):
    """GET /lines."""

    template = "operator/lines.html"
    page = "lines"
    title = "Lines"
    lines: list[LineRow]


class AccountsView(View, frozen=True):
    """GET /accounts?search=. Posts to /accounts/{name}/credit: amount_usd, reason, ref."""

    template = "operator/accounts.html"
    page = "accounts"
    title = "Accounts"
    search: str
    accounts: list[AccountRow]
    next_url: str | None


class ChangeShown(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the catalog that a file would change."""

    kind: str
    name: str
    action: Literal["added", "changed", "removed"]
    fields: list[tuple[str, str, str]]
    """Name, before, after."""


class CatalogView(View, frozen=True):
    """GET /catalog. Posts `file` or `catalog`, and `prune`, to /catalog/preview.

    To /catalog the same with `seen`, and a field `credential:NAME` for each channel.
    """

    template = "operator/catalog.html"
    page = "catalog"
    title = "Catalog"
    catalog: str = ""
    """The file as it was sent."""
    prune: bool = False
    changes: list[ChangeShown] | None = None
    """None: nothing was asked yet, or the file cannot hold."""
    seen: str = ""
    """The digest of these changes: what is confirmed is what was shown."""
    asked: tuple[str, ...] = ()
    """New channels: each needs its credential."""
    kept: tuple[str, ...] = ()
    """Channels that keep theirs where none is given."""


class PriceDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A price as an operator is about to set it; decimal strings."""

    model: str
    input_usd: str
    cached_input_usd: str
    cache_write_usd: str
    output_usd: str
    per_call_usd: str
    model_multiplier: str
    completion_multiplier: str
    effective: str = ""
    """From when on: an ISO 8601 time, or a span such as 7d; "" = now."""


class PlannedPrice(msgspec.Struct, frozen=True, kw_only=True):
    """A price that is still to come. Posts to /prices/planned/{id}/cancel."""

    id: int
    model: str
    time: Moment
    actor: str
    input_usd: Usd
    output_usd: Usd
    model_multiplier: str


class PricePreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a drafted price would have made of the last 30 days."""

    draft: PriceDraft
    requests: int
    charged_usd: Usd
    would_be_usd: Usd
    accounts: list[tuple[str, Usd, Usd]]
    """(account, charged, would be), the largest difference first; at most 20."""


class OperatorPricesView(View, frozen=True):
    """GET /prices. POST /prices/preview, then POST /prices with the same fields and `confirmed`."""

    template = "operator/prices.html"
    page = "prices"
    title = "Prices"
    search: str
    prices: list[PriceRow]
    groups: list[tuple[str, str]]
    """(name, multiplier)"""
    draft: PriceDraft | None
    preview: PricePreview | None
    planned: list[PlannedPrice]
    changes: list[ChangeRow]


class OrdersView(View, frozen=True):
    """GET /orders?search=&status=. Posts to /orders/{no}/credit: `reason`."""

    template = "operator/orders.html"
    page = "orders"
    title = "Orders"
    search: str
    status: str
    stuck: list[OrderRow]
    orders: list[OrderRow]
    next_url: str | None


class MaintenanceView(View, frozen=True):
    """GET /maintenance."""

    template = "operator/maintenance.html"
    page = "maintenance"
    title = "Maintenance"
    window: str
    zone: str
    windows: list[WindowRow]
    works: list[WorkRow]
    """What each did last, the latest first."""
    partitions: list[tuple[str, int]]
    """(table, days kept)"""
    table_bytes: dict[str, int]


class AuditView(View, frozen=True):
    """GET /audit?actor=&account=&act=."""

    template = "operator/audit.html"
    page = "audit"
    title = "Audit"
    actor: str
    account: str
    act: str
    rows: list[AuditRow]
    next_url: str | None


class UsersView(View, frozen=True):
    """GET /users. Posts to /users (email, role, account), /users/{id}/reset|disable|enable."""

    template = "operator/users.html"
    page = "users"
    title = "Users"
    search: str
    users: list[UserRow]
    accounts: list[str]
    fresh_url: str
    """The link of an invitation or reset just made; told once."""
    fresh_email: str
