"""Goal: from an empty data dir to hundreds of priced models on sale takes a handful of commands.

Method: the real commands against a real relay, and scripted upstreams of three kinds whose lists
grow, shrink and break; the names on them are those of a public price list.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.live.relay_process import RelayProcess, ask, question, send, settle, until_told
from tests.local_app import serve_app

CATALOG = """
[[account]]
name = "folk"
group = "main"
credit_limit = "100"
"""
OPENAI = [
    *("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "gpt-5", "gpt-5-mini", "gpt-5-nano"),
    *("o3", "o4-mini", "text-embedding-3-small", "house-special"),
]
ROUTED = ["anthropic/claude-sonnet-4.5", "deepseek/deepseek-chat", "x-ai/grok-4", "gpt-5"]
GEMINI = ["gemini-2.5-flash", "gemini-2.5-pro", "gemini-2.5-flash-lite"]
ENVIRON = {"KEY": "sk-CANARY", "RELAY_SERVER__ALLOW_PLAIN_UPSTREAMS": "true"}
USAGE = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}


class Provider:
    """An upstream of three dialects' lists, and of chat completions."""

    def __init__(self) -> None:
        self.openai = list(OPENAI)
        self.url = ""

    async def list_openai(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer sk-CANARY"
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.openai]})

    async def list_routed(self, _: web.Request) -> web.Response:
        shape = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
        listed = [{"id": name, "context_length": 200_000, "architecture": shape} for name in ROUTED]
        return web.json_response({"data": listed})

    async def list_gemini(self, request: web.Request) -> web.Response:
        assert request.headers["x-goog-api-key"] == "sk-CANARY"
        token = request.query.get("pageToken")
        names, more = (GEMINI[:2], "next") if token is None else (GEMINI[2:], "")
        listed = [{"name": f"models/{name}", "inputTokenLimit": 1_048_576} for name in names]
        return web.json_response({"models": listed, "nextPageToken": more})

    async def answer(self, request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        plain = {"id": "c-1", "object": "chat.completion", "created": 1, "model": model}
        return web.json_response({**plain, "choices": [choice], "usage": USAGE})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    found = Provider()
    application = web.Application()
    application.router.add_get("/openai/models", found.list_openai)
    application.router.add_get("/routed/models", found.list_routed)
    application.router.add_get("/google/v1beta/models", found.list_gemini)
    application.router.add_post("/{which}/chat/completions", found.answer)
    async with serve_app(application) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


async def add(relay: RelayProcess, name: str, preset: str, url: str, *more: str) -> None:
    words = ("channel", "add", name, "--preset", preset, "--key", "env:KEY", "--base-url", url)
    await relay.cli(*words, *more, environ=ENVIRON)


async def sync(relay: RelayProcess, *more: str) -> dict[str, Any]:
    found = json.loads(await relay.cli("models", "sync", "--json", *more, environ=ENVIRON))
    return {change["channel"]: change for change in found["changes"]}


async def prices(relay: RelayProcess, *more: str) -> dict[str, Any]:
    found = json.loads(await relay.cli("price", "sync", "--json", *more, environ=ENVIRON))
    return {row["model"]: row for row in found["models"]}


@pytest.mark.live
@pytest.mark.timeout(240)
async def test_a_catalog_that_keeps_itself(reachable: Path, provider: Provider) -> None:
    async with RelayProcess.start(reachable / "kept", environ=ENVIRON) as relay:
        await add(relay, "oa", "openai", f"{provider.url}/openai", "--cost", "0.5")
        await add(relay, "or", "openrouter", f"{provider.url}/routed", "--models", "*,!gpt-*")
        await add(relay, "g", "gemini", f"{provider.url}/google")
        await relay.apply(CATALOG, environ=ENVIRON)

        proposed = await sync(relay)
        assert proposed["oa"]["gained"] == sorted(OPENAI)
        assert proposed["or"]["gained"] == sorted(ROUTED[:3])  # and gpt-5 is not chosen
        assert proposed["or"]["left"] == 1
        assert proposed["g"]["gained"] == sorted(GEMINI)
        assert await sync(relay) == proposed, "a proposal changes nothing"
        await sync(relay, "--apply")
        assert not any(change["gained"] for change in (await sync(relay)).values())

        found = await prices(relay)
        assert {row["move"] for row in found.values()} == {"new", "unknown"}
        assert found["house-special"]["reason"] == "no list names it"
        await prices(relay, "--apply")
        again = await prices(relay)
        assert {row["move"] for row in again.values()} == {"same", "unknown"}
        assert again["gpt-5"]["official_input"] == again["gpt-5"]["our_input"] == "1.25"

        key = (await relay.api("keys", {"account": "folk", "name": "k"}))["key"]
        await settle(relay, key, 200, "models/gpt-5")
        assert (await ask(relay, key, question("gpt-5"))).status == 200
        assert (await ask(relay, key, question("house-special"))).status == 404

        await told_in_full(relay, key)
        await earned(relay)
        await too_dear(relay)
        await lists_change(relay, provider)
        await taken_over_by_itself(relay, provider)


async def told_in_full(relay: RelayProcess, key: str) -> None:
    """A list of models says what they are and cost to who asks for it, and only then."""
    headers = {"Authorization": f"Bearer {key}"}
    plain = json.loads((await send(f"{relay.url}/models", headers=headers)).body)
    assert "pricing" not in plain["data"][0]
    full = json.loads((await send(f"{relay.url}/models?detail=true", headers=headers)).body)
    models = {model["id"]: model for model in full["data"]}
    assert models["gpt-5"]["pricing"]["prompt"] == "0.00000125"
    assert models["gpt-5"]["pricing"]["completion"] == "0.00001"
    assert models["gpt-5"]["context_length"] == 400_000  # the price list knows it
    routed = models["x-ai/grok-4"]
    assert routed["context_length"] == 200_000  # OpenRouter's list said so
    assert routed["architecture"]["input_modalities"] == ["text", "image"]
    asked = {**headers, "x-relay-detail": "true"}
    one = json.loads((await send(f"{relay.url}/models/gpt-5", headers=asked)).body)
    assert one["pricing"] == models["gpt-5"]["pricing"]


async def earned(relay: RelayProcess) -> None:
    """A call's earnings stand beside half the official price, which is what its channel costs."""
    await relay.rows("k", 1, "model=gpt-5")
    (row,) = json.loads(await relay.cli("usage", "--margin", "--json"))
    assert (row["line"], row["model"], row["channel"]) == ("main", "gpt-5", "oa")
    assert (row["earned_usd"], row["upstream_usd"]) == ("0.00002", "0.00001")
    assert row["margin_percent"] == "50.0"


async def too_dear(relay: RelayProcess) -> None:
    """A price above the official one is refused where the rule says so, whoever sets it."""
    dear = (
        '[[price]]\nmodel = "gpt-5"\ninput = "1.25"\noutput = "10"\ncached_input = "0.125"\n'
        'model_multiplier = "1.1"\n'
    )
    ruled = ENVIRON | {"RELAY_BILLING__OFFICIAL_MAX": "1"}
    relay.catalog_file.write_text(dear)
    await relay.cli("apply", str(relay.catalog_file), code=78, environ=ruled)
    await relay.cli("apply", str(relay.catalog_file), "--dry-run", code=78, environ=ruled)
    await relay.apply(dear.replace("1.1", "0.9"), environ=ruled)
    moved = (await prices(relay))["gpt-5"]
    assert (moved["multiplier"], moved["times_official"]) == ("0.9", "0.9")


async def taken_over_by_itself(relay: RelayProcess, provider: Provider) -> None:
    """A channel that says so follows its list without being told."""
    await add(relay, "auto", "openai", f"{provider.url}/openai", "--auto", "--models", "gpt-5*")

    async def found() -> bool:
        shown = json.loads(await relay.cli("channel", "show", "auto", "--json"))
        return bool(shown["models"] == {"gpt-5": "gpt-5"})

    await until_told(found, "the list is taken over")


async def lists_change(relay: RelayProcess, provider: Provider) -> None:
    """One model goes and one comes; then the list breaks, which nobody believes unasked."""
    provider.openai = [*OPENAI[1:], "gpt-4-turbo"]
    changed = (await sync(relay, "--channel", "oa", "--apply"))["oa"]
    assert (changed["gained"], changed["lost"]) == (["gpt-4-turbo"], ["gpt-4o"])
    provider.openai = ["gpt-5"]
    doubted = (await sync(relay, "--channel", "oa", "--apply"))["oa"]
    assert "lost more than half" in doubted["doubt"]
    assert len((await sync(relay, "--channel", "oa"))["oa"]["lost"]) == len(OPENAI) - 1
    await sync(relay, "--channel", "oa", "--apply", "--force")
    assert (await sync(relay, "--channel", "oa"))["oa"]["lost"] == []
