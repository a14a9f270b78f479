"""The papers keep pace with the code: what deploy/ says is compared with what the code knows."""

from pathlib import Path

import msgspec
import pytest

from relay.config import Config, load

DEPLOY = Path(__file__).parents[1] / "deploy"


def fields() -> list[tuple[str, str]]:
    return [
        (section.name, field.name)
        for section in msgspec.structs.fields(Config)
        for field in msgspec.structs.fields(section.type)
    ]


@pytest.mark.parametrize(("section", "field"), fields())
def test_every_setting_stands_in_relay_toml_once(section: str, field: str) -> None:
    text = (DEPLOY / "relay.toml").read_text("utf-8")
    _, _, rest = text.partition(f"\n[{section}]")
    table = rest.partition("\n[")[0]
    lines = [line for line in table.splitlines() if line.startswith(f"{field} = ")]
    # One that is commented out is off unless it is there.
    nested = any(f"\n{mark}[{section}.{field}]" in text for mark in ("", "#"))
    assert nested or len(lines) == 1


def test_relay_toml_says_the_defaults() -> None:
    assert load(DEPLOY / "relay.toml", {}) == Config()


def test_the_unit_outwaits_the_drain_and_gives_up_on_a_bad_configuration() -> None:
    unit = dict(
        line.split("=", 1)
        for line in (DEPLOY / "relay.service").read_text("utf-8").splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert int(unit["TimeoutStopSec"]) > Config().server.drain_s
    assert unit["RestartPreventExitStatus"] == "78"
    assert unit["KillMode"] == "mixed"
    assert unit["LimitCORE"] == "0"
