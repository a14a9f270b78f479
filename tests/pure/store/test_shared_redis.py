"""Goal: one address names one Redis, or several of which one is found, and nothing else."""

import pytest

from relay.errors import ConfigError
from relay.store.shared_redis import TAG, Several, read_several, tag_of


@pytest.mark.parametrize(
    "url", ["redis://h:6379/1", "rediss://u:p@h", "unix:///run/v.sock?db=0", ""]
)
def test_one_server_is_as_it_stands(url: str) -> None:
    assert read_several(url) is None
    assert tag_of(url) == ""


def test_sentinels_know_a_service_and_the_login_is_that_of_the_primary() -> None:
    found = read_several("redis+sentinel://user:pw@one:26379,two:26379/relay")
    assert found == Several(["redis://one:26379", "redis://two:26379"], "user:pw@", "relay")
    assert tag_of("redis+sentinel://one:26379/relay") == ""


def test_what_is_shared_in_a_cluster_has_one_tag() -> None:
    found = read_several("redis+cluster://:pw@one:6379,two:6379")
    assert found == Several(["redis://:pw@one:6379", "redis://:pw@two:6379"], ":pw@", "")
    assert tag_of("redis+cluster://one:6379") == TAG


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one:26379",
        "redis+sentinel:///relay",
        "redis+cluster://one:6379/relay",
        "redis+cluster://",
        "redis+cluster://one:6379?db=1",
    ],
)
def test_what_names_too_much_or_too_little_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="redis"):
        read_several(url)
