"""Goal: a channel of a known kind is reached as its provider documents it, and says what is own.

Method: entries as a file declares them, made into channels; their request heads read line by line.
"""

import msgspec
import pytest

from relay.errors import ConfigError
from relay.model import AbortBills, Channel, Dialect, Resume, Secret
from relay.reach import NOTHING, Auth, Reach, check_reach
from relay.records import Endpoint
from relay.store.catalog.canonical import choose_models
from relay.store.catalog.channel_entry import ChannelEntry
from relay.store.catalog.declaration import parse_catalog
from relay.wire.http import request_head
from relay.wire.kinds.address import models_url, request_headers
from relay.wire.kinds.presets import PRESETS


def declared(text: str) -> ChannelEntry:
    source = f'[[channel]]\nname = "c"\n{text}'.encode()
    return parse_catalog(source, dedicated_tpm=0, plain_upstreams=True).channel[0]


def channel(entry: ChannelEntry) -> Channel:
    return Channel(
        id=1,
        name=entry.name,
        base_url=entry.base_url,
        api_key=Secret("sk-1"),
        models=entry.named_models,
        protocol=entry.protocol,
        kind=entry.kind,
        reach=None if entry.reach == NOTHING else entry.reach,
    )


def head(entry: ChannelEntry, endpoint: Endpoint = Endpoint.CHAT, model: str = "") -> list[str]:
    return request_head(channel(entry), endpoint, "", model).decode().split("\r\n")


def test_every_preset_makes_a_channel_that_says_no_more_than_it_has_to() -> None:
    for name, preset in PRESETS.items():
        own = "" if preset.base_url else f'base_url = "{preset.example}"\n'
        entry = declared(f'kind = "{name}"\nmodels = ["m"]\n{own}')
        assert entry.base_url == (preset.base_url or preset.example)
        assert (entry.protocol, entry.resume) == (preset.protocol, preset.resume)
        assert head(entry)[0].endswith(" HTTP/1.1")
        assert models_url(channel(entry)) == "" or models_url(channel(entry)).startswith("http")


def test_what_a_file_says_wins_over_the_preset() -> None:
    entry = declared(
        'kind = "mistral"\nmodels = ["m"]\nbase_url = "https://eu.example/v1"\nresume = "none"\n'
    )
    assert (entry.base_url, entry.resume) == ("https://eu.example/v1", Resume.NONE)
    assert (entry.abort_bills, entry.include_usage) == (AbortBills.FULL, False)


def test_a_channel_without_a_kind_is_as_it_always_was() -> None:
    entry = declared('models = ["m"]\nbase_url = "https://a.example/v1"\n')
    assert entry.reach == NOTHING
    assert (entry.protocol, entry.include_usage) == (Dialect.OPENAI, True)
    assert head(entry) == [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: a.example",
        "User-Agent: relay",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Authorization: Bearer sk-1",
        "Content-Length: ",
    ]


def test_azure_names_the_deployment_in_the_path_and_the_key_in_a_header_of_its_own() -> None:
    base_url = "https://res.openai.azure.com/openai"
    entry = declared(f'kind = "azure"\nmodels = ["gpt=my dep"]\nbase_url = "{base_url}"\n')
    found = channel(entry)
    assert found.reach is not None
    assert found.reach.names_model
    lines = head(entry, model="my dep")
    assert lines[0] == (
        "POST /openai/deployments/my%20dep/chat/completions?api-version=2024-10-21 HTTP/1.1"
    )
    assert "api-key: sk-1" in lines
    assert not any(line.startswith("Authorization") for line in lines)
    first = head(entry, Endpoint.RESPONSES, "my dep")[0]
    assert first == "POST /openai/responses?api-version=2024-10-21 HTTP/1.1"
    assert models_url(found) == ""


def test_an_api_version_of_ones_own_takes_the_place_of_the_presets() -> None:
    entry = declared(
        'kind = "azure"\nmodels = ["m"]\nbase_url = "https://r.example/openai"\n'
        '[channel.query]\napi-version = "2030-01-01-preview"\n'
    )
    assert head(entry, model="m")[0].endswith("?api-version=2030-01-01-preview HTTP/1.1")


def test_own_headers_and_query_go_with_each_request() -> None:
    entry = declared(
        'protocol = "anthropic"\nmodels = ["m"]\nbase_url = "https://a.example"\n'
        '[channel.headers]\nX-Tenant = "t 1"\n[channel.query]\nzone = "eu"\n'
    )
    found = request_head(channel(entry), Endpoint.MESSAGES, "?beta=true").decode().split("\r\n")
    assert found[0] == "POST /v1/messages?beta=true&zone=eu HTTP/1.1"
    assert "X-Tenant: t 1" in found
    assert "x-api-key: sk-1" in found
    asked = request_headers(channel(entry))
    assert (asked["x-tenant"], asked["x-api-key"]) == ("t 1", "sk-1")


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("openai", "https://api.openai.com/v1/models"),
        ("deepseek", "https://api.deepseek.com/models"),
        ("cohere", "https://api.cohere.ai/v1/models"),
        ("anthropic", "https://api.anthropic.com/v1/models?limit=1000"),
        (
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta/models?pageSize=1000",
        ),
    ],
)
def test_models_are_listed_where_the_provider_has_them(kind: str, url: str) -> None:
    assert models_url(channel(declared(f'kind = "{kind}"\nmodels = ["m"]\n'))) == url


@pytest.mark.parametrize(
    "text",
    [
        'kind = "nobody"\nmodels = ["m"]\n',
        'kind = "azure"\nmodels = ["m"]\n',  # whose resource?
        'kind = "openai"\nmodels = ["!gpt-*"]\n',
        'kind = "openai"\nmodels = ["a*=b"]\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.headers]\nAuthorization = "sk-CANARY"\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.headers]\nHost = "CANARY"\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.headers]\nX = "CANARY\\r\\nY: 1"\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.query]\nkey = "CANARY"\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.paths]\nchat = "/x"\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.paths]\n"*" = "/../{path}"\n',
        'kind = "openai"\nmodels = ["m"]\n[channel.paths]\n"*" = "/{key}"\n',
        'kind = "openai"\nmodels = ["m"]\nlisting = "https://CANARY.example/"\n',
    ],
)
def test_what_cannot_be_is_refused_and_no_value_is_shown(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        declared(text)
    assert "CANARY" not in refused.value.message


def test_a_reach_survives_its_row() -> None:
    reach = Reach(auth=Auth.API_KEY, query={"a": "b"}, paths={"*": "/{model}{path}"}, listing="-")
    check_reach(reach)
    assert msgspec.json.decode(msgspec.json.encode(reach), type=Reach) == reach
    assert msgspec.json.encode(NOTHING) == b"{}"


def test_patterns_choose_and_leave_out() -> None:
    listed = ["gpt-5", "gpt-5-audio", "o3", "text-embedding-3"]
    assert choose_models(["*"], listed) == listed
    assert choose_models(["gpt-*", "!*-audio*"], listed) == ["gpt-5"]
    assert choose_models(["gpt-*", "o*"], listed) == ["gpt-5", "gpt-5-audio", "o3"]


def test_models_and_patterns_are_kept_apart_in_one_order() -> None:
    entry = declared('kind = "openai"\nmodels = ["!x-*", "b=c", "*", "a"]\n')
    assert entry.models == ["a", "b=c", "!x-*", "*"]
    assert entry.named_models == {"a": "a", "b": "c"}
    assert entry.patterns == ["!x-*", "*"]
