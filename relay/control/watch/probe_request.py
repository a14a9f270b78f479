"""The one cheap question that every upstream answers: which models do you have?

GET {base_url}/models costs nothing at any provider and needs a good credential.
"""

from relay.model import Channel, Dialect


def models_url(channel: Channel) -> str:
    """Return the address of a channel's list of models.

    Source: Gemini API, models.list: the only one that lists by pages, of 50 unless told.
    """
    query = "?pageSize=1000" if channel.protocol is Dialect.GEMINI else ""
    return f"{channel.api_root}/models{query}"


def request_headers(channel: Channel) -> dict[str, str]:
    """Return the headers that carry a channel's credential in its dialect."""
    api_key = channel.api_key.reveal()
    if not api_key:
        return {}
    match channel.protocol:
        case Dialect.ANTHROPIC:
            return {"x-api-key": api_key, "anthropic-version": "2023-06-01"}
        case Dialect.GEMINI:
            return {"x-goog-api-key": api_key}
        case Dialect.OPENAI:
            return {"authorization": f"Bearer {api_key}"}
