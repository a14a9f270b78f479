"""Goal: hundreds of models are on sale within two minutes, and a large catalog is light to carry.

Method: the commands of a new user, one after the other, against scripted lists as long as those of
real providers; then a catalog of 1,000 models at each of 50 channels, and a start over it. What is
measured is printed.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from genai_prices.data import providers

from tests.live.relay_process import RelayProcess, ask, question, settle, until
from tests.local_app import serve_app

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(280)]

ENVIRON = {"KEY": "sk-CANARY", "RELAY_SERVER__ALLOW_PLAIN_UPSTREAMS": "true"}
ACCOUNT = """
[[account]]
name = "folk"
group = "main"
credit_limit = "100"
"""
NEW_USER_S = 120.0
MODELS, CHANNELS = 1_000, 50
WORKER_MIB_MAX = 400.0
WORKER_CPU_S_MAX = 10.0
"""Until it serves: what a start takes by the clock is the machine's other work as well."""
TICKS_S = 1 / os.sysconf("SC_CLK_TCK")
USAGE = {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}


def sold_by(provider: str) -> list[str]:
    """Return the names on a provider's public price list."""
    return next([model.id for model in one.models] for one in providers if one.id == provider)


class Lists:
    """Providers whose lists are as long as the real ones."""

    def __init__(self) -> None:
        self.url = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        kind, *rest = request.path.strip("/").split("/")
        if rest[-1] == "models" and kind == "google":
            listed = [{"name": f"models/{name}"} for name in sold_by("google") if "gemini" in name]
            return web.json_response({"models": listed})
        if rest[-1] == "models":
            return web.json_response({"data": [{"id": name} for name in sold_by(kind)]})
        model = (await request.json())["model"]
        message = {"role": "assistant", "content": "Hi"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        plain = {"id": "c-1", "object": "chat.completion", "created": 1, "model": model}
        return web.json_response({**plain, "choices": [choice], "usage": USAGE})


@pytest.fixture
async def lists() -> AsyncIterator[Lists]:
    found = Lists()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", found.serve)
    async with serve_app(application) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found


def started(folder: Path) -> RelayProcess:
    """Return a relay that may take long to come up: that is what is measured."""
    relay = RelayProcess.start(folder, environ=ENVIRON)
    relay.patience_s = NEW_USER_S
    return relay


class Watch:
    """A clock that says what each step took."""

    def __init__(self) -> None:
        self.begun_s = self.last_s = time.monotonic()

    @property
    def whole_s(self) -> float:
        return time.monotonic() - self.begun_s

    def lap(self, what: str) -> float:
        now_s = time.monotonic()
        took_s, self.last_s = now_s - self.last_s, now_s
        tell(f"{what}: {took_s:.1f} s")
        return took_s


def tell(figure: str) -> None:
    sys.stdout.write(f"{figure}\n")


async def test_a_new_user_sells_500_models_within_two_minutes(
    reachable: Path, lists: Lists
) -> None:
    watch = Watch()
    async with started(reachable / "sold") as relay:
        watch.lap("relay serve, from an empty data dir")
        for name, preset, path in (
            ("oa", "openai", "openai"),
            ("or", "openrouter", "openrouter"),
            ("g", "gemini", "google"),
        ):
            words = ("channel", "add", name, "--preset", preset, "--key", "env:KEY")
            url = f"{lists.url}/{path}"
            await relay.cli(*words, "--base-url", url, environ=ENVIRON)
        watch.lap("three channels")
        await relay.cli("models", "sync", "--apply", environ=ENVIRON)
        watch.lap("relay models sync --apply")
        found = json.loads(await relay.cli("price", "sync", "--apply", "--json", environ=ENVIRON))
        watch.lap("relay price sync --apply")
        await relay.apply(ACCOUNT, environ=ENVIRON)
        key = await relay.make_key("k")
        priced = sorted(row["model"] for row in found["models"] if row["move"] == "new")
        for model in (priced[0], priced[len(priced) // 2], priced[-1]):
            await settle(relay, key, 200, f"models/{model}")
        served = [model for model in priced if not model.startswith("gemini")]
        for model in served[:: len(served) // 10]:
            answer = await ask(relay, key, question(model))
            assert answer.status == 200, (model, answer.body)
        watch.lap("an account, a key, and calls to ten of them")
        tell(f"{len(priced)} models priced and served after {watch.whole_s:.0f} s")
        assert len(priced) >= 500
        assert watch.whole_s < NEW_USER_S


def large_catalog(url: str) -> str:
    """Return 50 channels that each serve the same 1,000 models, and a price for each of these."""
    names = [f"vendor-{number % 40}/model-{number:04d}" for number in range(MODELS)]
    listed = json.dumps(names)
    channels = [
        f'[[channel]]\nname = "c{number}"\nbase_url = "{url}/openai"\nmodels = {listed}\n'
        for number in range(CHANNELS)
    ]
    prices = [f'[[price]]\nmodel = "{name}"\ninput = "1"\noutput = "2"\n' for name in names]
    line = json.dumps([f"c{number}" for number in range(CHANNELS)])
    rest = (
        f'[[line]]\nname = "main"\nchannels = {line}\n[[group]]\nname = "main"\nlines = ["main"]\n'
    )
    return "".join([*channels, rest, *prices, ACCOUNT])


def worker_mib(relay: RelayProcess) -> list[float]:
    """Return what each worker has of the machine's memory, shared pages included."""
    found = []
    for pid, _ in relay.workers().values():
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        [rss] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
        found.append(int(rss) / 1024)
    return found


def worker_cpu_s(relay: RelayProcess) -> float:
    """Return what the dearer worker has taken of a core since it began."""
    found = []
    for pid, _ in relay.workers().values():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found.append((int(fields[11]) + int(fields[12])) * TICKS_S)
    return max(found)


async def test_a_thousand_models_at_fifty_channels_are_carried_lightly(
    reachable: Path, lists: Lists
) -> None:
    folder = reachable / "large"
    async with started(folder) as relay:
        await until(lambda: len(relay.workers()) == 2, "both workers publish")
        before = max(worker_mib(relay))
        tell(f"CPU of a worker until it serves a demo: {worker_cpu_s(relay):.2f} s")
        watch = Watch()
        await relay.apply(large_catalog(lists.url), environ=ENVIRON)
        watch.lap("relay apply of 50,000 pairs of model and channel")
        key = await relay.make_key("k")
        await settle(relay, key, 200, "models/vendor-39/model-0999")
        watch.lap("until every worker serves them")
        after = max(worker_mib(relay))
        told: dict[str, Any] = {"before": round(before), "after": round(after)}
        tell(f"memory of a worker, MiB: {told}")
    watch = Watch()
    async with started(folder) as relay:
        watch.lap("relay serve over it, until it answers")
        await settle(relay, key, 200, "models/vendor-39/model-0999")
        watch.lap("until every worker serves the last model")
        assert (await ask(relay, key, question("vendor-7/model-0007"))).status == 200
        await until(lambda: len(relay.workers()) == 2, "both workers publish")
        tell(f"memory of a worker after a start, MiB: {max(worker_mib(relay)):.0f}")
        tell(f"CPU of a worker until it serves them: {worker_cpu_s(relay):.2f} s")
        assert max(worker_mib(relay)) < WORKER_MIB_MAX
        assert worker_cpu_s(relay) < WORKER_CPU_S_MAX
