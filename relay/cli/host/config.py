"""`relay config show`: every setting as it is in force, and where it comes from.

Secrets are references and shown as such; a password or a token within a URL is not.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import msgspec

from relay.cli.output import json_option, print_rows
from relay.cli.root import config_path, load_context, location_options
from relay.config import ENV_PREFIX, ENV_SEPARATOR, Config
from relay.outside import find_missing
from relay.store.secrets.refs import is_reference

HIDDEN: Final = "***"
_LOGIN: Final = re.compile(r"(?<=//)([^/@:]*):[^/@]*@")
_PASSWORD: Final = re.compile(r"(?i)\b(password|token|key|secret)=[^&]*")


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command()
@location_options
@json_option
@click.option("--origin", is_flag=True, help="Also where each comes from: default, file, env.")
@click.pass_context
def show(ctx: click.Context, *, origin: bool, as_json: bool) -> None:
    """Show every setting as a command of now, and a service after its next reload, has it."""
    found, _ = load_context(ctx)
    path = config_path(ctx)
    rows = list(settings(found, path, os.environ))
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    if as_json:
        rows = [{column: row[column] for column in columns} for row in rows]
    print_rows(rows, columns, as_json=as_json)
    missing = find_missing(found.console.oidc, found.otlp, found.maintenance)
    if missing is not None:
        click.echo(f"note: {missing}", err=True)


def settings(
    config: Config, path: Path | None, environ: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield setting, value and origin of every field, in the order of relay.toml.

    Args:
        config: What was loaded from `path` and `environ`.
        path: The file; None: there is none.
        environ: May override the file.
    """
    named = {name.upper() for name in environ}
    tables = tomllib.loads(path.read_text("utf-8")) if path is not None else {}
    for section in msgspec.structs.fields(Config):
        held = getattr(config, section.name)
        for field in msgspec.structs.fields(section.type):
            variable = f"{ENV_PREFIX}{section.name}{ENV_SEPARATOR}{field.name}".upper()
            if variable in named:
                origin = f"env {variable}"
            elif field.name in tables.get(section.name, {}):
                origin = f"file {path}"
            else:
                origin = "default"
            yield {
                "setting": f"{section.name}.{field.name}",
                "value": shown(getattr(held, field.name)),
                "origin": origin,
            }


def shown(value: Any) -> Any:
    """Return what may be shown of a setting."""
    if isinstance(value, list):
        return [shown(one) for one in value]
    if not isinstance(value, str) or is_reference(value) or "://" not in value:
        return value
    secretless = _PASSWORD.sub(rf"\1={HIDDEN}", _LOGIN.sub(rf"\1:{HIDDEN}@", value))
    # A webhook's path is its password: who knows it may speak there.
    url = urlsplit(secretless)
    return f"{url.scheme}://{url.netloc}/{HIDDEN}" if url.scheme.startswith("http") else secretless
