"""What API and pages show, as typed rows: one name for one thing, in JSON, on a page, in a CSV.

Money is a decimal string in USD, exact to the nano-dollar; a moment is ISO 8601 in UTC; what is not
known is None, never zero. OpenAPI's schemas are made of these types.
"""

from typing import Literal

import msgspec

Role = Literal["owner", "member", "viewer", "operator"]
Moment = str
Usd = str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of values."""


# --- the request log ------------------------------------------------------------------------------


class CallRow(Row, frozen=True):
    """One call of the request log, as `relay logs --json` shows it, and a little more."""

    request_id: str
    time: Moment
    """When it ended."""
    account: str | None
    key_id: int
    key_name: str | None
    key_last4: str | None
    ip: str | None
    ip_is_new: bool
    """The key was never used from this address before the day of this call."""
    line: str | None
    channel: str | None
    model: str
    served_model: str
    translated: str
    """From what dialect into what its channel speaks, as openai>anthropic; empty: it was not."""
    endpoint: str
    stream: bool
    status: int
    reason: str
    error_code: str
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost_usd: Usd
    ttft_ms: float | None
    total_ms: float
    tokens_per_s: float | None
    attempts: int


class TryRow(Row, frozen=True):
    """One channel that a call asked; the last of them served it, where one did."""

    channel: str | None
    outcome: str
    status: int | None
    asked_ms: float | None
    """After the arrival of the call."""
    took_ms: float | None


class ReceiptItem(Row, frozen=True):
    """A line of the sum that a call's cost is: `count` x `usd_per_million` (or apiece).

    Of sound the seconds are counted.
    """

    name: str
    """fresh input, cached input, cache write, output, reasoning, image, call, ..."""
    count: int | float
    usd_per_million: str | None
    usd_apiece: str | None
    amount_usd: Usd
    """Before the multipliers; exact, not rounded."""


class CallDetail(Row, frozen=True):
    """All there is of one call. The content of question and answer is kept nowhere."""

    call: CallRow
    started: Moment
    price_id: int | None
    items: list[ReceiptItem]
    group_multiplier: str
    model_multiplier: str
    receipt: str | None
    """The sum in one line: "2,567 x $5/M + 550 x $30/M, x 0.69 = $0.05110899"."""
    transfer: int | None
    """The ledger's transfer that charged it; None: not booked yet, or free of charge."""
    tries: list[TryRow]


class CallTotals(Row, frozen=True):
    """Sums over all calls of a filter; `exact` False: of whole minutes or hours around it."""

    requests: int
    errors: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: Usd


class CallPage(Row, frozen=True):
    """A page of the log; `next` is None on the last one."""

    logs: list[CallRow]
    next: str | None


# --- usage ----------------------------------------------------------------------------------------


class UsageRow(Row, frozen=True):
    """What happened in one span of time, of one group where groups were asked for."""

    time: Moment
    group: str | None
    requests: int
    errors: int
    limited: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    tokens: int
    cost_usd: Usd
    ttft_p50_ms: float | None
    """From a histogram with steps of 1.41: right to about a tenth."""
    ttft_p95_ms: float | None


class UsageAnswer(Row, frozen=True):
    """Spans with calls only, oldest first: a gap is a gap."""

    usage: list[UsageRow]


# --- keys -----------------------------------------------------------------------------------------


class KeyRow(Row, frozen=True):
    """A key, as far as it may be shown."""

    id: int
    name: str
    last4: str
    state: Literal["active", "disabled", "expired", "retiring"]
    """retiring: it was rotated, and works until `expires_at`."""
    created_at: Moment
    expires_at: Moment | None
    models: list[str] | None
    networks: list[str] | None
    quota_usd: Usd | None
    budgets: list[str]
    """As 50 usd/month@Europe/Berlin: what it may use by the calendar."""
    spent_usd: Usd
    tpm: int
    rpm: int
    concurrency: int
    last_used_at: Moment | None
    last_used_from: str | None
    lines: list[str] | None = None
    """Its own choice, the default first; None: all that its account may use, in their order."""


class FreshKey(Row, frozen=True):
    """A key just made or rotated: `key` is told this once."""

    id: int
    name: str
    key: str
    old_id: int | None = None
    old_expires_at: Moment | None = None


class AddressRow(Row, frozen=True):
    """A place a key was used from: an IPv4 address, or an IPv6 /64."""

    address: str
    first_seen: Moment
    last_seen: Moment
    requests: int
    is_new: bool
    """First seen in the last 7 days, and not the key's first address."""


# --- money ----------------------------------------------------------------------------------------


class BalanceRow(Row, frozen=True):
    """What an account has, what of it is held for running calls, how far below zero it may go."""

    account: str
    balance_usd: Usd
    held_usd: Usd
    credit_limit_usd: Usd
    free_usd: Usd


class EntryRow(Row, frozen=True):
    """A booking of the ledger, with the balance after it."""

    transfer: int
    time: Moment
    kind: str
    """usage, order, code, manual"""
    amount_usd: Usd
    balance_usd: Usd
    ref: str
    reason: str


class OrderRow(Row, frozen=True):
    """A recharge: opened, paid, credited."""

    order: str
    account: str
    status: Literal["pending", "paid", "credited"]
    amount: str
    """In `currency`."""
    currency: str
    paid_usd: Usd
    bonus_usd: Usd
    payment: str
    """The payment provider's own number."""
    created_at: Moment
    paid_at: Moment | None
    credited_at: Moment | None
    stuck: bool
    """Pending for 10 minutes or more: its holder is told what to do."""
    note: str
    """What its holder wrote to support."""
    provider: str = ""
    """stripe; "" = as its holder and the operator agree, or a shop's callback."""
    checkout_url: str = ""
    """Where a pending order is paid."""
    closed_at: Moment | None = None
    """Since when nobody is expected to pay it any more."""
    picture: bool = False
    """Its holder has shown support a picture of the receipt."""


class BonusRow(Row, frozen=True):
    """From this amount on, this share is added."""

    from_usd: Usd
    share: str


class StatementRow(Row, frozen=True):
    """One month: opening + sums of each kind = closing, to the nano-dollar."""

    month: str
    opening_usd: Usd
    recharged_usd: Usd
    codes_usd: Usd
    manual_usd: Usd
    usage_usd: Usd
    closing_usd: Usd


class PriceRow(Row, frozen=True):
    """A model's price: official per 1M tokens, and what this account pays per 1M."""

    model: str
    input_usd: Usd
    cached_input_usd: Usd
    cache_write_usd: Usd
    output_usd: Usd
    per_call_usd: Usd
    group_multiplier: str
    model_multiplier: str
    completion_multiplier: str | None
    yours_input_usd: Usd
    yours_cached_input_usd: Usd
    yours_output_usd: Usd
    yours_per_call_usd: Usd


class ChangeRow(Row, frozen=True):
    """A price that changed or will change."""

    model: str
    time: Moment
    announced: bool
    """True: it is still to come."""
    before: PriceRow | None
    after: PriceRow | None
    effect_usd: Usd | None
    """What the account's last 30 days would have cost more (or less, where negative)."""


# --- people and acts ------------------------------------------------------------------------------


class UserRow(Row, frozen=True):
    """Somebody who can sign in."""

    id: int
    email: str
    role: Role
    account: str | None
    state: Literal["active", "invited", "disabled"]
    totp: bool
    created_at: Moment
    last_seen_at: Moment | None


class SessionRow(Row, frozen=True):
    """A browser that is signed in."""

    id: int
    created_at: Moment
    seen_at: Moment
    ip: str | None
    agent: str
    current: bool


class IdentityRow(Row, frozen=True):
    """Who a user is at an identity provider."""

    issuer: str
    subject: str
    created_at: Moment


class AuditRow(Row, frozen=True):
    """An act: who, what, to whom, when, from where."""

    id: int
    time: Moment
    actor: str
    """An e-mail address, "key NAME" of a management key, "admin API", "command LOGIN"."""
    account: str | None
    act: str
    """As "key.disable"."""
    target: str
    detail: str
    ip: str | None


# --- the operator's -------------------------------------------------------------------------------


class ChannelRow(Row, frozen=True):
    """A channel and how it stands."""

    name: str
    protocol: str
    base_url: str
    tier: int
    weight: int
    state: str
    """in service, half-open, open, drained, evicted, unknown"""
    reason: str | None
    trial_in_s: float | None
    requests: int
    """Of the last hour, as all below."""
    errors: int
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    spark: list[int]
    """Calls a minute, the last 60 of them, oldest first."""
    models: list[str]


class LineRow(Row, frozen=True):
    """A line and its load."""

    name: str
    kind: str
    tpm: int
    """0: no limit."""
    tpm_now: int
    rpm: int
    rpm_now: int
    concurrency: int
    limited: int
    """Calls of the last hour that were answered 429."""
    channels: list[str]
    accounts: list[str]
    reserve: int | None = None
    """Tokens a minute of its channels that it was sold; of this and the rest null: nobody knows."""
    used: int | None = None
    """...that it uses now,"""
    lent: int | None = None
    """...that others use of its reserve,"""
    borrowed: int | None = None
    """...that lines of its kind use of others' reserves."""
    in_flight: int | None = None
    """Calls under way, where it has a limit on them."""


class AccountRow(Row, frozen=True):
    """An account, for the operator."""

    name: str
    group: str
    multiplier: str
    balance_usd: Usd
    credit_limit_usd: Usd
    spent_30d_usd: Usd
    requests_24h: int
    errors_24h: int
    keys: int
    users: int
    tpm: int
    rpm: int
    disabled: bool


class WorkRow(Row, frozen=True):
    """What a work of the night did last."""

    work: str
    started: Moment
    took_ms: float | None
    outcome: Literal["running", "done", "stopped", "failed"]
    host: str
    detail: str


class WindowRow(Row, frozen=True):
    """A maintenance window."""

    starts: Moment
    ends: Moment
    state: Literal["past", "now", "next", "planned", "skipped"]
