"""relay.toml and RELAY_* give one typed Config, and every mistake is named: read small files."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Config, load
from relay.errors import ConfigError
from relay.places import parse_address


def written(folder: Path, text: str) -> Path:
    path = folder / "relay.toml"
    path.write_text(text, "utf-8")
    return path


def complaint(path: Path | None, environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return str(caught.value)


def test_nothing_given_is_the_defaults() -> None:
    assert load(None, {"PATH": "/bin", "RELAY_CONFIG": "x", "RELAY_DATA_DIR": "y"}) == Config()


def test_environment_overrides_the_file_and_takes_the_field_s_type(tmp_path: Path) -> None:
    path = written(
        tmp_path, '[server]\nlisten = "0.0.0.0:80"\nworkers = 3\n[timeouts]\nbody_s = 9\n'
    )
    config = load(
        path,
        {
            "RELAY_SERVER__WORKERS": "5",
            "RELAY_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, 192.168.0.0/16,",
            "RELAY_SERVER__ALLOW_PLAIN_UPSTREAMS": "false",
            "RELAY_TIMEOUTS__HEAD_S": "2.5",
            "RELAY_DATABASE__URL": "postgres://u@h/d",
        },
    )
    assert config.server.listen == "0.0.0.0:80"
    assert config.server.workers == 5
    assert config.server.trusted_proxies == ["10.0.0.0/8", "192.168.0.0/16"]
    assert config.server.allow_plain_upstreams is False
    assert (config.timeouts.head_s, config.timeouts.body_s) == (2.5, 9.0)
    assert config.database.url == "postgres://u@h/d"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server]\nlisten_on = 1", "server: Object contains unknown field `listen_on`"),
        ("[sever]\nlisten = 1", "Object contains unknown field `sever`"),
        ('[server]\nworkers = "two"', "server.workers: Expected `int`, got `str`"),
        ("[server]\nworkers = -1", "server.workers: Expected `int` >= 0"),
        ("[timeouts]\nhead_s = 0", "timeouts.head_s: Expected `float` > 0"),
        ("[switching]\nretry_share_max = 1.5", "switching.retry_share_max: Expected `float` <= 1"),
        ("[log]\nretention_days = 0", "log.retention_days: Expected `int` >= 1"),
        ('[server]\nlisten = "8080"', "server.listen: not HOST:PORT"),
        ('[server]\nadmin = "::1:80"', "server.admin: not HOST:PORT"),
        ('[server]\nadmin = "h:70000"', "server.admin: not HOST:PORT with a port in 0-65535"),
        ('[server]\ntrusted_proxies = ["10.0.0.1/8"]', "server.trusted_proxies: not a list of"),
        ('[maintenance]\nwindow = "1-5"', "maintenance.window: not HH:MM-HH:MM"),
        ('[maintenance]\nwindow = "05:00-05:00"', "maintenance.window: not HH:MM-HH:MM"),
        ('[maintenance]\nzone = "Mars/Olympus"', "maintenance.zone: not a known IANA time zone"),
        ('[billing]\ncny_per_usd = "seven"', "billing.cny_per_usd: not a positive decimal"),
        ('[billing]\ncny_per_usd = "0"', "billing.cny_per_usd: not a positive decimal"),
        ('[billing]\ncny_per_usd = "NaN"', "billing.cny_per_usd: not a positive decimal"),
        ("[server", "not TOML: "),
    ],
)
def test_each_mistake_names_the_file_and_the_path(tmp_path: Path, text: str, says: str) -> None:
    path = written(tmp_path, text)
    assert complaint(path, {}).startswith(f"{path}: {says}")


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "absent.toml", {})
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9\n")
    assert complaint(path, {}) == f"{path}: not UTF-8"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RELAY_SEVER__LISTEN", "x", "RELAY_SEVER__LISTEN: there is no section [sever]"),
        ("RELAY_SERVER__LISTN", "x", "RELAY_SERVER__LISTN: there is no field server.listn"),
        ("RELAY_SERVER__WORKERS", "two", "RELAY_SERVER__WORKERS: Expected `int`, got `str`"),
        ("RELAY_SERVER__DRAIN_S", "-1", "RELAY_SERVER__DRAIN_S: Expected `float` > 0"),
        ("RELAY_SERVER__LISTEN", "x", "configuration: server.listen: not HOST:PORT"),
    ],
)
def test_each_mistake_in_the_environment_names_the_variable(
    variable: str, value: str, says: str
) -> None:
    assert complaint(None, {variable: value}).startswith(says)


@given(
    value=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=16),
    variable=st.sampled_from(
        [
            *("RELAY_SERVER__WORKERS", "RELAY_SERVER__LISTEN", "RELAY_SERVER__TRUSTED_PROXIES"),
            *("RELAY_BILLING__CNY_PER_USD", "RELAY_MAINTENANCE__ZONE", "RELAY_MAINTENANCE__WINDOW"),
        ]
    ),
)
def test_no_complaint_quotes_the_value(value: str, variable: str) -> None:
    canary = f"~{value}~"
    assert canary not in complaint(None, {variable: canary})


@given(host=st.sampled_from(["127.0.0.1", "localhost", "::1", "::"]), port=st.integers(0, 65_535))
def test_addresses_come_back_as_they_were_written(host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    assert parse_address(f"{shown}:{port}") == (host, port)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        host, port = parse_address(text)
    except ValueError:
        return
    assert host and 0 <= port <= 65_535


def test_defaults_obey_their_own_bounds() -> None:
    assert msgspec.convert(msgspec.to_builtins(Config()), Config) == Config()
