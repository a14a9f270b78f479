"""Goal: a server is found: configured, by a reference, or embedded; and finding it never waits.

Method: settings, an environment, and sockets that listen.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from relay.config import Config, Database, Redis
from relay.errors import ConfigError, DependencyDown
from relay.store.embedded.locate import (
    POSTGRES,
    ServerAddress,
    database_url,
    record_path,
    redis_url,
)

URL = "postgresql://relay:secret@db/relay"


def test_a_url_is_taken_as_it_stands() -> None:
    config = Config(database=Database(url=URL), redis=Redis(url="redis://cache:6379/0"))
    assert database_url(config, Path("nowhere")) == URL
    assert redis_url(config, Path("nowhere")) == "redis://cache:6379/0"


def test_a_reference_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_TEST_URL", URL)
    config = Config(database=Database(url="env:RELAY_TEST_URL"))
    assert database_url(config, Path("nowhere")) == URL


def test_a_reference_to_nothing_names_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RELAY_TEST_URL", raising=False)
    config = Config(redis=Redis(url="env:RELAY_TEST_URL"))
    with pytest.raises(ConfigError, match=r"\[redis\] url"):
        redis_url(config, Path("nowhere"))


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that the record of an embedded Postgres names; it listens."""
    path = tmp_path / "postgres.sock"
    record_path(tmp_path).parent.mkdir()
    record_path(tmp_path).write_bytes(
        msgspec.json.encode({POSTGRES: ServerAddress(URL, str(path))})
    )
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(path))
        listener.listen(0)
        yield listener


def test_a_record_is_believed_while_its_socket_is_answered(
    embedded: socket.socket, tmp_path: Path
) -> None:
    assert database_url(Config(), tmp_path) == URL
    embedded.close()
    with pytest.raises(DependencyDown, match="start `relay serve` first"):
        database_url(Config(), tmp_path)


@pytest.mark.timeout(10)
@pytest.mark.usefixtures("embedded")
def test_a_server_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    for _ in range(5):  # more than its queue takes
        assert database_url(Config(), tmp_path) == URL
