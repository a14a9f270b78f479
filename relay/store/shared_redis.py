"""The Redis that hosts share, as `[redis] url` names it, found anew for each connection.

    redis://HOST:6379/0, rediss://, unix://          one server
    redis+sentinel://[LOGIN@]HOST:26379,.../SERVICE  the primary that Sentinels name
    redis+cluster://[LOGIN@]HOST:6379,...            the shard of a cluster that has our tag

Limits are spread over a cluster's shards by tags of their own. All else that is shared is little:
it has one tag, so that one connection reaches it all, and a failover of its shard is followed.
"""

from typing import Final
from urllib.parse import urlsplit

import msgspec

from relay.errors import ConfigError
from relay.store.limits.nodes import Locate, find_owner
from relay.store.limits.sentinel import follow_sentinels

TAG: Final = "{relay}:"
"""Before a key in a cluster: what is between the braces says which shard has it."""
_SENTINEL: Final = "redis+sentinel"
_CLUSTER: Final = "redis+cluster"


class Several(msgspec.Struct, frozen=True):
    """Servers of which one is to be found. `service`: what Sentinels call it, "" in a cluster."""

    seeds: list[str]
    login: str
    service: str

    @property
    def in_cluster(self) -> bool:
        """Whether they are nodes of a cluster."""
        return not self.service

    def locate(self) -> Locate:
        """Return what finds who has what is shared."""
        if self.in_cluster:
            return find_owner(self.seeds, TAG)
        return follow_sentinels(self.seeds, self.service, login=self.login)


def read_several(url: str) -> Several | None:
    """Return what a URL says of several servers; None: it is that of one.

    Raises:
        ConfigError: It names no server, or no service.
    """
    parts = urlsplit(url)
    if parts.scheme not in (_SENTINEL, _CLUSTER):
        return None
    login, at, hosts = parts.netloc.rpartition("@")
    in_cluster = parts.scheme == _CLUSTER
    before = f"redis://{login}{at}" if in_cluster else "redis://"
    seeds = [before + host for host in hosts.split(",") if host]
    service = parts.path.strip("/")
    if not seeds or in_cluster == bool(service) or parts.query:
        raise ConfigError(
            f"[redis] url: not {_SENTINEL}://HOST:PORT,.../SERVICE, nor {_CLUSTER}://HOST:PORT,..."
        )
    return Several(seeds, login + at, service)


async def find_shared(url: str) -> str:
    """Return the URL of the one server that has what is shared.

    Raises:
        DependencyDown: Nobody who was asked knows it.
        ConfigError: The URL is not one.
    """
    several = read_several(url)
    return url if several is None else await several.locate()()


def tag_of(url: str) -> str:
    """Return what stands before each key: in a cluster the tag, else nothing."""
    several = read_several(url)
    return TAG if several is not None and several.in_cluster else ""
