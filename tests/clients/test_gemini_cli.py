"""Goal: Gemini CLI works unchanged, whatever dialect the model's provider speaks.

Method: the program itself, once for each dialect, in a home of its own; nothing is set but the
address, a key and a model.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Final

import pytest

from relay.translate import TranslateDialect
from tests.clients.process import INSTALLED, NODE_PATH, NODE_PROGRAM
from tests.flow.rig import KEY, MODEL, Rig, make_snapshot
from tests.flow.translated_cells import Upstream, channel_of
from tests.pure.translate.samples import DIALECTS, GEMINI, STREAMS

PROGRAM: Final = Path(NODE_PATH) / "@google/gemini-cli/bundle/gemini.js"
RUN_S: Final = 90.0
SETTINGS: Final = {
    "security": {"auth": {"selectedType": "gemini-api-key"}},
    "general": {"disableAutoUpdate": True},
    "telemetry": {"enabled": False},
}


async def run(home: Path, root: str, prompt: str) -> tuple[int | None, str, str]:
    """Return how the program ended, and what it said."""
    assert (INSTALLED / ".installed").exists(), "run `make .venv/clients/.installed` first"
    (home / ".gemini").mkdir()
    (home / ".gemini/settings.json").write_text(json.dumps(SETTINGS))
    process = await asyncio.create_subprocess_exec(
        *(NODE_PROGRAM, str(PROGRAM), "--prompt", prompt, "--model", MODEL),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "GEMINI_API_KEY": KEY,
            "GOOGLE_GEMINI_BASE_URL": root,
            "GEMINI_CLI_TRUST_WORKSPACE": "true",
        },
    )
    try:
        async with asyncio.timeout(RUN_S):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, said.decode(), complained.decode()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_it_answers_over_every_dialect(dialect: TranslateDialect, tmp_path: Path) -> None:
    upstream = Upstream(dialect)
    upstream.say("stream", STREAMS[dialect]("text"))
    async with (
        upstream.peer,
        Rig(make_snapshot([channel_of(dialect, 1, upstream.peer.port)])) as rig,
    ):
        status, said, complained = await run(tmp_path, rig.url.removesuffix("/v1"), "Weather?")
        assert status == 0, complained
        assert said.strip() == "Rain in Paris."
        ends = rig.journal.ends
        # One question and no second try: it found the answer whole.
        assert [(end.endpoint, end.status) for end in ends] == [
            ("models:streamGenerateContent", 200)
        ]
        assert bool(ends[0].translated) == (dialect is not GEMINI)
        assert "Weather?" in upstream.asked.decode()
