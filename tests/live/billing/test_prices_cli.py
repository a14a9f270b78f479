"""Goal: other people's price lists come in exactly, once, and undo nothing of an operator's.

Method: `relay price` against a real Postgres, lists by hand and the one that comes along.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from relay.cli.root import main
from relay.store.catalog.sale.price_lists import read_starter

pytestmark = pytest.mark.live

Command = Callable[..., Result]

COST_MAP = {
    "gpt-x": {"input_cost_per_token": 1.5e-07, "output_cost_per_token": 6e-07},
    "gpt-y": {
        "input_cost_per_token": 2e-06,
        "output_cost_per_token": 8e-06,
        "cache_read_input_token_cost": 5e-07,
        "input_cost_per_token_above_200k_tokens": 4e-06,
        "output_cost_per_token_above_200k_tokens": 1.2e-05,
        "cache_read_input_token_cost_above_200k_tokens": 1e-06,
    },
    "video": {"output_cost_per_second": 0.1},
}
RATIOS = {"model_ratio": {"claude": 1.5}, "completion_ratio": {"claude": 5}}
HALVED = """
[[price]]
model = "gpt-x"
input = "9"
output = "9"
model_multiplier = "0.5"
"""


@pytest.fixture
def relay(database_url: str, tmp_path: Path) -> Command:
    environ = {"RELAY_DATABASE__URL": database_url, "RELAY_DATA_DIR": str(tmp_path)}

    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments, env=environ)
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def cost_map(tmp_path: Path) -> str:
    file = tmp_path / "map.json"
    file.write_text(json.dumps(COST_MAP))
    return str(file)


def prices(relay: Command) -> dict[str, dict[str, object]]:
    return {row["model"]: row for row in json.loads(relay("price", "list", "--json").stdout)}


def test_a_cost_map_is_shown_then_applied_then_nothing_is_left_to_do(
    relay: Command, cost_map: str
) -> None:
    shown = relay("price", "import", cost_map, "--dry-run")
    assert "+ price gpt-x" in shown.stdout
    assert "skipped video" in shown.stderr
    assert prices(relay) == {}
    relay("price", "import", cost_map)
    found = prices(relay)
    assert set(found) == {"gpt-x", "gpt-y"}
    assert (found["gpt-x"]["input"], found["gpt-x"]["output"]) == ("0.15", "0.6")
    assert found["gpt-y"]["tiers"] == [
        {
            "above_tokens": 200_000,
            "input": "4",
            "output": "12",
            "cached_input": "1",
            "cache_write": "0",
            "cache_write_1h": "",
        }
    ]
    assert "no changes" in relay("price", "import", cost_map).stdout
    assert prices(relay) == found


def test_a_changed_price_is_shown_with_what_it_was(
    relay: Command, cost_map: str, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(HALVED)
    relay("apply", str(catalog))
    shown = relay("price", "import", cost_map, "--models", "gpt-x")
    assert "~ price gpt-x" in shown.stdout
    assert "input: 9 -> 0.15" in shown.stdout
    found = prices(relay)
    assert set(found) == {"gpt-x"}
    assert found["gpt-x"]["model_multiplier"] == "0.5"  # the operator's own, which no list knows


def test_ratios_are_read_as_new_api_means_them(relay: Command, tmp_path: Path) -> None:
    file = tmp_path / "ratios.json"
    file.write_text(json.dumps(RATIOS))
    relay("price", "import", str(file), "--format", "ratios")
    assert "no changes" in relay("price", "import", str(file), "--format", "ratios").stdout
    (found,) = prices(relay).values()
    assert (found["input"], found["completion_multiplier"]) == ("3", "5")


def test_the_list_that_comes_along_applies_as_a_whole(relay: Command) -> None:
    relay("price", "import", "--starter")
    known = {name for name in json.loads(read_starter()) if not name.startswith("_")}
    assert set(prices(relay)) == known
    changes = json.loads(relay("price", "import", "--starter", "--json").stdout)
    assert changes == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--starter", "map.json"), 2),
        (("--starter", "--models", "no-such-*"), 78),
        (("--starter", "--format", "ratios"), 78),
        (("nowhere.json",), 78),
        (("--starter", "--format", "csv"), 2),
    ],
)
def test_what_cannot_be_imported_is_an_error(
    relay: Command, arguments: tuple[str, ...], code: int
) -> None:
    assert relay("price", "import", *arguments, code=code).stdout == ""


def test_a_file_that_is_no_list_is_an_error(relay: Command, tmp_path: Path) -> None:
    for at, text in enumerate(("", "[]", '{"m": 5}', '{"m": {"input_cost_per_token": "x"}', "\0")):
        file = tmp_path / f"{at}.json"
        file.write_text(text)
        relay("price", "import", str(file), code=78)
