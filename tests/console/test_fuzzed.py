"""Goal: whatever is sent to either API, the answer is one that its OpenAPI document tells of.

Method: schemathesis makes requests of each document, right and wrong ones, and sends them to both
sides on a real Postgres and Valkey: the account's own with a management key, the operators' with
the admin token through the admin listener, which passes on what the console serves.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from relay.config import Billing, Config, Database, Redis
from relay.console.services import Services
from relay.console.sites import operator_side
from relay.control.api.api import AdminApi
from relay.control.watch.notices import Notices
from relay.model import Secret
from relay.outside import Stripe
from relay.store import console_socket
from tests.console.console_rig import Browser, opening
from tests.live.money_rig import SECRET

pytestmark = pytest.mark.live

TOKEN = "admin-token-of-tests"
EXAMPLES = int(os.environ.get("RELAY_FUZZ_EXAMPLES", "8"))
"""A path and a kind of request (right or wrong); beside one case for each edge of each schema."""
SEED = 15
TIMEOUT_S = 120 + 10 * EXAMPLES
CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance", "ignored_auth"),
)


def paid_for(data_dir: Path) -> Billing:
    """Return settings that take callbacks; Stripe itself is never reached."""
    (data_dir / "hook.secret").write_text(SECRET)
    secret = f"file:{data_dir / 'hook.secret'}"
    page = Stripe(secret_key=secret, webhook_secret=secret, api="http://127.0.0.1:9")
    return Billing(payment_secret=secret, stripe=page)


@asynccontextmanager
async def listening(database_url: str, redis_url: str, data_dir: Path) -> AsyncIterator[str]:
    """Serve the admin listener with the console behind it; give its address."""
    (data_dir / "secrets").mkdir(mode=0o700, exist_ok=True)
    (data_dir / "secrets" / "admin.token").write_text(TOKEN)
    config = Config(
        database=Database(url=database_url),
        redis=Redis(url=redis_url),
        billing=paid_for(data_dir),
    )
    notices = Notices(None, time.monotonic)
    services = Services(config, data_dir)
    console = web.AppRunner(operator_side(services).application(), access_log=None)
    api = AdminApi(config, data_dir, Secret(TOKEN), CollectorRegistry(), notices)
    admin = web.AppRunner(api.application(), access_log=None)
    try:
        await console.setup()
        await web.SockSite(console, console_socket.listen(data_dir)).start()
        await admin.setup()
        await web.TCPSite(admin, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{admin.addresses[0][1]}"
    finally:
        await admin.cleanup()
        await console.cleanup()
        await services.close()


async def fuzz(base: str, token: str, folder: Path, *more: str) -> None:
    """Run schemathesis on a document; what it finds is in the failure's text."""
    arguments = [
        *("-m", "schemathesis.cli", "run", f"{base}/openapi.json", "--no-color"),
        *("--header", f"Authorization: Bearer {token}", "--checks", ",".join(CHECKS)),
        *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(SEED)),
        *("--generation-database", "none", "--no-shrink", "--continue-on-failure"),
        *("--request-timeout", "10", "--warnings", "off", *more),
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, told.decode(errors="replace")


@pytest.mark.timeout(TIMEOUT_S)
async def test_account_holders_api_does_as_its_document_says(
    database_url: str, tmp_path: Path
) -> None:
    async with opening(database_url, tmp_path, billing=paid_for(tmp_path)) as rig:
        await rig.add_account("acme")
        owner = await rig.sign_in("ann@acme.example", "acme", "owner")
        await owner.call("POST", "/account/v1/keys", {"name": "first"})
        key = await rig.management_key("acme")
        await fuzz(owner.base, key, tmp_path)


@pytest.mark.timeout(TIMEOUT_S)
async def test_operators_api_does_as_its_document_says(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        opening(database_url, tmp_path) as rig,
        listening(database_url, redis_url, tmp_path) as base,
    ):
        await rig.add_account("acme")
        # Without workers nothing is ready: that 503 is what it should say.
        await fuzz(base, TOKEN, tmp_path, "--exclude-path", "/readyz")


async def test_a_nul_character_is_a_mistake_of_the_caller(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with (
        opening(database_url, tmp_path) as rig,
        listening(database_url, redis_url, tmp_path) as base,
    ):
        await rig.add_account("acme")
        key = await rig.management_key("acme")
        account = rig.browser()
        operator = Browser(base, account.session)
        for path in (
            "/account/v1/logs?model=%00",
            "/account/v1/keys?x=%00",
            "/account/v1/logs/%00",
        ):
            status, found = await account.call("GET", path, key=key)
            assert status in {400, 404}, (path, found)
        for path in ("/admin/v1/users?search=%00", "/admin/v1/balance?account=%00"):
            status, found = await operator.call("GET", path, key=TOKEN)
            assert status == 400, (path, found)
        status, _ = await operator.call("POST", "/admin/v1/channels/%00/drain", {}, key=TOKEN)
        assert status in {400, 404}
