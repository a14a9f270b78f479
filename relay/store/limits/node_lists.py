"""Which Redis the limits live on, as relay.toml says: one, one behind Sentinels, a cluster."""

from collections.abc import Callable
from urllib.parse import urlsplit

from relay.config import Config
from relay.store.limits.nodes import Nodes, cluster_nodes, one_node
from relay.store.limits.sentinel import follow_sentinels


async def find_nodes(config: Config, redis_url: Callable[[], str]) -> Nodes:
    """Return where the limits live; asks nobody but a cluster.

    Args:
        config: The whole of relay.toml.
        redis_url: Returns where `[redis]` is; raises DependencyDown where nobody knows. Asked
            anew for each connection.

    Raises:
        DependencyDown: No node of the cluster answers, or it is not whole.
    """
    limits = config.limits
    if limits.cluster:
        return await cluster_nodes(limits.cluster)
    if limits.sentinels:
        url = redis_url() if config.redis.url else ""
        login, at, _ = urlsplit(url).netloc.rpartition("@")
        return one_node(follow_sentinels(limits.sentinels, limits.service, login=login + at))

    async def locate() -> str:
        return redis_url()

    return one_node(locate)
