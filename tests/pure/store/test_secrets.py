"""Goal: secrets come from where a reference points, open for their owner only, are made once.

Method: references of each scheme, good and wrong; every damaged byte of a sealed secret; many
threads making the same file.
"""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Config, Secrets
from relay.errors import ConfigError
from relay.model import Secret
from relay.store.secrets.files import keep_secret
from relay.store.secrets.refs import SECRET_BYTES_MAX, is_reference, resolve
from relay.store.secrets.vault import Vault, channel_owner, load_pepper, open_vault

VAULT = Vault(bytes(range(32)))


def test_references(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\r\n")
    environ = {"KEY": "from the environment", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    for reference, found in (
        ("env:KEY", "from the environment"),
        (f"file:{tmp_path}/key", "from a file"),
        ("cred:key", "from a file"),
    ):
        assert resolve(reference, environ, path="x").reveal() == found
    assert resolve("", environ, path="x", optional=True).reveal() == ""


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("sk-CANARY", "x: a secret is given by reference: env:NAME"),
        ("", "a secret is given by reference"),
        ("env:CANARY KEY", "a secret is given by reference"),
        ("env:NONE", "env:NONE is not set or empty"),
        ("env:EMPTY", "is not set or empty"),
        ("env:LINES", "not one line of plain ASCII"),
        ("env:WIDE", "not one line of plain ASCII"),
        ("cred:..", "a secret is given by reference"),
        ("cred:a/b", "a secret is given by reference"),
        ("cred:none", "cannot read"),
        ("file:/nowhere/at/all", "No such file"),
        ("cred:large", "larger than 65536 bytes"),
        ("cred:binary", "is not text"),
    ],
)
def test_wrong_references_name_their_path(tmp_path: Path, reference: str, says: str) -> None:
    (tmp_path / "large").write_bytes(b"x" * (SECRET_BYTES_MAX + 1))
    (tmp_path / "binary").write_bytes(b"\xff")
    environ = {
        "EMPTY": "",
        "LINES": "a\nCANARY",
        "WIDE": "ä",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    with pytest.raises(ConfigError) as caught:
        resolve(reference, environ, path="x")
    assert caught.value.message.startswith("x: ")
    assert says in caught.value.message
    assert "CANARY" not in caught.value.message


def test_credential_needs_its_folder() -> None:
    with pytest.raises(ConfigError, match="LoadCredential="):
        resolve("cred:key", {}, path="x")


@given(st.text())
def test_any_text_is_a_reference_or_not(text: str) -> None:
    assert is_reference(text) in (True, False)


@given(st.text(), st.text())
def test_sealed_secret_opens_for_its_owner_only(plain: str, name: str) -> None:
    try:
        plain.encode()
        owner = channel_owner(name)
        owner.encode()
    except UnicodeEncodeError:
        return
    sealed = VAULT.seal(Secret(plain), owner)
    assert VAULT.open(sealed, owner) == Secret(plain)
    if plain:
        assert VAULT.open(sealed, owner + "x") is None
        assert Vault(b"x" * 32).open(sealed, owner) is None
        assert VAULT.seal(Secret(plain), owner) != sealed


def test_damaged_secret_does_not_open() -> None:
    sealed = VAULT.seal(Secret("sk-1"), "o")
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1
        assert VAULT.open(bytes(damaged), "o") is None
        if at:
            assert VAULT.open(sealed[:at], "o") is None
    assert VAULT.open(sealed + b"x", "o") is None


def test_first_start_makes_keys_and_keeps_them(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    vault = open_vault(Config(), data_dir, {})
    pepper = load_pepper(Config(), data_dir, {})
    sealed = vault.seal(Secret("sk-1"), "o")
    assert open_vault(Config(), data_dir, {}).open(sealed, "o") == Secret("sk-1")
    assert load_pepper(Config(), data_dir, {}) == pepper
    assert stat.S_IMODE((data_dir / "secrets").stat().st_mode) == 0o700
    files = sorted((data_dir / "secrets").iterdir())
    assert [file.name for file in files] == ["master.key", "pepper.key"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert pepper.value.hex() not in repr(pepper)


def test_configured_keys() -> None:
    config = Config(secrets=Secrets(pepper="env:P", master_key="env:M"))
    environ = {"P": "ab" * 32, "M": "cd" * 32}
    assert load_pepper(config, Path("unused"), environ).value == b"\xab" * 32
    sealed = open_vault(config, Path("unused"), environ).seal(Secret("s"), "o")
    assert Vault(b"\xcd" * 32).open(sealed, "o") == Secret("s")
    for wrong in ("CANARY", "ab" * 31, "zz" * 32):
        with pytest.raises(ConfigError, match=r"secrets\.pepper: expected 64 hex") as caught:
            load_pepper(config, Path("unused"), {"P": wrong})
        assert wrong not in caught.value.message


def test_many_make_one_secret(tmp_path: Path) -> None:
    file = tmp_path / "secrets" / "token"
    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(lambda n: keep_secret(file, f"secret-{n}"), range(64)))
    assert len(kept) == 1
    assert [found.name for found in file.parent.iterdir()] == ["token"]


def test_unusable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match="cannot keep a secret"):
        keep_secret(tmp_path / "secrets" / "token", "x")
