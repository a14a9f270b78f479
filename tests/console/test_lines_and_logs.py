"""Goal: a key has the lines its account may use and no others; operators see every account's calls.

Method: both sides of the console on a real Postgres; a scripted upstream for the channel's test;
commands run as a shell runs them.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import CliRunner

from relay.cli.root import main
from relay.console.queries.operator import list_lines
from relay.store.log.writer import Mark, Part, write_batch
from tests.console.console_rig import Browser, ConsoleRig, opening
from tests.live.journals import make_end, make_start
from tests.local_app import serve_app

pytestmark = pytest.mark.live

LINES = """
    INSERT INTO lines (name, by_invitation) VALUES
        ('standard', false), ('fast', false), ('invited', true), ('foreign', false);
    INSERT INTO group_lines (group_id, position, line_id)
        SELECT accounts.group_id, place, lines.id FROM accounts, lines
        JOIN (VALUES ('standard', 0), ('fast', 1), ('invited', 2)) AS w (name, place) USING (name)
        WHERE accounts.name = 'acme'"""


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        await rig.connection.execute(LINES)
        yield rig


@pytest.fixture
async def owner(console: ConsoleRig) -> Browser:
    return await console.sign_in("ann@acme.example", "acme", "owner")


@pytest.fixture
async def operator(console: ConsoleRig) -> Browser:
    return await console.sign_in("op@relay.example", None, "operator")


async def lines_of(owner: Browser, key_id: int) -> list[str] | None:
    found: list[str] | None = (await owner.get(f"/account/v1/keys/{key_id}"))["lines"]
    return found


async def test_a_key_has_the_lines_that_were_chosen_the_default_first(owner: Browser) -> None:
    _, made = await owner.call(
        "POST", "/account/v1/keys", {"name": "ci", "lines": ["fast", "standard"]}
    )
    path = f"/account/v1/keys/{made['id']}"
    assert await lines_of(owner, made["id"]) == ["fast", "standard"]
    status, row = await owner.call("POST", f"{path}/lines", {"lines": ["standard"]})
    assert (status, row["lines"]) == (200, ["standard"])
    await owner.call("POST", f"{path}/lines", {"lines": None})
    assert await lines_of(owner, made["id"]) is None


async def test_the_form_ticks_lines_and_names_the_default(owner: Browser) -> None:
    fields = {"name": "web", "line:standard": "on", "line:fast": "on", "default_line": "fast"}
    status, text, _ = await owner.post("/keys", fields)
    assert status == 200, text
    (row,) = (await owner.get("/account/v1/keys"))["keys"]
    assert row["lines"] == ["fast", "standard"]
    page = await owner.page(f"/keys/{row['id']}")
    assert "fast, standard" in page
    assert "invited" not in page
    assert "foreign" not in page
    await owner.post(f"/keys/{row['id']}/lines", {"line:standard": "on"})
    assert await lines_of(owner, row["id"]) == ["standard"]


@pytest.mark.parametrize("line", ["invited", "foreign", "unknown"])
async def test_lines_of_others_are_refused_alike(
    owner: Browser, line: str, console: ConsoleRig
) -> None:
    status, found = await owner.call("POST", "/account/v1/keys", {"name": "x", "lines": [line]})
    assert (status, found["error"]["message"]) == (400, f"lines: the account has no line '{line}'")
    assert (await owner.get("/account/v1/keys"))["keys"] == []


async def test_a_granted_line_may_be_chosen(console: ConsoleRig, owner: Browser) -> None:
    await console.connection.execute(
        """UPDATE accounts SET granted_line_ids = (SELECT array_agg(id) FROM lines
        WHERE name = 'invited')"""
    )
    status, _ = await owner.call("POST", "/account/v1/keys", {"name": "x", "lines": ["invited"]})
    assert status == 201


async def test_a_rotated_key_keeps_its_lines(owner: Browser) -> None:
    _, made = await owner.call("POST", "/account/v1/keys", {"name": "ci", "lines": ["fast"]})
    _, fresh = await owner.call("POST", f"/account/v1/keys/{made['id']}/rotate", {})
    assert await lines_of(owner, fresh["id"]) == ["fast"]


async def test_an_operator_sees_the_calls_of_all_accounts_and_of_one(
    console: ConsoleRig, operator: Browser, owner: Browser
) -> None:
    await console.add_account("other")
    ends = [
        make_end(
            make_start(
                request_id=bytes(15) + bytes([at]), account_id=at, key_id=at, model=f"m{at}"
            ),
            cost_nanos=1_000,
            price_id=0,
        )
        for at in (1, 2)
    ]
    await write_batch(console.connection, [Part("w", Mark(1, 2), ends)])
    names = [f"req_{end.request_id.hex()}" for end in ends]
    since = "since=2020-01-01T00:00:00Z"
    page = await operator.page(f"/logs?{since}")
    assert names[0] in page
    assert names[1] in page
    page = await operator.page(f"/logs?{since}&account=other")
    assert names[0] not in page
    assert names[1] in page
    assert "m1" in await operator.page(f"/logs/{names[0]}")
    assert (await operator.ask("GET", "/logs?account=nobody"))[0] == 404
    assert (await owner.ask("GET", f"/logs/{names[1]}"))[0] == 404


async def test_a_channel_is_tested_from_its_page(console: ConsoleRig, operator: Browser) -> None:
    async def models(_request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "served"}]})

    app = web.Application()
    app.router.add_get("/v1/models", models)
    async with serve_app(app) as port:
        for name, url in (
            ("good", f"http://127.0.0.1:{port}/v1"),
            ("gone", "http://127.0.0.1:9/v1"),
        ):
            await console.connection.execute(
                """INSERT INTO channels (name, base_url, models)
                VALUES ($1, $2, '{"m": "served"}')""",
                name,
                url,
            )
        await operator.post("/channels/good/test")
        assert "Channel good: ok" in await operator.page("/channels")
        await operator.post("/channels/gone/test")
        assert "Channel gone: no answer" in await operator.page("/channels")
        assert (await operator.post("/channels/none/test"))[0] == 404
    acts = [(act, target) for _, act, target in await console.acts()]
    assert acts[-2:] == [("channel.test", "good"), ("channel.test", "gone")]


async def test_commands_leave_their_line_in_the_audit_log(
    console: ConsoleRig, database_url: str, tmp_path: Path
) -> None:

    def run(*arguments: str) -> None:
        done = CliRunner().invoke(
            main,
            ["--data-dir", str(tmp_path), *arguments],
            env={"RELAY_DATABASE__URL": database_url},
        )
        assert done.exit_code == 0, done.output

    await asyncio.to_thread(run, "key", "create", "--account", "acme", "--name", "ci")
    await asyncio.to_thread(run, "key", "list")
    await asyncio.to_thread(run, "key", "disable", "acme/ci")
    acts = await console.acts()
    assert [(act, target) for _, act, target in acts] == [
        ("cli.key.create", "acme/ci"),
        ("cli.key.disable", "acme/ci"),
    ]
    assert all(actor.startswith("command by ") for actor, _, _ in acts)


async def test_lines_show_their_reserve_and_are_shown_without_redis_too(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    for url, borrowed in ((redis_url, 0), ("redis://127.0.0.1:1", None)):
        async with opening(database_url, tmp_path, redis_url=url) as rig:
            await rig.connection.execute(
                """WITH up AS (
                    INSERT INTO channels (name, models, base_url, tpm)
                    VALUES ('up', '{"fast": "fast"}', 'http://127.0.0.1:9/v1', 50000000)
                    ON CONFLICT DO NOTHING RETURNING id
                ), line AS (
                    INSERT INTO lines (name, kind, tpm) VALUES ('own', 'dedicated', 30000000)
                    ON CONFLICT DO NOTHING RETURNING id
                ) INSERT INTO line_channels (line_id, channel_id, position)
                SELECT line.id, up.id, 0 FROM line, up"""
            )
            operator = await rig.sign_in(f"op{borrowed}@relay.example", None, "operator")
            (row,) = (
                one for one in await list_lines(rig.services, rig.connection) if one.name == "own"
            )
            assert (row.reserve, row.borrowed) == (30_000_000, borrowed)
            assert "<b>own</b>" in await operator.page("/lines")
