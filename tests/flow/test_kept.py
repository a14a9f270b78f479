"""Goal: what a provider keeps is read, cancelled and deleted where it was made; nobody pays twice.

Method: providers that keep responses, relays before them, the official client; background responses
that end whenever a test says so.
"""

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError

from relay.billing.charged import SLACK_TOKENS
from relay.flow.state import background
from relay.model import Dialect
from relay.wire.state.jobs import RESPONSE_JOB
from tests.flow.provider import USAGE, Provider
from tests.flow.rig import KEY, MODEL, Rig, make_snapshot, post
from tests.flow.test_state import OTHER_KEY, ask, get, made_where, read, standing


async def test_the_official_client_reads_what_is_kept_over_any_worker() -> None:
    async with (
        standing(channels=3, relays=2) as (rigs, providers, _),
        AsyncOpenAI(base_url=rigs[0].url, api_key=KEY, max_retries=0) as here,
        AsyncOpenAI(base_url=rigs[1].url, api_key=KEY, max_retries=0) as there,
    ):
        made = await here.responses.create(model=MODEL, input="hello")
        owner = made_where(providers, made.id)
        assert (await there.responses.retrieve(made.id)).id == made.id
        items = await there.responses.input_items.list(made.id, limit=5)
        assert [item.id for item in items.data] == ["msg_in"]
        assert owner.calls[-1] == ("GET", f"/responses/{made.id}/input_items?limit=5")
        await there.responses.delete(made.id)
        assert made.id not in owner.responses
        with pytest.raises(NotFoundError):
            await here.responses.retrieve(made.id)
        ends = [end for rig in rigs for end in rig.journal.ends]
        assert [end.cost_nanos for end in ends if end.endpoint != "responses"] == [0] * 4
        assert {end.endpoint for end in ends} == {"responses", "responses/{id}"}


async def test_a_stream_is_taken_up_again_behind_an_event() -> None:
    async with standing(channels=2, relays=2) as (rigs, _, _):
        _, made = await ask(rigs[0], "/v1/responses", {"model": MODEL, "input": "hello"})
        path = f"/v1/responses/{made['id']}?stream=true&starting_after=2&foo=bar"
        status, said = await get(rigs[1], "GET", path)
        assert status == 200 and b'"sequence_number":3' in said and b"response.completed" in said
        assert b'"sequence_number":2' not in said
        assert [end.cost_nanos for end in rigs[1].journal.ends] == [0]


async def test_a_resumed_stream_that_breaks_off_does_not_say_that_the_response_failed() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        _, made = await ask(rig, "/v1/responses", {"model": MODEL, "input": "hello"})
        provider.cut_after = 5
        status, said = await get(rig, "GET", f"/v1/responses/{made['id']}?stream=true")
        assert status == 200 and b"response.failed" not in said
        assert said.rpartition(b"event: ")[2].startswith(b'error\ndata: {"type":"error"')


async def test_conversations_are_where_they_were_made() -> None:
    async with (
        standing(channels=3, relays=2) as (rigs, providers, _),
        AsyncOpenAI(base_url=rigs[0].url, api_key=KEY, max_retries=0) as here,
        AsyncOpenAI(base_url=rigs[1].url, api_key=KEY, max_retries=0) as there,
    ):
        made = await here.conversations.create()
        (owner,) = (one for one in providers if made.id in one.conversations)
        for client in (there, here, there):
            await client.responses.create(model=MODEL, input="so", conversation=made.id)
        assert len(owner.responses) == 3
        assert (await there.conversations.retrieve(made.id)).id == made.id
        await there.conversations.delete(made.id)
        assert owner.conversations == {}


async def test_input_tokens_are_counted_for_nothing() -> None:
    async with standing(channels=1) as ([rig], _, _):
        asked = {"model": MODEL, "input": "hello"}
        status, told = await ask(rig, "/v1/responses/input_tokens", asked)
        assert status == 200 and told["input_tokens"] == 7
        assert rig.journal.ends[0].cost_nanos == 0


async def test_files_are_where_they_were_sent_to_and_calls_that_name_them_follow() -> None:
    async with (
        standing(channels=3, relays=2) as (rigs, providers, _),
        AsyncOpenAI(base_url=rigs[0].url, api_key=KEY, max_retries=0) as here,
        AsyncOpenAI(base_url=rigs[1].url, api_key=KEY, max_retries=0) as there,
    ):
        for number in range(4):
            sent = await here.files.create(file=("a.txt", b"hello"), purpose="user_data")
            (owner,) = (one for one in providers if sent.id in one.files)
            part: Any = {"type": "input_file", "file_id": sent.id}
            asked: Any = [{"role": "user", "content": [part]}]
            made = await there.responses.create(model=MODEL, input=asked, store=False)
            assert made.id in owner.made
            assert (await there.files.content(sent.id)).read().endswith(b"hello")
            status, _ = await get(rigs[0], "GET", f"/v1/files/{sent.id}", key=OTHER_KEY)
            assert status == 404
            await there.files.delete(sent.id)
            assert sent.id not in owner.files and number < 4
        assert (await get(rigs[0], "GET", "/v1/files"))[0] == 405
        assert all(end.cost_nanos == 0 for end in rigs[0].journal.ends)


async def test_files_of_claude_go_to_channels_of_its_dialect() -> None:
    async with Provider(1) as openai, Provider(2) as claude:
        dialect = {"protocol": Dialect.ANTHROPIC}
        snapshot = make_snapshot([openai.channel(), claude.channel(**dialect)])
        async with Rig(snapshot) as rig:
            form = b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nhello\r\n--b--\r\n"
            head = (
                "POST /v1/files HTTP/1.1\r\nHost: r\r\nanthropic-version: 2023-06-01\r\n"
                f"anthropic-beta: files-api-2025-04-14\r\nx-api-key: {KEY}\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n"
                f"Content-Length: {len(form)}\r\n\r\n"
            )
            status, told = read(await rig.say(head.encode() + form))
            assert status == 200 and told["id"] in claude.files and openai.files == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/responses/resp_1", 405),
        ("GET", "/v1/responses/resp_1/cancel", 405),
        ("GET", "/v1/responses/resp%5F1", 404),
        ("GET", "/v1/responses/../files", 404),
        ("GET", "/v1/responses/resp_1/anything", 404),
        ("GET", "/v1/responses", 405),
        ("GET", "/v1/responses/compact", 405),
    ],
)
async def test_paths_that_are_none_are_refused(method: str, path: str, status: int) -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        assert (await get(rig, method, path))[0] == status
        assert provider.calls == []


class Hurry:
    """Has background responses asked for without a wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FIRST_S", "LOOK_S"):
            monkeypatch.setattr(background, name, 0.02)
        monkeypatch.setattr(RESPONSE_JOB, "most_s", 0.02)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Hurry:
    return Hurry(monkeypatch)


async def begin(rig: Any, **fields: Any) -> dict[str, Any]:
    asked = {"model": MODEL, "input": "think long", "background": True, **fields}
    status, made = await ask(rig, "/v1/responses", asked)
    assert status == 200 and made["status"] == "queued"
    assert isinstance(made, dict)
    return made


@pytest.mark.usefixtures("hurry")
async def test_a_background_response_is_settled_once_whoever_reads_it() -> None:
    async with standing(channels=2, relays=2) as (rigs, providers, _):
        made = await begin(rigs[0])
        for _ in range(3):
            assert (await get(rigs[1], "GET", f"/v1/responses/{made['id']}"))[1][
                "status"
            ] == "queued"
        assert [end for end in rigs[0].journal.ends if end.endpoint == "responses"] == []
        made_where(providers, made["id"]).end(made["id"])
        await rigs[0].ended(1)
        for rig in rigs:
            told = (await get(rig, "GET", f"/v1/responses/{made['id']}"))[1]
            assert told["status"] == "completed"
        ends = [end for rig in rigs for end in rig.journal.ends]
        (paid,) = (end for end in ends if end.cost_nanos)
        assert paid.endpoint == "responses" and paid.input_tokens == USAGE["input_tokens"]
        assert paid.cost_nanos == (20 * 1_000 + 10 * 2_000) // 2
        assert len([end for end in ends if end.endpoint == "responses"]) == 1


@pytest.mark.usefixtures("hurry")
async def test_what_failed_without_usage_costs_nothing_and_what_was_cancelled_is_seen() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        failed, cancelled = await begin(rig), await begin(rig)
        provider.end(failed["id"], "failed", None)
        status, told = await ask(rig, f"/v1/responses/{cancelled['id']}/cancel", {})
        assert status == 200 and told["status"] == "cancelled"
        ends = await rig.ended(3)
        assert [end.cost_nanos for end in ends] == [0, 0, 0]


@pytest.mark.usefixtures("hurry")
async def test_a_stream_in_the_background_goes_on_when_its_client_leaves() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        provider.cut_after = 4
        asked = {"model": MODEL, "input": "x", "background": True, "stream": True}
        status, said = read(await rig.say(post("/v1/responses", asked)))
        assert status == 200 and b"response.failed" not in said
        assert b'event: error\ndata: {"type":"error"' in said
        (name,) = provider.responses
        await asyncio.sleep(0.1)
        assert rig.journal.ends == []
        provider.end(name)
        (end,) = await rig.ended(1)
        assert end.cost_nanos == (20 * 1_000 + 10 * 2_000) // 2 and not end.estimated


async def test_what_ended_while_the_worker_went_is_seen_at_its_last_look() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        made, other = await begin(rig), await begin(rig)
        provider.end(made["id"])
        await rig.server.drain(0.3)
        assert [end.reason for end in rig.journal.ends] == ["completed"]
        left = rig.journal.starts[1].request_id
        assert left != rig.journal.ends[0].request_id
        (note,) = (one for one in rig.journal.checkpoints if one.request_id == left)
        assert note.unended is not None and note.unended.name == other["id"]


@pytest.mark.usefixtures("hurry")
async def test_what_is_not_over_when_the_worker_goes_is_written_down_and_not_guessed() -> None:
    async with standing(channels=1) as ([rig], _, _):
        made = await begin(rig, max_output_tokens=50)
        await rig.server.drain(0.0)
        assert rig.journal.ends == []
        (note,) = rig.journal.checkpoints
        unended = note.unended
        assert unended is not None and unended.name == made["id"]
        assert (unended.price_id, unended.group_multiplier_ppm) == (7, 500_000)
        assert unended.output_max == 50 + SLACK_TOKENS and unended.attempts == 1


@pytest.mark.usefixtures("hurry")
async def test_a_stream_in_the_background_is_written_down_as_it_begins_and_as_it_breaks() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        provider.cut_after = 4
        asked = {"model": MODEL, "input": "x", "background": True, "stream": True}
        await rig.say(post("/v1/responses", asked))
        (name,) = provider.responses
        noted = [one.unended.name for one in rig.journal.checkpoints if one.unended]
        assert noted == [name, name]


@pytest.mark.usefixtures("hurry")
async def test_a_stream_that_was_read_and_then_cancelled_is_not_free() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        provider.cut_after = 5
        asked = {"model": MODEL, "input": "x", "background": True, "stream": True}
        await rig.say(post("/v1/responses", asked))
        (name,) = provider.responses
        provider.end(name, "cancelled", None)
        (end,) = await rig.ended(1)
        assert end.estimated and end.output_tokens > 0 and end.cost_nanos > 0


async def test_one_account_cannot_have_all_background_responses_nor_any_go_uncounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "SHARE_MAX", 2)
    async with standing(channels=1) as ([rig], [provider], _):
        for _ in range(2):
            await begin(rig)
        asked = {"model": MODEL, "input": "think", "background": True}
        status, told = await ask(rig, "/v1/responses", asked)
        assert status == 429 and "have not ended" in told["error"]["message"]
        assert len(provider.responses) == 2
        plain = {"model": MODEL, "input": "think"}
        assert (await ask(rig, "/v1/responses", plain))[0] == 200
        monkeypatch.setattr(background, "PENDING_MAX", 2)
        status, _ = await ask(rig, "/v1/responses", asked, key=OTHER_KEY)
        assert status == 503


COST_NANOS = (20 * 1_000 + 10 * 2_000) // 2


def paid(rigs: list[Rig]) -> list[Any]:
    return [end for rig in rigs for end in rig.journal.ends if end.endpoint == "responses"]


@pytest.mark.parametrize("reader", [0, 1])
async def test_what_is_deleted_before_it_was_counted_is_charged_what_it_used(
    monkeypatch: pytest.MonkeyPatch, reader: int
) -> None:
    monkeypatch.setattr(background, "FIRST_S", 0.5)
    async with standing(channels=1, relays=2) as (rigs, [provider], _):
        made = await begin(rigs[0])
        provider.end(made["id"])
        path = f"/v1/responses/{made['id']}"
        assert (await get(rigs[reader], "DELETE", path))[1]["deleted"] is True
        assert provider.responses == {} and paid(rigs) == []
        await rigs[0].ended(2 if reader == 0 else 1)
        (end,) = paid(rigs)
        assert (end.cost_nanos, end.estimated) == (COST_NANOS, False)


async def test_what_has_not_ended_is_not_deleted_and_what_is_no_background_is_at_once() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        made = await begin(rig)
        path = f"/v1/responses/{made['id']}"
        status, told = await get(rig, "DELETE", path)
        assert status == 409 and "has not ended" in told["error"]["message"]
        assert made["id"] in provider.responses
        assert (await ask(rig, f"{path}/cancel", {}))[0] == 200
        assert (await get(rig, "DELETE", path))[1]["deleted"] is True
        _, plain = await ask(rig, "/v1/responses", {"model": MODEL, "input": "x"})
        assert (await get(rig, "DELETE", f"/v1/responses/{plain['id']}"))[1]["deleted"] is True
        assert (await get(rig, "DELETE", f"/v1/responses/{plain['id']}"))[0] == 404
        provider.dead = True
        status, _ = await get(rig, "DELETE", path)
        assert status == 503


@pytest.mark.parametrize("reader", [0, 1])
async def test_what_was_read_as_a_stream_and_then_cancelled_is_charged_by_what_was_read(
    monkeypatch: pytest.MonkeyPatch, reader: int
) -> None:
    monkeypatch.setattr(background, "FIRST_S", 0.5)
    async with standing(channels=1, relays=2) as (rigs, [provider], _):
        made = await begin(rigs[0])
        provider.cut_after = 5
        path = f"/v1/responses/{made['id']}"
        for after in (0, 3):  # the shorter reading comes last, and hides nothing
            await get(rigs[reader], "GET", f"{path}?stream=true&starting_after={after}")
        assert (await ask(rigs[1], f"{path}/cancel", {}))[0] == 200
        await rigs[0].ended(3 if reader == 0 else 1)
        (end,) = paid(rigs)
        assert end.estimated and end.output_tokens > 0
        assert end.cost_nanos == (end.input_tokens * 1_000 + end.output_tokens * 2_000) // 2


@pytest.mark.usefixtures("hurry")
async def test_who_leaves_before_a_background_response_has_its_id_pays_all_the_same() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        provider.holds = asyncio.Event()
        asked = {"model": MODEL, "input": "think long", "background": True}
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/responses", asked))
        async with asyncio.timeout(5):
            while not provider.responses:
                await asyncio.sleep(0.01)
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert rig.journal.ends == []
        provider.holds.set()
        async with asyncio.timeout(5):
            while not rig.journal.checkpoints:
                await asyncio.sleep(0.01)
        assert rig.journal.ends == []
        (name,) = provider.responses
        provider.end(name)
        (end,) = await rig.ended(1)
        assert (end.cost_nanos, end.estimated, end.reason) == (COST_NANOS, False, "client_gone")
