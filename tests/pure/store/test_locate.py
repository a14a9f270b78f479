"""Goal: a configured server is found, also by a reference. Method: settings and an environment."""

from pathlib import Path

import pytest

from relay.config import Config, Database, Redis
from relay.errors import ConfigError
from relay.store.locate import database_url, redis_url

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
