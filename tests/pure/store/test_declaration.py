"""Goal: a catalog file is read exactly or refused with the path of its fault.

Method: the contract's example file, then one wrong field at a time; hypothesis for the canonical
forms (reading a canonical value again gives the same value).
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ConfigError
from relay.model import AbortBills, Dialect, LineKind, Resume
from relay.store.catalog.canonical import (
    canonical_multiplier,
    canonical_url,
    canonical_usd,
    model_map,
)
from relay.store.catalog.declaration import Declaration, parse_catalog
from relay.units import format_usd

CONTRACT = b"""
[[channel]]
name = "openai-a"
base_url = "https://api.openai.com/v1"
api_key = "env:OPENAI_KEY"
protocol = "openai"
models = ["gpt-4o-mini", "fast=gpt-4o-mini"]
weight = 1
tier = 0
tpm = 0
rpm = 0
concurrency = 0
resume = "none"
abort_bills = "partial"
[[line]]
name = "acme-dedicated"
kind = "dedicated"
channels = ["openai-a"]
tpm = 30_000_000
rpm = 0
concurrency = 0
splice = true
[[group]]
name = "enterprise"
multiplier = "0.8"
lines = ["acme-dedicated"]
[[price]]
model = "gpt-4o-mini"
input = "0.15"
output = "0.60"
cached_input = "0.075"
cache_write = "0"
per_call = "0"
model_multiplier = "1"
completion_multiplier = ""
[[account]]
name = "acme"
group = "enterprise"
credit_limit = "0"
tpm = 0
rpm = 0
concurrency = 0
[[key]]
account = "acme"
name = "ci"
key = "env:ACME_CI_KEY"
"""

CHANNEL = '[[channel]]\nname = "a"\nbase_url = "https://a.example/v1"\nmodels = ["m"]\n'
LINE = '[[line]]\nname = "l"\nchannels = ["a"]\n'
PRICE = '[[price]]\nmodel = "m"\ninput = "1"\n'
KEY = '[[key]]\naccount = "acme"\nname = "ci"\nkey = "env:K"\n'


def parse(text: str | bytes, *, plain_upstreams: bool = True) -> Declaration:
    source = text.encode() if isinstance(text, str) else text
    return parse_catalog(source, dedicated_tpm=30_000_000, plain_upstreams=plain_upstreams)


def test_contract_example() -> None:
    found = parse(CONTRACT)
    channel, line, price = found.channel[0], found.line[0], found.price[0]
    assert channel.models == ["fast=gpt-4o-mini", "gpt-4o-mini"]
    assert (channel.protocol, channel.resume) == (Dialect.OPENAI, Resume.NONE)
    assert (channel.abort_bills, channel.api_key) == (AbortBills.PARTIAL, "env:OPENAI_KEY")
    assert (line.kind, line.tpm, line.splice) == (LineKind.DEDICATED, 30_000_000, True)
    assert (price.input, price.output, price.cached_input) == ("0.15", "0.6", "0.075")
    assert found.group[0].multiplier == "0.8"
    assert found.account[0].group == "enterprise"
    assert found.key[0].key == "env:ACME_CI_KEY"


def test_tpm_defaults_by_kind() -> None:
    found = parse(
        LINE
        + 'kind = "dedicated"\n'
        + LINE.replace('"l"', '"s"')
        + LINE.replace('"l"', '"d"')
        + 'kind = "dedicated"\ntpm = 0\n'
    )
    assert [line.tpm for line in found.line] == [30_000_000, 0, 0]


def test_price_defaults() -> None:
    price = parse(PRICE + 'completion_multiplier = "4.0"').price[0]
    assert (price.output, price.completion_multiplier) == ("", "4")
    assert price.cached_input == "1"


@pytest.mark.parametrize(
    ("text", "path", "says"),
    [
        ("nonsense", "", "Expected '=' after a key"),
        ("[[chanel]]", "", "unknown field `chanel`"),
        (CHANNEL + "wieght = 1", "$.channel[0]", "wieght"),
        (CHANNEL + 'weight = "1"', "$.channel[0].weight", "int"),
        (CHANNEL + "weight = 0", "$.channel[0].weight", ">= 1"),
        (CHANNEL + 'protocol = "smtp"', "$.channel[0].protocol", "smtp"),
        (CHANNEL.replace("https:", "ftp:"), "$.channel[0]", "base_url: expected http"),
        (CHANNEL.replace("a.example", "u:p@a.example"), "$.channel[0]", "base_url: no user"),
        (CHANNEL.replace("a.example", "a.example:x"), "$.channel[0]", "base_url: not a URL"),
        (CHANNEL.replace("a.example", "ä.example"), "$.channel[0]", "base_url: only plain"),
        (CHANNEL.replace('["m"]', "[]"), "$.channel[0].models", "length"),
        (CHANNEL.replace('["m"]', '["m", "m=x"]'), "$.channel[0]", "'m' is given twice"),
        (CHANNEL.replace('["m"]', '["m="]'), "$.channel[0]", "not a model"),
        (CHANNEL.replace('"a"', '" a"'), "$.channel[0]", "no space at its ends"),
        (CHANNEL.replace('"a"', '""'), "$.channel[0].name", "length"),
        (LINE.replace('["a"]', '["a", "a"]'), "$.line[0]", "'a' is given twice"),
        ('[[group]]\nname = "g"\nmultiplier = "-1"', "$.group[0]", "multiplier: "),
        (PRICE, "$.price[0]", "either output or completion_multiplier"),
        (PRICE + 'output = "1"\ncompletion_multiplier = "2"', "$.price[0]", "either output or"),
        (PRICE.replace('"1"', "1.0") + 'output = "1"', "$.price[0].input", "str"),
        (PRICE.replace('"1"', '"-1"') + 'output = "1"', "$.price[0]", "input: must not be"),
        (
            PRICE + 'output = "1"\ncached_input = "1"\ncache_multiplier = "2"',
            "$.price[0]",
            "either cached_input or",
        ),
        (
            PRICE + 'output = "1"\n' + '[[price.tiers]]\nabove_tokens = 9\ninput="1"\noutput="1"\n'
            '[[price.tiers]]\nabove_tokens = 9\ninput="1"\noutput="1"',
            "$.price[0]",
            "must rise",
        ),
        (
            '[[account]]\nname = "a"\ngroup = "g"\ncredit_limit = "0.0000000001"',
            "$.account[0]",
            "credit_limit: ",
        ),
        (KEY + 'allow_ip = ["10.0.0.1/8"]', "$.key[0]", "allow_ip: 10.0.0.1/8 has host bits"),
        (KEY + "models = []", "$.key[0].models", "length"),
        (KEY + "expires = 2030-01-01T00:00:00", "$.key[0].expires", "timezone"),
    ],
)
def test_faults_name_their_path(text: str, path: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert path in caught.value.message
    assert says in caught.value.message


@pytest.mark.parametrize(
    "text", [CHANNEL + 'api_key = "sk-CANARY"', KEY.replace("env:K", "sk-CANARY")]
)
def test_literal_secrets_are_refused_unquoted(text: str) -> None:
    with pytest.raises(ConfigError, match="env:NAME") as caught:
        parse(text)
    assert "CANARY" not in caught.value.message


def test_plain_upstreams_are_refused_where_the_configuration_says_so() -> None:
    plain = CHANNEL.replace("https:", "HTTP:")
    assert parse(plain).channel[0].base_url == "http://a.example/v1"
    with pytest.raises(ConfigError, match=r"\$\.channel\[0\]"):
        parse(plain, plain_upstreams=False)


def test_key_fields_are_canonical() -> None:
    key = parse(
        KEY + 'allow_ip = ["10.0.0.1", "::/0", "10.0.0.1/32"]\nmodels = ["b", "a", "b"]\n'
        'quota = "5.00"\nexpires = 2030-01-01T01:00:00+01:00'
    ).key[0]
    assert key.allow_ip == ["10.0.0.1/32", "::/0"]
    assert (key.models, key.quota) == (["a", "b"], "5")
    assert key.expires is not None
    assert key.expires.isoformat() == "2030-01-01T00:00:00+00:00"


@given(st.integers(0, 2**62))
def test_canonical_usd_is_a_fixed_point(nanos: int) -> None:
    text = format_usd(nanos)
    assert canonical_usd("x", text) == text
    assert canonical_usd("x", "0" + text) == text


@given(st.decimals(0, 1_000_000, places=6))
def test_canonical_multiplier_is_a_fixed_point(factor: object) -> None:
    once = canonical_multiplier("x", str(factor))
    assert canonical_multiplier("x", once) == once


@given(st.text(max_size=40))
def test_urls_are_canonical_or_refused(text: str) -> None:
    try:
        once = canonical_url(text)
    except ValueError as error:
        assert str(error).startswith("base_url: ")
        return
    assert canonical_url(once) == once


@given(st.lists(st.text(max_size=12), max_size=5))
def test_model_maps_are_whole_or_refused(models: list[str]) -> None:
    try:
        found = model_map(models)
    except ValueError as error:
        assert str(error).startswith("models: ")
        return
    assert len(found) == len(models)
    assert model_map([f"{public}={upstream}" for public, upstream in found.items()]) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(source: bytes) -> None:
    try:
        parse(source)
    except ConfigError as error:
        assert error.message
