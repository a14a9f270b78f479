"""Which Postgres and Redis to talk to: the configured ones, else the embedded ones if they run.

The supervisor leaves a record of its embedded servers in DATA_DIR/run/embedded.json; commands and
workers read it here. The record is believed only when the socket in it is answered.
"""

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

import msgspec

from relay.config import Config
from relay.errors import DependencyDown
from relay.store.secrets.refs import is_reference, resolve

POSTGRES: Final = "postgres"
VALKEY: Final = "valkey"


class ServerAddress(msgspec.Struct, frozen=True):
    """Where an embedded server answers. The record maps a server's name to one."""

    url: str
    socket: str


def record_path(data_dir: Path) -> Path:
    """Return where the record of the embedded servers is."""
    return data_dir / "run" / "embedded.json"


def database_url(config: Config, data_dir: Path) -> str:
    """Return the URL of Postgres: the configured one, else the running embedded one's.

    Raises:
        DependencyDown: Neither; the message says what to do.
        ConfigError: The configured reference leads nowhere.
    """
    configured = _configured(config.database.url, "[database] url")
    return configured or _embedded_url(data_dir, POSTGRES, "[database] url")


def redis_url(config: Config, data_dir: Path) -> str:
    """Return the URL of Redis or Valkey: the configured one, else the running embedded one's.

    Raises:
        DependencyDown: Neither; the message says what to do.
        ConfigError: The configured reference leads nowhere.
    """
    configured = _configured(config.redis.url, "[redis] url")
    return configured or _embedded_url(data_dir, VALKEY, "[redis] url")


def _configured(url: str, setting: str) -> str:
    """Return a configured URL; a reference is followed, since a URL may hold a password."""
    return resolve(url, os.environ, path=setting).reveal() if is_reference(url) else url


def _embedded_url(data_dir: Path, server: str, setting: str) -> str:
    path = record_path(data_dir)
    try:
        address = msgspec.json.decode(path.read_bytes(), type=dict[str, ServerAddress])[server]
        _greet(address.socket)
    except PermissionError as error:
        raise DependencyDown(
            f"{error.filename or path} is another user's: run this as the user of `relay serve`"
        ) from error
    except (OSError, msgspec.DecodeError, KeyError) as error:
        raise DependencyDown(f"start `relay serve` first, or set {setting}") from error
    return address.url


def _greet(path: str) -> None:
    """Connect to a unix socket and hang up, without waiting: workers call this in their loop.

    A server that hangs accepts nobody, and once its queue is full a connect would wait for ever.
    It listens, all the same.

    Raises:
        OSError: Nobody listens there.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            probe.connect(path)
