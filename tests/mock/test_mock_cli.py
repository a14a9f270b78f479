"""Goal: `relay mock` starts, says where, keeps its record, and stops on SIGTERM.

Method: a real process on a free port; what it may not accept, by click's own runner.
"""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from openai import AsyncOpenAI

from relay.cli.host.mock import mock
from relay.mock.faults import MODES

PROGRAM = "from relay.cli.host.mock import mock; mock()"


async def test_a_run(tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "--port", "0", "--chunks", "4", "--served", str(path)),
        *("--no-usage", "--fail", "status:503@0"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = (await process.stderr.readline()).decode()
        url = line.split()[-1]
        async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}]
            )
        process.send_signal(signal.SIGTERM)
        rest = await process.stderr.read()
    except BaseException:
        process.kill()
        raise
    finally:
        code = await process.wait()
    assert (code, rest) == (0, b"")
    assert answer.usage is None
    assert json.loads(path.read_text())["completion_tokens"] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fail", "nope"], "there are: refuse, hang"),
        (["--chunks", "-1"], "--chunks"),
        (["--tls-cert", __file__], "both a certificate and a key"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(mock, ["--port", "0", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_an_address_that_is_not_ours() -> None:
    result = CliRunner().invoke(mock, ["--host", "192.0.2.1", "--port", "0"])
    assert result.exit_code == 1
    assert "cannot start on 192.0.2.1:0" in result.output


def test_the_help_names_every_option_of_the_contract() -> None:
    text = CliRunner().invoke(mock, ["--help"]).output
    for option in (
        "--config",
        "--data-dir",
        "--port",
        "--chunks",
        "--interval-ms",
        "--ttft-ms",
        "--fail",
    ):
        assert option in text
    assert len(MODES) > 30
