"""The one cheap question that every upstream answers: which models do you have?

GET {base_url}/models costs nothing at any provider and needs a good credential.
"""

from relay.model import Channel
from relay.wire.dialects.known import TABLES


def models_url(channel: Channel) -> str:
    """Return the address of a channel's list of models.

    Source: Gemini API, models.list: the only one that lists by pages, of 50 unless told.
    """
    return f"{channel.api_root}/models{TABLES[channel.protocol].models_query}"


def request_headers(channel: Channel) -> dict[str, str]:
    """Return the headers that carry a channel's credential in its dialect."""
    api_key = channel.api_key.reveal()
    if not api_key:
        return {}
    table = TABLES[channel.protocol]
    name, before = table.upstream_credential
    return {name.lower(): f"{before}{api_key}", **dict(table.probe_headers)}
