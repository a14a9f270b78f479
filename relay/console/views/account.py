"""The pages of an account, on the console's own listener."""

from typing import Literal

import msgspec

from relay.console.rows import (
    AddressRow,
    AuditRow,
    BalanceRow,
    BonusRow,
    CallDetail,
    CallRow,
    CallTotals,
    ChangeRow,
    EntryRow,
    FreshKey,
    IdentityRow,
    KeyRow,
    OrderRow,
    PriceRow,
    SessionRow,
    StatementRow,
    UsageRow,
    Usd,
    UserRow,
)
from relay.console.views.frame import Need, View


class OverviewView(View, frozen=True):
    """GET /. The chart is `usage`, by minute of the last 6 hours."""

    template = "overview.html"
    page = "overview"
    title = "Overview"
    balance: BalanceRow
    days_left: float | None
    """At the pace of the last 7 days; None: nothing was spent."""
    rpm: int
    """Calls of the last whole minute, and the limit; 0 = none."""
    rpm_limit: int
    tpm: int
    tpm_limit: int
    error_share: float | None
    """Of the last hour; None: no calls."""
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    usage: list[UsageRow]
    needs: list[Need]
    has_calls: bool
    """False: show the snippet to make the first call with."""


class LogFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The filters of the log as the query string has them; empty = not filtered by it."""

    since: str = ""
    """1h, 24h, 7d, 30d, or a moment."""
    until: str = ""
    key: str = ""
    model: str = ""
    line: str = ""
    status: str = ""
    """200, 4xx, 5xx"""
    code: str = ""
    ip: str = ""
    id: str = ""
    min_ms: str = ""
    min_usd: str = ""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What the filters' lists offer: what occurs in the account's rollups of the last 90 days."""

    keys: list[tuple[str, str]]
    """(id, name)"""
    models: list[str]
    lines: list[str]
    codes: list[str]


class LogsView(View, frozen=True):
    """GET /logs. `next_url`: the older page. Live tail: the same in /account/v1, again and again.

    Export: `export_url` + "&format=csv" or "ndjson".
    """

    template = "logs.html"
    page = "logs"
    title = "Log"
    filter: LogFilter
    choices: Choices
    totals: CallTotals | None
    """None: this filter has none in reach (address, id, latency, cost); say nothing."""
    logs: list[CallRow]
    next_url: str | None
    export_url: str
    tail_url: str


class LogDetailView(View, frozen=True):
    """GET /logs/{id}: the drawer; without JavaScript a page."""

    template = "log_detail.html"
    page = "logs"
    title = "Call"
    detail: CallDetail
    curl: str
    """The call as curl, without its body."""


class UsageView(View, frozen=True):
    """GET /usage?by=&group=&since=&until=&key=&model=&line=."""

    template = "usage.html"
    page = "usage"
    title = "Usage"
    by: Literal["minute", "hour", "day"]
    group: Literal["", "model", "key", "line", "status"]
    filter: LogFilter
    choices: Choices
    usage: list[UsageRow]
    totals: CallTotals
    before: CallTotals
    """Of the period before, of the same length."""
    groups: list[tuple[str, CallTotals]]
    """The whole range by group, the dearest first."""
    rpm_limit: int
    tpm_limit: int
    addresses: list[AddressRow]
    """Distinct addresses in the range, the newest first."""


class KeysView(View, frozen=True):
    """GET /keys. `fresh`: a key just made or rotated, told once, with snippets."""

    template = "keys.html"
    page = "keys"
    title = "Keys"
    keys: list[KeyRow]
    management_keys: list[KeyRow]
    fresh: FreshKey | None
    models: list[str]
    lines: list[str]


class KeyDetailView(View, frozen=True):
    """GET /keys/{id}."""

    template = "key_detail.html"
    page = "keys"
    title = "Key"
    key: KeyRow
    addresses: list[AddressRow]
    calls_24h: int
    clients_24h: list[str]
    """Addresses that used it in the last day: what disabling it will hit."""
    logs: list[CallRow]
    """Its last 20 calls."""
    models: list[str]
    lines: list[str]
    """Those that the account may use."""


class BillingView(View, frozen=True):
    """GET /billing."""

    template = "billing.html"
    page = "billing"
    title = "Billing"
    balance: BalanceRow
    low_balance_alert_usd: Usd | None
    entries: list[EntryRow]
    next_url: str | None
    orders: list[OrderRow]
    bonus: list[BonusRow]
    currencies: list[str]
    cny_per_usd: str
    providers: list[str]
    """Ways to pay: "stripe", "manual"; empty = only an operator can credit."""
    enterprise_cny: str | None
    """What it takes to become an enterprise; None: no such thing here, or it is one already."""
    recharged_cny: str
    statements: list[StatementRow]


class PricesView(View, frozen=True):
    """GET /prices: an account's, or a stranger's where the operator allows it (group "")."""

    template = "prices.html"
    page = "prices"
    title = "Prices"
    search: str
    group: str
    group_multiplier: str
    prices: list[PriceRow]
    changes: list[ChangeRow]
    worked: CallDetail | None
    """A call of this account, to show how the multipliers make its cost; None: no call yet."""


class SettingsView(View, frozen=True):
    """GET /settings: one's own password, TOTP and sessions; for an owner the users and alerts."""

    template = "settings.html"
    page = "settings"
    title = "Settings"
    totp: bool
    totp_secret: str
    """Offered, not in force until a code of it is sent; empty where it is in force."""
    totp_url: str
    sessions: list[SessionRow]
    identities: list[IdentityRow]
    """Whom one has signed in as at an identity provider."""
    has_password: bool
    """Then it is asked for before an identity is unlinked."""
    users: list[UserRow]
    invited_url: str
    """The link of an invitation just made; told once."""
    audit: list[AuditRow]
    password_chars_min: int
    webhook_url: str
    low_balance_alert_usd: Usd | None
