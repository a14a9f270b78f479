"""Where a secret is, instead of the secret: `env:NAME`, `file:PATH`, `cred:NAME`.

A literal in a file ends up in backups, in Git and on screens, so literals are refused. No message
of this module quotes what it was given: somebody will paste the secret itself.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from relay.errors import ConfigError
from relay.model import Secret
from relay.store.secrets import desk

SECRET_BYTES_MAX: Final = 64 * 1024
"""A credential is short; a file larger than this is the wrong file."""

_REFERENCE: Final = re.compile(r"(?:env:[A-Za-z_][A-Za-z0-9_]*|cred:[A-Za-z0-9_.@-]+|file:.+)")

HOW_TO: Final = (
    "a secret is given by reference: env:NAME (environment), file:PATH (a file), "
    "or cred:NAME (systemd credential)"
)


def is_reference(text: str) -> bool:
    """Return whether `text` has the form of a secret reference."""
    return _REFERENCE.fullmatch(text) is not None


def resolve(
    reference: str,
    environ: Mapping[str, str],
    *,
    path: str,
    optional: bool = False,
    document: bool = False,
) -> Secret:
    """Return the secret a reference stands for, without its trailing line end.

    Args:
        reference: `env:NAME`, `file:PATH` or `cred:NAME` (a file in $CREDENTIALS_DIRECTORY).
        environ: The environment to look in.
        path: Where the reference stands, for the message: `$.channel[0].api_key`.
        optional: Whether an empty reference is taken, and gives an empty secret.
        document: Whether a JSON document is there, which is brought into one line.

    Raises:
        ConfigError: Not a reference, or there is nothing (or nothing readable) where it points.
    """
    if optional and not reference:
        return Secret("")
    if not is_reference(reference):
        raise ConfigError(f"{path}: {HOW_TO}")
    scheme, _, name = reference.partition(":")
    if scheme == "env":
        found = environ.get(name, "") or _asked(reference, environ)
    elif scheme == "cred":
        found = "" if environ.get("CREDENTIALS_DIRECTORY") else _asked(reference, environ)
        found = found or _read(_credential(name, environ, path), path)
    else:
        found = _read(Path(name), path)
    if not found:
        raise ConfigError(f"{path}: {scheme}:{name} is not set or empty")
    if document:
        found = _one_line(found, f"{path}: {scheme}:{name}")
    if not (found.isascii() and found.isprintable()):
        raise ConfigError(f"{path}: {scheme}:{name} is not one line of plain ASCII")
    return Secret(found)


def _asked(reference: str, environ: Mapping[str, str]) -> str:
    """Return what the relay that runs has for it, in a command that was told whom to ask."""
    data_dir = environ.get(desk.VARIABLE)
    return desk.ask(Path(data_dir), reference) if data_dir else ""


def _one_line(document: str, where: str) -> str:
    """Return a JSON document in one line of plain ASCII; no message quotes it."""
    try:
        return json.dumps(json.loads(document), separators=(",", ":"))
    except ValueError:
        raise ConfigError(f"{where} is not a JSON document") from None


def _credential(name: str, environ: Mapping[str, str], path: str) -> Path:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"{path}: cred:{name} needs $CREDENTIALS_DIRECTORY (LoadCredential=), "
            "or a relay that runs and can be asked, by root or its own user"
        )
    if name in (".", ".."):
        raise ConfigError(f"{path}: {HOW_TO}")
    return Path(folder, name)


def _read(file: Path, path: str) -> str:
    try:
        with file.open("rb") as stream:
            found = stream.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read {file}: {error.strerror}") from error
    if len(found) > SECRET_BYTES_MAX:
        raise ConfigError(f"{path}: {file} is larger than {SECRET_BYTES_MAX} bytes")
    try:
        return found.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: {file} is not text") from None
