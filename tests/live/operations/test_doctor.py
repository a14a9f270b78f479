"""Goal: `relay doctor` finds each planted fault by its name, and says the command that mends it.

Method: the command in process against a real Postgres and Valkey; each fault planted where it
would really be: in the database, in the secrets, in a TLS server with an expired certificate.
"""

import asyncio
import datetime
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from click.testing import CliRunner

from relay.cli.root import main
from relay.store.limits import resp

Examine = Callable[..., dict[str, dict[str, Any]]]

CATALOG = """
[[channel]]
name = "a"
base_url = "{url}"
api_key = "env:A_KEY"
models = ["m"]
[[line]]
name = "l"
channels = ["a"]
[[group]]
name = "g"
lines = ["l"]
[[account]]
name = "acme"
group = "g"
"""


class Patient:
    """A relay's surroundings: a database, a Valkey, a data dir."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.data_dir = folder / "data"
        self._folder = folder
        self.environ = {
            "RELAY_DATABASE__URL": database_url,
            "RELAY_REDIS__URL": redis_url,
            "RELAY_DATA_DIR": str(self.data_dir),
            "A_KEY": "sk-a",
        }

    def run(self, *words: str, code: int = 0) -> str:
        result = CliRunner().invoke(main, list(words), env=self.environ)
        assert result.exit_code == code, result.output
        return result.stdout

    def apply(self, url: str = "http://127.0.0.1:9/v1") -> None:
        file = self._folder / "catalog.toml"
        file.write_text(CATALOG.format(url=url))
        self.run("apply", str(file))

    def examine(self, *words: str) -> dict[str, dict[str, Any]]:
        result = CliRunner().invoke(main, ["doctor", "--json", *words], env=self.environ)
        found = json.loads(result.stdout)
        assert result.exit_code == (0 if all(one["ok"] for one in found) else 1)
        assert all(set(one) == {"check", "ok", "value", "mend"} for one in found)
        assert all(one["ok"] == (one["mend"] == "") for one in found)
        return {one["check"]: one for one in found}

    async def sql(self, statement: str) -> None:
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture
def patient(database_url: str, redis_url: str, tmp_path: Path) -> Patient:
    found = Patient(database_url, redis_url, tmp_path)
    found.apply()
    found.run("key", "create", "--account", "acme")
    return found


def test_a_relay_that_is_well(patient: Patient) -> None:
    found = patient.examine()
    of_this_machine = {"clock", "descriptors", "somaxconn", "port range", "disk"}
    assert {check for check, one in found.items() if not one["ok"]} <= of_this_machine
    assert of_this_machine <= found.keys()
    assert {"postgres latency", "postgres version", "clock skew", "schema"} <= found.keys()
    assert {"partitions ahead", "journal backlog", "pepper", "master key"} <= found.keys()
    assert {"redis latency", "redis version", "redis memory", "secrets"} <= found.keys()
    assert {"dns 127.0.0.1"} <= found.keys()


def test_for_people_each_fault_is_followed_by_what_mends_it(patient: Patient) -> None:
    patient.environ["RELAY_REDIS__URL"] = "redis://127.0.0.1:1/0"
    lines = patient.run("doctor", code=1).splitlines()
    at = next(at for at, line in enumerate(lines) if line.startswith("MEND  redis"))
    assert lines[at + 1].strip().startswith("-> redis-cli")


def test_postgres_away(patient: Patient) -> None:
    patient.environ["RELAY_DATABASE__URL"] = "postgresql://x@127.0.0.1:1/x"
    found = patient.examine()
    assert not found["postgres"]["ok"]
    assert found["redis latency"]["ok"], "the others still say what they know"


def test_redis_away(patient: Patient) -> None:
    patient.environ["RELAY_REDIS__URL"] = "redis://127.0.0.1:1/0"
    found = patient.examine()
    assert not found["redis"]["ok"]
    assert found["postgres latency"]["ok"]


def test_redis_silent(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        patient.environ["RELAY_REDIS__URL"] = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        assert patient.examine()["redis"]["value"] == "no answer in time"


async def test_redis_that_evicts(patient: Patient, redis_url: str) -> None:
    connection = await resp.connect(redis_url)
    await connection.ask(
        [("CONFIG", "SET", "maxmemory", "100mb", "maxmemory-policy", "allkeys-lru")]
    )
    try:
        found = await asyncio.to_thread(patient.examine)
    finally:
        await connection.ask(
            [("CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", "noeviction")]
        )
        connection.close()
    assert not found["redis memory"]["ok"]
    assert "noeviction" in found["redis memory"]["mend"]


async def test_nobody_made_partitions(patient: Patient) -> None:
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    for ahead in range(7):
        day = tomorrow + datetime.timedelta(days=ahead)
        await patient.sql(f"DROP TABLE request_log_{day:%Y%m%d}")
    found = (await asyncio.to_thread(patient.examine))["partitions ahead"]
    assert not found["ok"]
    assert found["value"] == "0 days (request_log)"
    command = found["mend"].removeprefix('psql -c "').removesuffix('"')
    await patient.sql(command)
    assert (await asyncio.to_thread(patient.examine))["partitions ahead"]["ok"], "it does mend it"


def test_a_wrong_pepper(patient: Patient) -> None:
    file = patient.data_dir / "secrets" / "pepper.key"
    good = patient.examine()["pepper"]["value"].partition(",")[0]
    file.write_text("ab" * 32)
    found = patient.examine()["pepper"]
    assert not found["ok"]
    assert f"1 keys need {good}" in found["value"]
    file.unlink()
    found = patient.examine()["pepper"]
    assert not found["ok"]
    assert good in found["mend"]
    assert not file.exists(), "the doctor makes no secret"


def test_a_wrong_master_key(patient: Patient) -> None:
    file = patient.data_dir / "secrets" / "master.key"
    file.write_text("cd" * 32)
    found = patient.examine()["master key"]
    assert not found["ok"]
    assert found["value"] == "does not open a"
    file.unlink()
    assert not patient.examine()["master key"]["ok"]
    assert not file.exists()


def test_a_database_of_another_release(patient: Patient) -> None:
    newest = "(SELECT max(name) FROM schema_migrations)"
    asyncio.run(patient.sql(f"DELETE FROM schema_migrations WHERE name = {newest}"))
    found = patient.examine()["schema"]
    assert not found["ok"]
    assert found["mend"] == "relay db migrate"
    asyncio.run(patient.sql("INSERT INTO schema_migrations VALUES ('9999_later.sql', 'x')"))
    assert not patient.examine()["schema"]["ok"]


def test_a_database_without_tables(empty_database_url: str, redis_url: str, tmp_path: Path) -> None:
    found = Patient(empty_database_url, redis_url, tmp_path).examine()
    assert not found["schema"]["ok"]
    assert found["schema"]["mend"] == "relay db migrate"


def test_a_name_that_does_not_resolve(patient: Patient) -> None:
    patient.apply("https://no-such-host.invalid/v1")
    found = patient.examine()["dns no-such-host.invalid"]
    assert not found["ok"]
    assert "channel a" in found["mend"]


def test_secrets_open_to_all(patient: Patient) -> None:
    (patient.data_dir / "secrets" / "pepper.key").chmod(0o644)
    assert not patient.examine()["secrets"]["ok"]


# --- certificates -----------------------------------------------------------------------------


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority of our own in it."""
    folder = tmp_path_factory.mktemp("authority")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(
        *new, "-x509", "-subj", "/CN=authority", "-days", "2",
        "-keyout", folder / "ca.key", "-out", folder / "ca.pem",
    )  # fmt: skip
    openssl(*new, "-subj", "/CN=up", "-keyout", folder / "up.key", "-out", folder / "up.csr")
    return folder


def sign(authority: Path, name: str, days: str) -> Path:
    """Return a certificate for a name, good for so many days: -1 has expired yesterday."""
    extension = authority / "extension"
    extension.write_text(f"subjectAltName=DNS:{name}\n")
    signed = authority / f"{name}{days}.pem"
    openssl(
        "x509", "-req", "-in", authority / "up.csr", "-CA", authority / "ca.pem",
        "-CAkey", authority / "ca.key", "-CAcreateserial", "-days", days,
        "-extfile", extension, "-out", signed,
    )  # fmt: skip
    return signed


@pytest.fixture
def served(authority: Path) -> Iterator[Callable[[Path], str]]:
    """Serve TLS under a certificate; what it returns is a base URL."""
    open_ones: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(certificate: Path) -> str:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, authority / "up.key")
        server = socket.create_server(("127.0.0.1", 0))
        open_ones.append(server)

        def greet() -> None:
            try:
                connection, _ = server.accept()
                with connection, context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(1)
            except OSError:
                pass

        threads.append(threading.Thread(target=greet))
        threads[-1].start()
        return f"https://localhost:{server.getsockname()[1]}/v1"

    yield serve
    for server in open_ones:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("name", "days", "ok", "said"),
    [
        ("localhost", "60", True, "good for 59 days"),
        ("localhost", "5", False, "good for 4 days"),
        ("localhost", "-1", False, "certificate has expired"),
        ("elsewhere.test", "60", False, "Hostname mismatch"),
    ],
)
def test_upstreams_certificates(
    patient: Patient,
    authority: Path,
    served: Callable[[Path], str],
    name: str,
    days: str,
    ok: bool,
    said: str,
) -> None:
    url = served(sign(authority, name, days))
    patient.apply(url)
    port = url.rpartition(":")[2].removesuffix("/v1")
    found = patient.examine("--ca", str(authority / "ca.pem"))[f"tls localhost:{port}"]
    assert found["ok"] is ok
    assert said in found["value"]
    assert ok or "relay channel drain a" in found["mend"]


def test_an_authority_nobody_knows(
    patient: Patient, authority: Path, served: Callable[[Path], str]
) -> None:
    patient.apply(served(sign(authority, "localhost", "60")))
    [found] = [one for check, one in patient.examine().items() if check.startswith("tls ")]
    assert not found["ok"]
    assert "unable to get local issuer certificate" in found["value"]


def test_a_certificate_of_our_own(patient: Patient, authority: Path) -> None:
    file = sign(authority, "localhost", "-1")
    found = patient.examine("--certificate", str(file))[f"certificate {file}"]
    assert not found["ok"]
    assert "expired" in found["value"]
