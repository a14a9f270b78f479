"""Values that samples are made of: a row of each kind, some of them hard to show well."""

import math
from typing import Final

from relay.console import rows, views

NOW: Final = "2026-11-30T05:22:05.123Z"


def call(number: int = 0, **fields: object) -> rows.CallRow:
    """Return a call; every seventh failed."""
    bad = number % 7 == 6
    minute, second = 21 - number // 5, 59 - number % 5 * 11
    plain: dict[str, object] = {
        "request_id": f"req_019adf3c5b2e7c4d9f00{number:012x}",
        "time": f"2026-11-30T05:{minute:02d}:{second:02d}.{number * 131 % 1000:03d}Z",
        "account": "acme",
        "key_id": 3,
        "key_name": "laptop" if number % 4 == 1 else "ci",
        "key_last4": "7mKa" if number % 4 == 1 else "x9Qf",
        "ip": "203.0.113.9" if number % 5 else "2001:db8:85a3:8d3:1319:8a2e:370:7348",
        "ip_is_new": number % 5 == 0,
        "line": "acme-dedicated",
        "channel": None if bad else "openai-a",
        "model": "fast",
        "served_model": "" if bad else "gpt-4o-mini-2024-07-18",
        "translated": "",
        "endpoint": "chat/completions",
        "stream": number % 2 == 0,
        "status": 429 if bad else 200,
        "reason": "rejected" if bad else "completed",
        "error_code": "rate_limit_exceeded" if bad else "",
        "input_tokens": 0 if bad else 92_039 + number * 7_919 % 31_000,
        "cached_tokens": 0 if bad else 89_472 - number * 3_571 % 41_000,
        "cache_write_tokens": 0,
        "output_tokens": 0 if bad else 550 + number * 271 % 900,
        "reasoning_tokens": 0 if bad else 128,
        "estimated": False,
        "cost_usd": "0" if bad else f"{0.051108975 + number * 0.0071 % 0.04:.9f}",
        "ttft_ms": None if bad else 412.345 + number * 97 % 700,
        "total_ms": 3.2 if bad else 9_812.5 + number * 1_409 % 9_000,
        "tokens_per_s": None if bad else 58.5 + number * 7 % 31,
        "attempts": 0 if bad else 1 + number % 3,
    }
    return rows.CallRow(**{**plain, **fields})  # type: ignore[arg-type]


def _wave(at: int, mean: int) -> int:
    """Return what swings about a mean and is never twice the same, as load does."""
    return int(mean * (1 + 0.3 * math.sin(at / 9) + 0.12 * math.sin(at * 1.7)))


def usage(spans: int = 60, group: str | None = None) -> list[rows.UsageRow]:
    """Return spans of a minute, with a gap and with some that met the limit."""
    return [
        rows.UsageRow(
            time=f"2026-11-30T{4 + at // 60:02d}:{at % 60:02d}:00.000Z",
            group=group,
            requests=_wave(at, 1_000),
            errors=at % 11,
            limited=at % 11 if 20 < at < 30 else 0,
            input_tokens=_wave(at, 1_900_000),
            cached_tokens=_wave(at + 5, 900_000),
            output_tokens=_wave(at * 3, 160_000),
            tokens=_wave(at, 1_900_000) + _wave(at * 3, 160_000),
            cost_usd=f"{_wave(at, 2_000_000_000) / 1e9:.9f}",
            ttft_p50_ms=float(_wave(at * 2, 400)),
            ttft_p95_ms=float(_wave(at * 5, 1_300)),
        )
        for at in range(spans)
        if not 40 <= at < 44
    ]


def totals(requests: int = 18_204) -> rows.CallTotals:
    return rows.CallTotals(
        requests=requests,
        errors=55,
        input_tokens=61_234_567,
        cached_tokens=29_400_000,
        output_tokens=2_912_345,
        cost_usd="41.203456789",
    )


def detail() -> rows.CallDetail:
    """Return a call that failed over once and was carried on."""
    return rows.CallDetail(
        call=call(attempts=2, cost_usd="0.05110899"),
        started="2026-11-30T05:21:49.187Z",
        price_id=7,
        items=[
            rows.ReceiptItem(
                name="input", count=2_567, usd_per_million="5", usd_apiece=None,
                amount_usd="0.012835",
            ),
            rows.ReceiptItem(
                name="cached input", count=89_472, usd_per_million="0.5", usd_apiece=None,
                amount_usd="0.044736",
            ),
            rows.ReceiptItem(
                name="output", count=550, usd_per_million="30", usd_apiece=None, amount_usd="0.0165"
            ),
        ],
        group_multiplier="0.69",
        model_multiplier="1",
        receipt="2,567 x $5/M + 89,472 x $0.5/M + 550 x $30/M, x 0.69 = $0.05110899",
        transfer=8_812,
        tries=[
            rows.TryRow(
                channel="openai-b", outcome="refused", status=502, asked_ms=1.1, took_ms=212.0
            ),
            rows.TryRow(
                channel="openai-a", outcome="completed", status=200, asked_ms=None, took_ms=None
            ),
        ],
    )  # fmt: skip


def key(number: int = 3, **fields: object) -> rows.KeyRow:
    plain: dict[str, object] = {
        "id": number,
        "name": ("production", "ci", "a colleague's laptop")[number % 3],
        "last4": "x9Qf",
        "state": ("active", "disabled", "retiring", "expired")[number % 4],
        "created_at": "2026-08-01T09:00:00.000Z",
        "expires_at": None if number % 2 else "2026-12-01T00:00:00.000Z",
        "models": None if number % 2 else ["gpt-4o-mini", "fast"],
        "networks": None if number % 3 else ["10.0.0.0/8", "203.0.113.0/24"],
        "quota_usd": "100" if number % 2 else None,
        "budgets": ["50 usd/month@Europe/Berlin"] if number % 3 else [],
        "spent_usd": "88.120456789",
        "tpm": 1_000_000 if number % 2 else 0,
        "rpm": 0,
        "concurrency": 8,
        "last_used_at": NOW if number % 4 else None,
        "last_used_from": "203.0.113.9" if number % 4 else None,
    }
    return rows.KeyRow(**{**plain, **fields})  # type: ignore[arg-type]


def addresses() -> list[rows.AddressRow]:
    return [
        rows.AddressRow(
            address=address,
            first_seen="2026-11-29T22:10:00.000Z" if new else "2026-08-01T09:00:00.000Z",
            last_seen=NOW,
            requests=requests,
            is_new=new,
        )
        for address, requests, new in (
            ("198.51.100.77", 12, True),
            ("203.0.113.9", 812_345, False),
            ("2001:db8:85a3:8d3::/64", 44, False),
        )
    ]


def balance() -> rows.BalanceRow:
    return rows.BalanceRow(
        account="acme",
        balance_usd="412.081234567",
        held_usd="0.31",
        credit_limit_usd="0",
        free_usd="411.771234567",
    )


def order(number: int = 0, **fields: object) -> rows.OrderRow:
    status = ("pending", "credited", "paid")[number % 3]
    plain: dict[str, object] = {
        "order": f"R-20261130-{number:04d}",
        "account": "acme",
        "status": status,
        "amount": "720",
        "currency": "CNY",
        "paid_usd": "100",
        "bonus_usd": "5",
        "payment": "" if status == "pending" else "pi_3QabcXYZ",
        "created_at": "2026-11-30T05:05:00.000Z",
        "paid_at": None if status == "pending" else "2026-11-30T05:06:00.000Z",
        "credited_at": "2026-11-30T05:06:01.000Z" if status == "credited" else None,
        "stuck": status == "pending",
        "note": "paid by bank transfer, receipt 4711" if number == 3 else "",
        "picture": number == 3,
    }
    return rows.OrderRow(**{**plain, **fields})  # type: ignore[arg-type]


def price(model: str = "gpt-4o-mini", **fields: object) -> rows.PriceRow:
    plain: dict[str, object] = {
        "model": model,
        "input_usd": "0.15",
        "cached_input_usd": "0.075",
        "cache_write_usd": "0.15",
        "output_usd": "0.6",
        "per_call_usd": "0",
        "group_multiplier": "0.8",
        "model_multiplier": "1.5",
        "completion_multiplier": "4",
        "yours_input_usd": "0.18",
        "yours_cached_input_usd": "0.09",
        "yours_output_usd": "0.72",
        "yours_per_call_usd": "0",
    }
    return rows.PriceRow(**{**plain, **fields})  # type: ignore[arg-type]


def change() -> rows.ChangeRow:
    return rows.ChangeRow(
        model="gpt-4o-mini",
        time="2026-12-15T00:00:00.000Z",
        announced=True,
        before=price(),
        after=price(input_usd="0.2", yours_input_usd="0.24"),
        effect_usd="12.340000001",
    )


def user(number: int = 0) -> rows.UserRow:
    return rows.UserRow(
        id=number + 1,
        email=("owner@acme.example", "dev@acme.example", "a.very.long.name@subsidiary.example")[
            number % 3
        ],
        role=("owner", "member", "viewer")[number % 3],
        account="acme",
        state=("active", "active", "invited")[number % 3],
        totp=number == 0,
        created_at="2026-08-01T09:00:00.000Z",
        last_seen_at=NOW if number != 2 else None,
    )


def act(number: int = 0) -> rows.AuditRow:
    return rows.AuditRow(
        id=100 - number,
        time=NOW,
        actor=("owner@acme.example", "key automation", "admin token")[number % 3],
        account="acme",
        act=("key.disable", "key.create", "credit.book")[number % 3],
        target="ci",
        detail="" if number % 2 else "ticket 4711",
        ip="203.0.113.9",
    )


def needs() -> list[views.Need]:
    return [
        views.Need(
            kind="new_address", urgent=True, link="/keys/3",
            text='new address 198.51.100.77 on key "ci"',
        ),
        views.Need(
            kind="order_stuck", urgent=True, link="/billing",
            text="order R-20261130-0000 pending for 12 min",
        ),
        views.Need(
            kind="price_change", urgent=False, link="/prices", text="gpt-4o-mini changes on 15 Dec"
        ),
    ]  # fmt: skip


def channel(number: int = 0) -> rows.ChannelRow:
    return rows.ChannelRow(
        name=("openai-a", "openai-b", "azure-eu")[number % 3],
        protocol="openai",
        base_url="https://api.openai.com/v1",
        tier=number % 2,
        weight=1,
        state=("in service", "open", "drained")[number % 3],
        reason=(None, "upstream_error", None)[number % 3],
        trial_in_s=(None, 12.3, None)[number % 3],
        requests=(61_234, 12, 0)[number % 3],
        errors=(3, 9, 0)[number % 3],
        ttft_p50_ms=(410.0, 900.0, None)[number % 3],
        ttft_p95_ms=(1_300.0, 4_000.0, None)[number % 3],
        spark=[(at * 37) % 90 for at in range(60)],
        models=["gpt-4o-mini", "fast"],
    )
