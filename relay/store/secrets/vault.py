"""Upstream credentials, encrypted at rest; the master key and the pepper they depend on.

A sealed credential is version (1 byte) | nonce (24) | XChaCha20-Poly1305 ciphertext and tag. The
owner's name is authenticated with it, so that a row's credential cannot be moved to another row.
The plain value lives only in `model.Secret`.

Source: libsodium, "XChaCha20-Poly1305 construction": random nonces are safe at 192 bits.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from relay.config import Config
from relay.errors import ConfigError
from relay.model import Secret
from relay.store.secrets import refs as secret_refs
from relay.store.secrets.files import keep_secret

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 24
_TAG_BYTES: Final = 16
_VERSION: Final = b"\x01"
_SEALED_BYTES_MIN: Final = len(_VERSION) + _NONCE_BYTES + _TAG_BYTES


class Vault:
    """Seals credentials under one master key, and opens what that or another one has sealed.

    Args:
        master_key: KEY_BYTES.
        other_key: The one before, or the next one, while hosts change from one to the other.
    """

    __slots__ = ("_master_key", "_other_key")

    def __init__(self, master_key: bytes, other_key: bytes | None = None) -> None:
        assert len(master_key) == KEY_BYTES
        self._master_key = master_key
        self._other_key = other_key

    @property
    def has_other(self) -> bool:
        """Whether there may be something to seal anew."""
        return self._other_key is not None

    def seal(self, secret: Secret, owner: str) -> bytes:
        """Return the secret encrypted for its owner ("channel:NAME:api_key"); "" gives b""."""
        plain = secret.reveal().encode()
        if not plain:
            return b""
        nonce = os.urandom(_NONCE_BYTES)
        box = crypto_aead_xchacha20poly1305_ietf_encrypt(
            plain, owner.encode(), nonce, self._master_key
        )
        return _VERSION + nonce + box

    def open(self, sealed: bytes, owner: str) -> Secret | None:
        """Return what `seal` was given for the same owner.

        None: it was sealed under a key we do not have, for another owner, or is damaged.
        """
        if not sealed:
            return Secret("")
        found = self._open(sealed, owner, self._master_key)
        if found is None and self._other_key is not None:
            found = self._open(sealed, owner, self._other_key)
        return found

    def seal_anew(self, sealed: bytes, owner: str) -> bytes | None:
        """Return it under the master key; None where it is, or where nobody can open it."""
        if not sealed or self._open(sealed, owner, self._master_key) is not None:
            return None
        found = self.open(sealed, owner)
        return None if found is None else self.seal(found, owner)

    def _open(self, sealed: bytes, owner: str, key: bytes) -> Secret | None:
        if sealed[:1] != _VERSION or len(sealed) < _SEALED_BYTES_MIN:
            return None
        nonce, box = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            plain = crypto_aead_xchacha20poly1305_ietf_decrypt(box, owner.encode(), nonce, key)
        except CryptoError:
            return None
        return Secret(plain.decode())


def channel_owner(name: str) -> str:
    """Return the owner under which a channel's credential is sealed."""
    return f"channel:{name}:api_key"


def token_owner(name: str) -> str:
    """Return the owner under which a token is sealed that was minted of a channel's credential."""
    return f"channel:{name}:token"


def totp_owner(user_id: int) -> str:
    """Return the owner under which a second factor is sealed."""
    return f"user:{user_id}:totp"


def webhook_owner(account_id: int) -> str:
    """Return the owner under which an account's webhook is sealed."""
    return f"account:{account_id}:webhook"


class Pepper(msgspec.Struct, frozen=True):
    """What keys the digests of API keys; `id` tells digests of different peppers apart."""

    value: bytes
    id: str

    def __repr__(self) -> str:
        return f"Pepper({self.id})"


def open_vault(config: Config, data_dir: Path, environ: Mapping[str, str]) -> Vault:
    """Return the vault of [secrets] master_key, or of the key made under the data dir.

    It opens what [secrets] master_key_other has sealed as well.

    Raises:
        ConfigError: The reference leads nowhere, or not to 64 hex digits.
    """
    setting = config.secrets.master_key
    key = _load(setting, data_dir / "secrets" / "master.key", environ, "secrets.master_key")
    if not config.secrets.master_key_other:
        return Vault(key)
    path = "secrets.master_key_other"
    found = secret_refs.resolve(config.secrets.master_key_other, environ, path=path)
    return Vault(key, _read(found.reveal(), path))


def load_pepper(config: Config, data_dir: Path, environ: Mapping[str, str]) -> Pepper:
    """Return the pepper of [secrets] pepper, or the one made under the data dir.

    Raises:
        ConfigError: The reference leads nowhere, or not to 64 hex digits.
    """
    setting = config.secrets.pepper
    value = _load(setting, data_dir / "secrets" / "pepper.key", environ, "secrets.pepper")
    return Pepper(value, hmac.digest(value, b"pepper id", hashlib.sha256).hex()[:8])


def _load(setting: str, file: Path, environ: Mapping[str, str], path: str) -> bytes:
    if setting:
        found = secret_refs.resolve(setting, environ, path=path).reveal()
    else:
        found = keep_secret(file, secrets.token_hex(KEY_BYTES))
    return _read(found, path)


def _read(found: str, path: str) -> bytes:
    try:
        value = bytes.fromhex(found)
    except ValueError:
        value = b""
    if len(value) != KEY_BYTES:
        raise ConfigError(f"{path}: expected {2 * KEY_BYTES} hex digits")
    return value
