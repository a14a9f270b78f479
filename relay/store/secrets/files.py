"""Secrets the relay makes for itself, once: files of mode 0600 in a folder of mode 0700."""

import os
import secrets
from pathlib import Path

from relay.errors import ConfigError


def keep_secret(file: Path, fresh: str) -> str:
    """Return the secret in `file`; if there is no file yet, make it with `fresh` in it.

    Several processes may call this at once and all return the same secret: the file appears whole
    (written under another name, then linked) or not at all.

    Raises:
        ConfigError: The file or its folder cannot be made or read.
    """
    try:
        if not file.exists():
            _make(file, fresh)
        return file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"cannot keep a secret in {file}: {error.strerror}") from error


def _make(file: Path, fresh: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(fresh + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            return  # Another process was first; its secret is the one that counts.
    finally:
        draft.unlink()
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    # Losing the name after a power cut would lose every credential sealed under this key.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
