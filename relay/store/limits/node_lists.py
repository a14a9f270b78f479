"""Which Redis the limits live on, as relay.toml says: one, one behind Sentinels, a cluster."""

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from relay.config import Config
from relay.errors import DependencyDown
from relay.store.limits.nodes import Nodes, Ranges, ask_ranges, cluster_nodes, one_node
from relay.store.limits.sentinel import follow_sentinels
from relay.store.shared_redis import read_several

COPY: Final = "cluster.json"
"""Below DATA_DIR/run: the slots of the cluster as last heard, to start from without it."""

_log = logging.getLogger(__name__)


async def find_nodes(
    config: Config, redis_url: Callable[[], str], copy: Path | None = None
) -> Nodes:
    """Return where the limits live; asks nobody but a cluster.

    Args:
        config: The whole of relay.toml.
        redis_url: Returns where `[redis]` is; raises DependencyDown where nobody knows. Asked
            anew for each connection.
        copy: Of what a cluster said of its slots: what is gone by while it does not answer.

    Raises:
        DependencyDown: No node of the cluster answers, or it is not whole, and there is no copy.
        ConfigError: `[redis] url` is not one.
    """
    limits = config.limits
    if limits.cluster:
        return await _follow_cluster(limits.cluster, copy)
    url = redis_url() if config.redis.url else ""
    if limits.sentinels:
        login, at, _ = urlsplit(url).netloc.rpartition("@")
        return one_node(follow_sentinels(limits.sentinels, limits.service, login=login + at))
    several = read_several(url)
    if several is not None:
        if several.in_cluster:
            return await _follow_cluster(several.seeds, copy)
        return one_node(several.locate())

    async def locate() -> str:
        return redis_url()

    return one_node(locate)


async def _follow_cluster(seeds: list[str], copy: Path | None) -> Nodes:
    try:
        ranges = await ask_ranges(seeds)
    except DependencyDown as error:
        found = None if copy is None else _read(copy)
        if found is None:
            raise
        _log.warning("the cluster's slots are those last heard", extra={"reason": error.message})
        return cluster_nodes(seeds, found)
    if copy is not None:
        _write(copy, ranges)
    return cluster_nodes(seeds, ranges)


def _read(copy: Path) -> Ranges | None:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(copy.read_bytes(), type=Ranges)
    return None


def _write(copy: Path, ranges: Ranges) -> None:
    """Workers that start together write the same."""
    with contextlib.suppress(OSError):
        draft = copy.with_suffix(f".{id(ranges):x}.draft")
        draft.write_bytes(msgspec.json.encode(ranges))
        draft.chmod(0o600)  # a URL may hold a login
        draft.replace(copy)
