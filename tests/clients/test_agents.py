"""Goal: coding agents work behind the relay as before their own providers, and when channels die.

Method: the programs themselves, each in a home of its own, given an address and a key; a scripted
model behind two or three channels that works through twenty steps with the agent's own tool. Once
all is well: nothing is asked twice, and the agent's log tells of no retry, reconnect or fallback.
Once whoever is asked first for a step breaks off, before its first event, in its text or in its
tool call: no step is lost.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from relay.model import Dialect, LostState, Resume
from tests.clients.agents_script import DONE, AgentUpstream, Script
from tests.flow.rig import KEY, MODEL, Rig, make_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

INSTALLED: Final = Path(sys.prefix) / "agents"
MODULES: Final = INSTALLED / "node_modules"
CODEX: Final = MODULES / "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"
CLAUDE: Final = MODULES / "@anthropic-ai/claude-code-linux-x64/claude"
OPENCODE: Final = MODULES / "opencode-linux-x64/bin/opencode"
STEPS: Final = 20
RUN_S: Final = 180.0


@asynccontextmanager
async def standing(
    script: Script,
    *,
    channels: int = 2,
    websocket: bool = False,
    lost_state: LostState = LostState.REFUSE,
    **fields: Any,
) -> AsyncIterator[tuple[Rig, list[AgentUpstream]]]:
    """Stand a line that splices before some accounts of one model."""
    async with AsyncExitStack() as stack:
        made = [AgentUpstream(n, script, websocket=websocket) for n in range(1, channels + 1)]
        upstreams = [await stack.enter_async_context(one) for one in made]
        told = {"resume": Resume.ANCHORED} | fields
        snapshot = make_snapshot([one.channel(**told) for one in upstreams])
        line = msgspec.structs.replace(snapshot.lines[1], splice=True, lost_state=lost_state)
        rig = Rig(msgspec.structs.replace(snapshot, lines={1: line}))
        yield await stack.enter_async_context(rig), upstreams


@pytest.fixture(autouse=True)
def installed() -> None:
    """See that the programs are there."""
    assert (INSTALLED / ".installed").exists(), "run `make .venv/agents/.installed` first"


async def run(
    program: Path, *args: str, home: Path, env: dict[str, str]
) -> tuple[int | None, str, str]:
    """Return how an agent ended, and what it said."""
    work = home / "work"
    work.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(str(program), *args),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=work,
        env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
    )
    try:
        async with asyncio.timeout(RUN_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, said.decode(), complained.decode()


def lines_of(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def all_in_order(script: Script) -> bool:
    """Tell whether the model came through all of its steps."""
    return script.answered == set(range(1, STEPS + 1)) and STEPS + 1 in script.begun


# --- Codex ----------------------------------------------------------------------------------------

BUILT_IN: Final = f'model = "{MODEL}"\nopenai_base_url = "ROOT"\n'
CUSTOM: Final = f"""model = "{MODEL}"
model_provider = "relay"
[model_providers.relay]
name = "relay"
base_url = "ROOT"
env_key = "OPENAI_API_KEY"
wire_api = "responses"
"""
TROUBLE: Final = ("retrying", "reconnecting", "falling back from", "stream disconnected")


async def run_codex(home: Path, rig: Rig, config: str) -> tuple[list[dict[str, Any]], str]:
    (home / ".codex").mkdir()
    # What is searched for costs by the search, and this model has no price for that.
    quiet = 'web_search = "disabled"\n'
    (home / ".codex/config.toml").write_text(quiet + config.replace("ROOT", rig.url))
    status, said, told = await run(
        CODEX,
        *("exec", "--json", "--skip-git-repo-check", "-s", "danger-full-access", "Go on."),
        home=home,
        env={"OPENAI_API_KEY": KEY, "CODEX_API_KEY": KEY, "RUST_LOG": "info"},
    )
    assert status == 0, said
    return lines_of(said), told


def ran(events: list[dict[str, Any]]) -> list[str]:
    """Return what Codex ran, by what came of it."""
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [i["aggregated_output"].strip() for i in items if i["type"] == "command_execution"]


@pytest.mark.parametrize(
    ("config", "websocket", "over"),
    [(BUILT_IN, True, "websocket"), (BUILT_IN, False, "http"), (CUSTOM, False, "http")],
)
async def test_codex_works_through_twenty_steps(
    tmp_path: Path, config: str, over: str, *, websocket: bool
) -> None:
    script = Script(STEPS)
    async with standing(script, websocket=websocket) as (rig, upstreams):
        events, told = await run_codex(tmp_path, rig, config)
        assert ran(events) == [f"{number}" for number in range(1, STEPS + 1)]
        assert all_in_order(script) and set(script.begun.values()) == {1}
        asked = [turn for upstream in upstreams for turn in upstream.turns]
        assert {how for how, _ in asked} == {over} and len(asked) == STEPS + 1
        lines = [line for line in told.lower().splitlines() if "plugin" not in line]
        assert [word for word in TROUBLE if any(word in line for line in lines)] == []
        assert not [event for event in events if event["type"] in ("error", "turn.failed")]
        ends = [end for end in await rig.ended(STEPS + 1) if end.endpoint == "responses"]
        assert [(end.status, end.attempts, end.reason) for end in ends] == [
            (200, 1, "completed")
        ] * (STEPS + 1)
        assert len({end.channel_id for end in ends}) == 1


@pytest.mark.parametrize(
    ("config", "websocket"), [(BUILT_IN, True), (BUILT_IN, False), (CUSTOM, False)]
)
async def test_codex_loses_no_step_when_a_channel_dies_in_each(
    tmp_path: Path, config: str, *, websocket: bool
) -> None:
    script = Script(STEPS, breaks=True)
    async with standing(script, channels=3, websocket=websocket) as (rig, _):
        events, _ = await run_codex(tmp_path, rig, config)
        assert ran(events) == [f"{number}" for number in range(1, STEPS + 1)]
        assert all_in_order(script) and script.broken == list(range(1, STEPS + 2))
        said = [
            e["item"]["text"] for e in events if e.get("item", {}).get("type") == "agent_message"
        ]
        assert said[-1] == DONE


async def test_no_turn_of_codex_breaks_off_where_its_line_lets_reasoning_go(tmp_path: Path) -> None:
    script = Script(STEPS, breaks=True)
    drop = LostState.DROP
    async with standing(script, channels=3, websocket=True, lost_state=drop) as (rig, _):
        events, _ = await run_codex(tmp_path, rig, BUILT_IN)
        assert ran(events) == [f"{number}" for number in range(1, STEPS + 1)]
        assert all_in_order(script) and script.broken == list(range(1, STEPS + 2))
        # Two of three break in mid-answer, and all of these go on over another channel; of the
        # others some are beyond the budget of retries, as every channel fails all the time.
        assert {end.reason for end in rig.journal.ends} <= {"completed", "upstream_failed"}
        assert dict(rig.server.counters.splices) == {("line", "carried_on_by_anchor"): 14}


# --- Claude Code ----------------------------------------------------------------------------------


CLAUDES_TROUBLE: Final = ("retrying", "falling back", "non-streaming", "api error")


async def run_claude(home: Path, rig: Rig) -> tuple[list[dict[str, Any]], str]:
    log = home / "claude.log"
    status, said, told = await run(
        CLAUDE,
        *("--print", "Go on.", "--output-format", "stream-json", "--verbose"),
        *("--model", MODEL, "--allowedTools", "Bash", "--max-turns", f"{STEPS + 5}"),
        *("--debug-file", str(log)),
        home=home,
        env={
            "ANTHROPIC_BASE_URL": rig.url.removesuffix("/v1"),
            "ANTHROPIC_API_KEY": KEY,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    )
    assert status == 0, said + told
    return lines_of(said), log.read_text() if log.exists() else told


def tool_results(events: list[dict[str, Any]]) -> list[str]:
    parts = [p for e in events if e["type"] == "user" for p in e["message"]["content"]]
    return [str(p["content"]).strip() for p in parts if p["type"] == "tool_result"]


async def test_claude_code_works_through_twenty_steps(tmp_path: Path) -> None:
    script = Script(STEPS)
    async with standing(script, protocol=Dialect.ANTHROPIC) as (rig, upstreams):
        events, told = await run_claude(tmp_path, rig)
        assert tool_results(events) == [f"{number}" for number in range(1, STEPS + 1)]
        assert events[-1]["result"] == DONE and all_in_order(script)
        asked = [turn for upstream in upstreams for turn in upstream.turns]
        assert len(asked) == STEPS + 1
        assert [word for word in CLAUDES_TROUBLE if word in told.lower()] == []
        ends = [end for end in rig.journal.ends if end.endpoint == "messages"]
        assert {(end.status, end.attempts, end.reason) for end in ends} == {(200, 1, "completed")}


async def test_claude_code_loses_no_step_when_a_channel_dies_in_each(tmp_path: Path) -> None:
    script = Script(STEPS, breaks=True)
    async with standing(script, channels=3, protocol=Dialect.ANTHROPIC) as (rig, _):
        events, _ = await run_claude(tmp_path, rig)
        assert tool_results(events) == [f"{number}" for number in range(1, STEPS + 1)]
        assert events[-1]["result"] == DONE and all_in_order(script)


# --- opencode -------------------------------------------------------------------------------------


OVER_HTTP: Final = {"OPENCODE_DISABLE_DEFAULT_PLUGINS": "1"}
OVER_WEBSOCKET: Final = {"OPENCODE_EXPERIMENTAL_WEBSOCKETS": "1"}
"""Its plugin for OpenAI has them: part of it by default, off without this, and only for a provider
that it has signed in at."""


async def run_opencode(
    home: Path, rig: Rig, flags: dict[str, str] = OVER_HTTP
) -> tuple[list[dict[str, Any]], str]:
    signed_in = home / ".local/share/opencode"
    signed_in.mkdir(parents=True)
    (signed_in / "auth.json").write_text(json.dumps({"openai": {"type": "api", "key": KEY}}))
    model = {"name": MODEL, "tool_call": True, "limit": {"context": 200_000, "output": 8_000}}
    config = {
        "provider": {
            "openai": {
                "options": {"baseURL": rig.url, "apiKey": KEY},
                "models": {MODEL: model},
            }
        },
        "model": f"openai/{MODEL}",
        "small_model": f"openai/{MODEL}",
        "permission": {"bash": "allow"},
        "autoupdate": False,
        "share": "disabled",
    }
    (home / "opencode.json").write_text(json.dumps(config))
    status, said, told = await run(
        OPENCODE,
        *("run", "--format", "json", "--print-logs", "--log-level", "INFO", "Go on."),
        home=home,
        env={
            "OPENCODE_CONFIG": str(home / "opencode.json"),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            **flags,
        },
    )
    assert status == 0, said + told
    return lines_of(said), told


def shell_outputs(events: list[dict[str, Any]]) -> list[str]:
    states = [e["part"]["state"] for e in events if e["type"] == "tool_use"]
    return [str(state["output"]).strip() for state in states]


async def most_sessions(rig: Rig) -> int:
    """Return how many sessions over a WebSocket were open at once, when it is cancelled."""
    most = 0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            most = max(most, len(rig.server._service.sessions))
            await asyncio.sleep(0.05)
    return most


@pytest.mark.parametrize(
    ("flags", "websocket", "over"),
    [
        (OVER_HTTP, False, "http"),
        (OVER_WEBSOCKET, True, "websocket"),
        (OVER_WEBSOCKET, False, "http"),
    ],
)
async def test_opencode_works_through_twenty_steps(
    tmp_path: Path, flags: dict[str, str], over: str, *, websocket: bool
) -> None:
    """Whether it asks over a socket, and whether the channels speak it, are two things."""
    script = Script(STEPS, tool="bash", takes="command")
    async with standing(script, websocket=websocket) as (rig, upstreams):
        looking = asyncio.create_task(most_sessions(rig))
        events, told = await run_opencode(tmp_path, rig, flags)
        looking.cancel()
        assert (await looking > 0) is (flags is OVER_WEBSOCKET)
        assert shell_outputs(events) == [f"{number}" for number in range(1, STEPS + 1)]
        assert all_in_order(script) and set(script.begun.values()) == {1}
        asked = [turn for upstream in upstreams for turn in upstream.turns]
        assert {how for how, _ in asked} == {over} and len(asked) == STEPS + 1
        assert [word for word in TROUBLE if word in told.lower()] == []
        ends = rig.journal.ends
        assert {(end.status, end.attempts, end.reason) for end in ends} == {(200, 1, "completed")}


@pytest.mark.parametrize("flags", [OVER_HTTP, OVER_WEBSOCKET])
async def test_opencode_loses_no_step_when_a_channel_dies_in_each(
    tmp_path: Path, flags: dict[str, str]
) -> None:
    script = Script(STEPS, breaks=True, tool="bash", takes="command")
    websocket = flags is OVER_WEBSOCKET
    async with standing(script, channels=3, websocket=websocket) as (rig, _):
        events, _ = await run_opencode(tmp_path, rig, flags)
        assert shell_outputs(events)[-STEPS:] == [f"{number}" for number in range(1, STEPS + 1)]
        assert all_in_order(script) and script.broken == list(range(1, STEPS + 2))
