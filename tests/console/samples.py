"""A sample of each page's view, with the values that are hard to show well. No database.

`samples()` names them: "overview", "overview-empty", "logs", ... The preview of rig.py serves each
under its name.
"""

from typing import Final

from relay.console import rows, views
from tests.console.values import (
    NOW,
    act,
    addresses,
    balance,
    call,
    change,
    channel,
    detail,
    key,
    needs,
    order,
    price,
    totals,
    usage,
    user,
)

CATALOG: Final = """[[channel]]
name = "openai-2"
base_url = "https://api.openai.com/v1"
models = ["gpt-4o-mini"]

[[line]]
name = "standard"
channels = ["openai", "openai-2"]
tpm = 6000000
"""


def samples() -> dict[str, tuple[str, views.View]]:
    """Return name -> (side, view) of every page, some of them twice."""
    return {
        **{name: ("account", view) for name, view in _entrances().items()},
        **{name: ("account", view) for name, view in _account_pages().items()},
        **{name: ("account", view) for name, view in _money_pages().items()},
        **{name: ("operator", view) for name, view in _operator_pages().items()},
        **{name: ("operator", view) for name, view in _catalog_pages().items()},
    }


def _entrances() -> dict[str, views.View]:
    return {
        "login-sso": views.LoginView(next="/keys", sso="Acme ID"),
        "login": views.LoginView(),
        "login-code": views.LoginView(email="owner@acme.example", wants_code=True),
        "invitation": views.InvitationView(
            email="dev@acme.example", account="acme", role="member", is_reset=False,
            password_chars_min=12,
        ),
        "link": views.LinkView(email="owner@demo.example", account="demo"),
        "failure": views.FailureView(
            status=404, message="There is no such call in the log of this account.",
            request_id="req_019adf3c5b2e7c4d9f00000000000001", back="/logs",
        ),
    }  # fmt: skip


CHOICES: Final = views.Choices(
    keys=[("3", "ci"), ("4", "production")],
    models=["fast", "gpt-4o-mini"],
    lines=["acme-dedicated", "standard"],
    codes=["rate_limit_exceeded", "model_not_found"],
)
NO_CHOICES: Final = views.Choices(keys=[], models=[], lines=[], codes=[])
NO_TOTALS: Final = rows.CallTotals(
    requests=0, errors=0, input_tokens=0, cached_tokens=0, output_tokens=0, cost_usd="0"
)


def _overview(*, empty: bool) -> views.View:
    return views.OverviewView(
        balance=balance(),
        days_left=None if empty else 9.2,
        rpm=0 if empty else 1_204,
        rpm_limit=0,
        tpm=0 if empty else 3_104_000,
        tpm_limit=30_000_000,
        error_share=None if empty else 0.0002,
        ttft_p50_ms=None if empty else 410.0,
        ttft_p95_ms=None if empty else 1_300.0,
        usage=[] if empty else usage(),
        needs=[] if empty else needs(),
        has_calls=not empty,
    )


def _logs(*, empty: bool) -> views.View:
    return views.LogsView(
        filter=views.LogFilter(since="24h", status="4xx" if empty else ""),
        choices=NO_CHOICES if empty else CHOICES,
        totals=NO_TOTALS if empty else totals(),
        logs=[] if empty else [call(number) for number in range(50)],
        next_url=None if empty else "/logs?since=24h&cursor=bm90IGEgc2VjcmV0",
        export_url="/account/v1/logs/export?since=24h",
        tail_url="/account/v1/logs?since=24h",
    )


def _account_pages() -> dict[str, views.View]:
    fresh = rows.FreshKey(id=9, name="laptop", key="relay_" + "0" * 32 + "abcdef")
    keys = [key(number) for number in range(1, 7)]
    return {
        "overview": _overview(empty=False),
        "overview-empty": _overview(empty=True),
        "logs": _logs(empty=False),
        "logs-empty": _logs(empty=True),
        "log-detail": views.LogDetailView(
            detail=detail(), curl="curl http://127.0.0.1:8080/v1/chat/completions ..."
        ),
        "usage": views.UsageView(
            by="minute",
            group="model",
            filter=views.LogFilter(since="1h"),
            choices=CHOICES,
            usage=[*usage(group="fast"), *usage(group="gpt-4o-mini")],
            totals=totals(),
            before=totals(16_001),
            groups=[("fast", totals(12_000)), ("gpt-4o-mini", totals(6_204))],
            rpm_limit=0,
            tpm_limit=30_000_000,
            addresses=addresses(),
        ),
        "usage-whole": views.UsageView(
            by="minute",
            group="",
            filter=views.LogFilter(since="1h"),
            choices=CHOICES,
            usage=usage(),
            totals=totals(),
            before=totals(16_001),
            groups=[],
            rpm_limit=1_500,
            tpm_limit=3_000_000,
            addresses=[],
        ),
        "keys": views.KeysView(
            keys=keys, management_keys=[], fresh=None, models=["fast"],
            lines=["acme-dedicated", "standard"],
        ),
        "keys-fresh": views.KeysView(
            keys=keys, management_keys=[key(5, name="automation")], fresh=fresh, models=["fast"],
            lines=["acme-dedicated", "standard"],
        ),
        "keys-empty": views.KeysView(
            keys=[], management_keys=[], fresh=None, models=[], lines=[]
        ),
        "key-detail": views.KeyDetailView(
            key=key(5), addresses=addresses(), calls_24h=1_204,
            clients_24h=["10.0.0.7", "203.0.113.9"], logs=[call(number) for number in range(20)],
            lines=["acme-dedicated", "standard"],
            models=["fast"],
        ),
    }  # fmt: skip


def _money_pages() -> dict[str, views.View]:
    entries = [
        rows.EntryRow(
            transfer=900 - at, time=NOW, kind=("usage", "order", "code", "manual")[at % 4],
            amount_usd=("-0.051108975", "105", "10", "-2.5")[at % 4], balance_usd="412.081234567",
            ref=("batch 12", "R-20261130-0001", "", "ticket 4711")[at % 4],
            reason="goodwill" if at % 4 == 3 else "",
        )
        for at in range(12)
    ]  # fmt: skip
    month = rows.StatementRow(
        month="2026-11", opening_usd="400", recharged_usd="105", codes_usd="10", manual_usd="-2.5",
        usage_usd="-100.418765433", closing_usd="412.081234567",
    )  # fmt: skip
    return {
        "billing": views.BillingView(
            balance=balance(),
            low_balance_alert_usd="50",
            entries=entries,
            next_url="/billing?cursor=bm90IGEgc2VjcmV0",
            orders=[order(number) for number in range(5)],
            bonus=[rows.BonusRow(from_usd="100", share="0.05")],
            currencies=["USD", "CNY"],
            cny_per_usd="7.2",
            providers=["stripe", ""],
            enterprise_cny="3000",
            recharged_cny="1860",
            statements=[month],
        ),
        "prices": views.PricesView(
            search="",
            group="enterprise",
            group_multiplier="0.8",
            prices=[price(), price("fast"), price("claude-sonnet-4-5")],
            changes=[change()],
            worked=detail(),
        ),
        "settings": views.SettingsView(
            totp=False,
            totp_secret="JBSWY3DPEHPK3PXP",
            totp_url="otpauth://totp/relay:owner%40acme.example?secret=JBSWY3DPEHPK3PXP",
            sessions=[
                rows.SessionRow(
                    id=at, created_at=NOW, seen_at=NOW, ip="203.0.113.9", agent="Firefox on Linux",
                    current=at == 1,
                )
                for at in (1, 2)
            ],
            identities=[
                rows.IdentityRow(
                    issuer="https://id.acme.example", subject="248289761001", created_at=NOW
                )
            ],
            has_password=True,
            users=[user(number) for number in range(3)],
            invited_url="",
            audit=[act(number) for number in range(8)],
            password_chars_min=12,
            webhook_url="https://hooks.acme.example/relay",
            low_balance_alert_usd="50",
        ),
    }  # fmt: skip


def _done_work() -> rows.WorkRow:
    return rows.WorkRow(
        work="vacuum",
        started="2026-11-30T20:04:05.000Z",
        took_ms=61_200.0,
        outcome="done",
        host="web1 /var/lib/relay",
        detail="3 of 3 steps",
    )


def _operator_pages() -> dict[str, views.View]:
    draft = views.PriceDraft(
        model="gpt-4o-mini", input_usd="0.2", cached_input_usd="0.1", cache_write_usd="0",
        output_usd="0.8", per_call_usd="0", model_multiplier="1", completion_multiplier="",
    )  # fmt: skip
    return {
        "operator-overview": views.OperatorOverviewView(
            rpm=61_204, tpm=153_000_000, error_share=0.0011, ttft_p50_ms=410.0,
            ttft_p95_ms=1_300.0, log_age_s=0.4, workers={"worker-0": "ready", "worker-1": "ready"},
            usage=usage(), needs=needs()[1:2],
        ),
        "operator-logs": views.OperatorLogsView(
            account="acme", filter=views.LogFilter(),
            totals=totals(), logs=[call(), call(status=429, reason="rejected")], next_url=None,
        ),
        "operator-channels": views.ChannelsView(channels=[channel(at) for at in range(3)]),
        "operator-accounts": views.AccountsView(
            search="",
            accounts=[
                rows.AccountRow(
                    name="acme", group="enterprise", multiplier="0.8",
                    balance_usd="412.081234567", credit_limit_usd="0", spent_30d_usd="1812.3",
                    requests_24h=812_345, errors_24h=112, keys=6, users=3, tpm=0, rpm=0,
                    disabled=False,
                )
            ],
            next_url=None,
        ),
        "operator-prices": views.OperatorPricesView(
            search="", prices=[price()], groups=[("enterprise", "0.8")], draft=draft,
            preview=views.PricePreview(
                draft=draft, requests=812_345, charged_usd="1812.3", would_be_usd="2416.4",
                accounts=[("acme", "1812.3", "2416.4")],
            ),
            planned=[views.PlannedPrice(id=1, model="fast", time=NOW, actor="op@relay.example",
                input_usd="0.2", output_usd="0.8", model_multiplier="1")],
            changes=[change()],
        ),
        "operator-orders": views.OrdersView(
            search="", status="", stuck=[order(0), order(3)],
            orders=[order(number) for number in range(6)], next_url=None,
        ),
        "operator-maintenance": views.MaintenanceView(
            window="04:00-05:00", zone="Asia/Shanghai",
            windows=[
                rows.WindowRow(
                    starts="2026-12-01T20:00:00.000Z", ends="2026-12-01T21:00:00.000Z", state="next"
                )
            ],
            works=[_done_work()],
            partitions=[("request_log", 90), ("usage_minutes", 400)],
            table_bytes={"request_log": 4_812_345_678},
        ),
        "operator-audit": views.AuditView(
            actor="", account="", act="", rows=[act(number) for number in range(20)], next_url=None
        ),
        "operator-users": views.UsersView(
            search="", users=[user(number) for number in range(3)], accounts=["acme"],
            fresh_url="http://127.0.0.1:8082/invite/0000", fresh_email="dev@acme.example",
        ),
    }  # fmt: skip


def _catalog_pages() -> dict[str, views.View]:
    return {
        "operator-lines": views.LinesView(
            lines=[
                rows.LineRow(
                    name="acme-dedicated", kind="dedicated", tpm=30_000_000, tpm_now=21_400_000,
                    rpm=0, rpm_now=9_120, concurrency=0, limited=12,
                    channels=["openai-a", "openai-b"], accounts=["acme"], reserve=30_000_000,
                    used=21_400_000, lent=6_300_000, borrowed=0,
                ),
                rows.LineRow(
                    name="standard", kind="standard", tpm=0, tpm_now=9_800_000, rpm=0,
                    rpm_now=4_120, concurrency=0, limited=0, channels=["openai-a", "openai-b"],
                    accounts=["folk", "retail"], reserve=0, used=9_800_000, lent=0,
                    borrowed=6_300_000,
                ),
            ]
        ),
        "operator-catalog": views.CatalogView(
            catalog=CATALOG, seen="0" * 64, asked=("openai-2",), kept=("openai",),
            changes=[
                views.ChangeShown(kind="channel", name="openai-2", action="added", fields=[]),
                views.ChangeShown(kind="line", name="standard", action="changed", fields=[
                    ("tpm", "3000000", "6000000"),
                    ("channels", "['openai']", "['openai', 'openai-2']"),
                ]),
                views.ChangeShown(kind="price", name="gpt-4o-mini", action="removed", fields=[]),
            ],
        ),
        "operator-catalog-empty": views.CatalogView(),
    }  # fmt: skip
