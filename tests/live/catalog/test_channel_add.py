"""Goal: a channel of a known kind takes one line, and a call over it arrives as the provider wants.

Method: the real command against a real relay; an upstream that keeps what it is asked.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.live.relay_process import RelayProcess, ask, question, settle, until_told
from tests.local_app import serve_app

CATALOG = """
[[account]]
name = "folk"
group = "main"
credit_limit = "100"
[[price]]
model = "town-gpt"
input = "1"
output = "2"
"""
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "dep-1",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hi"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


class Deployment:
    """An upstream that keeps the requests it gets."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""
        self.revoked: set[str] = set()

    async def answer(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append((request.path_qs, headers))
        if headers.get("authorization", "").removeprefix("Bearer ") in self.revoked:
            said = {"message": "Incorrect API key provided.", "code": "invalid_api_key"}
            return web.json_response({"error": said}, status=401)
        return web.json_response(ANSWER)


@pytest.fixture
async def deployment() -> AsyncIterator[Deployment]:
    found = Deployment()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", found.answer)
    async with serve_app(application) as port:
        found.url = f"http://127.0.0.1:{port}/openai"
        yield found


@pytest.mark.live
@pytest.mark.timeout(120)
async def test_an_azure_deployment_is_added_shown_and_called(
    reachable: Path, deployment: Deployment
) -> None:
    environ = {"AZURE_KEY": "az-CANARY", "RELAY_SERVER__ALLOW_PLAIN_UPSTREAMS": "true"}
    named = ("channel", "add", "az", "--preset", "azure", "--key", "env:AZURE_KEY")
    add = (*named, "--models", "town-gpt=dep-1", "--base-url", deployment.url, "--cost", "0.6")
    async with RelayProcess.start(reachable / "azure", environ=environ) as relay:
        planned = await relay.cli(*add, "--dry-run", environ=environ)
        assert "+ channel az" in planned
        assert (await relay.cli(*add, environ=environ)) == planned
        assert "already" not in await relay.cli(*add, code=78, environ=environ)
        shown = json.loads(await relay.cli("channel", "show", "az", "--json"))
        assert (shown["kind"], shown["cost"], shown["api_key"]) == ("azure", "0.6", "set")
        assert shown["origin"]["base_url"] == "own"
        assert shown["origin"]["query"] == "preset azure"
        await relay.apply(CATALOG, environ=environ)
        key = (await relay.api("keys", {"account": "folk", "name": "k"}))["key"]
        await settle(relay, key, 200, "models/town-gpt")
        answer = await ask(relay, key, question("town-gpt"))
        assert answer.status == 200, answer.body
    path, headers = deployment.asked[-1]
    assert path == "/openai/deployments/dep-1/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == "az-CANARY"
    assert "authorization" not in headers


@pytest.mark.live
async def test_presets_say_what_they_fill_in(relay: RelayProcess) -> None:
    rows = {row["name"]: row for row in json.loads(await relay.cli("channel", "presets", "--json"))}
    assert {"openai", "azure", "bedrock", "vllm", "new-api"} <= rows.keys()
    assert rows["azure"]["needs_base_url"]
    assert rows["vllm"]["resume"] == "continue_final_message"
    await relay.cli("channel", "add", "x", "--preset", "openai", code=2)
    await relay.cli("channel", "add", "x", "--preset", "nobody", "--key", "env:X", code=78)


@pytest.mark.live
@pytest.mark.timeout(120)
async def test_each_key_of_a_channel_has_a_health_of_its_own(
    reachable: Path, deployment: Deployment
) -> None:
    keys = {"KEY_A": "sk-CANARY-a", "KEY_B": "sk-CANARY-b"}
    environ = {**keys, "RELAY_SERVER__ALLOW_PLAIN_UPSTREAMS": "true"}
    named = ("channel", "add", "two", "--preset", "openai", "--models", "town-gpt")
    add = (*named, "--key", "env:KEY_A", "--key", "env:KEY_B", "--base-url", deployment.url)
    async with RelayProcess.start(reachable / "keys", environ=environ) as relay:
        await relay.cli(*add, environ=environ)
        await relay.apply(CATALOG, environ=environ)
        key = (await relay.api("keys", {"account": "folk", "name": "k"}))["key"]
        await settle(relay, key, 200, "models/town-gpt")
        await ask_often(relay, key)
        assert used(deployment) == {"sk-CANARY-a", "sk-CANARY-b"}
        deployment.revoked = {"sk-CANARY-a"}
        await ask_often(relay, key)

        async def one_is_out() -> bool:
            rows = json.loads(await relay.cli("channel", "list", "--json"))
            states = {row["name"]: row["state"] for row in rows if row["name"].startswith("two")}
            return states == {"two": "open", "two#2": "in service"}

        await until_told(one_is_out, "the revoked key is out of service, the other one is not")
        assert "no changes" in await relay.apply(one(deployment, "KEY_A", "KEY_B"), environ=environ)
        changed = await relay.apply(one(deployment, "KEY_B"), environ=environ)
        assert "credential: (hidden) -> (hidden)" in changed
        rows = json.loads(await relay.cli("channel", "list", "--json"))
        assert [row["name"] for row in rows if row["name"].startswith("two")] == ["two"]
        await settle(relay, key, 200, "chat/completions", question("town-gpt"))


async def ask_often(relay: RelayProcess, key: str) -> None:
    """Make calls of many conversations: each of them stays with the key that it began with."""
    for number in range(24):
        said = [{"role": "user", "content": f"Hello {number}"}]
        assert (await ask(relay, key, question("town-gpt", messages=said))).status == 200


def used(deployment: Deployment) -> set[str]:
    """Return the keys that an upstream was asked with."""
    return {headers["authorization"].removeprefix("Bearer ") for _, headers in deployment.asked}


def one(deployment: Deployment, *keys: str) -> str:
    references = ", ".join(f'"env:{key}"' for key in keys)
    return (
        f'[[channel]]\nname = "two"\nkind = "openai"\nmodels = ["town-gpt"]\n'
        f'base_url = "{deployment.url}"\napi_keys = [{references}]\n'
    )
