"""Where a channel's endpoints and its list of models are, and in which header its credential goes.

The dialect's table says so, a channel's own reach (relay.reach) instead of it where it has one.
"""

from typing import Final
from urllib.parse import quote, urlencode, urljoin, urlsplit

from relay.model import Channel
from relay.reach import AUTH_HEADERS, MODEL, OTHER, PATH, Auth
from relay.records import Endpoint
from relay.wire.dialects.known import TABLES

NO_LISTING: Final = "-"


def target(channel: Channel, endpoint: Endpoint, query: str, model: str) -> str:
    """Return the path and query of an endpoint.

    Args:
        channel: Whose.
        endpoint: Which.
        query: What goes on of the client's, with its question mark; "" = nothing.
        model: The upstream's name of the model, where a path names it.
    """
    said = TABLES[channel.protocol].path(endpoint, model)
    reach = channel.reach
    if reach is not None:
        template = reach.paths.get(endpoint.value) or reach.paths.get(OTHER)
        if template:
            said = template.replace(PATH, said).replace(MODEL, quote(model, safe="@-._~"))
        query = _joined(query, reach.query)
    return f"{urlsplit(channel.api_root).path}{said}{query}"


def kept_target(channel: Channel, path: str) -> str:
    """Return the path and query of what a channel keeps; `path`: below its root, with its query."""
    said, _, query = path.partition("?")
    more = {} if channel.reach is None else channel.reach.query
    return f"{urlsplit(channel.api_root).path}{said}{_joined(f'?{query}' if query else '', more)}"


def credential(channel: Channel) -> tuple[str, str]:
    """Return the header an upstream wants its key in, and what stands before the key.

    "": it wants none, and the request is signed.
    """
    reach = channel.reach
    if reach is None or reach.auth is Auth.DIALECT:
        return TABLES[channel.protocol].upstream_credential
    return AUTH_HEADERS[reach.auth]


def own_headers(channel: Channel) -> dict[str, str]:
    """Return what a channel adds to each request."""
    return {} if channel.reach is None else channel.reach.headers


def models_url(channel: Channel) -> str:
    """Return the address of a channel's list of models; "" = it has none, or none to ask simply.

    Source: Gemini API, models.list, and Anthropic API, List models: by pages, of 50 and 20.
    """
    reach = channel.reach
    listing = "" if reach is None else reach.listing
    if listing == NO_LISTING:
        return ""
    if reach is not None and (reach.signs or reach.egress is not None):
        return ""
    query = _joined(TABLES[channel.protocol].models_query, {} if reach is None else reach.query)
    return urljoin(f"{channel.api_root}/", listing or "models") + query


def request_headers(channel: Channel) -> dict[str, str]:
    """Return the headers that a question for the models needs, the credential among them."""
    found = {name.lower(): value for name, value in own_headers(channel).items()}
    api_key = channel.api_key.reveal()
    if api_key:
        name, before = credential(channel)
        probes = dict(TABLES[channel.protocol].probe_headers)
        found |= {**({name.lower(): f"{before}{api_key}"} if name else {}), **probes}
    return found


def _joined(query: str, more: dict[str, str]) -> str:
    if not more:
        return query
    return f"{query}{'&' if query else '?'}{urlencode(more)}"
