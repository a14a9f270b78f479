"""A new-api or one-api relay taken over: its channels, groups, prices, users and tokens. Pure.

    Tables --convert--> Declaration, what its secret references stand for, balances
                    --> and by name, why the rest was left out: nothing is lost without a word

A group becomes a group and a line of its channels; a user an account; a token a key that goes on
working as it is. What would be charged otherwise than there is left out, not guessed.

Source: github.com/QuantumNous/new-api, model/channel.go, model/token.go, model/user.go,
constant/channel.go, common/constants.go (500,000 of quota are a dollar, unless an option says so).
"""

import contextlib
import datetime
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from relay.billing.import_prices import parse_ratios
from relay.decoding import Decoder, Undecodable
from relay.store.catalog.canonical import canonical_multiplier
from relay.store.catalog.channel_entry import KEYS_MAX, ChannelEntry
from relay.store.catalog.declaration import (
    AccountEntry,
    Declaration,
    GroupEntry,
    KeyEntry,
    LineEntry,
    PriceEntry,
)
from relay.store.catalog.new_api_rows import Row, Tables, flag, order, whole
from relay.store.catalog.prices import to_entry

ENABLED: Final = 1
DISABLED: Final = 2
"""By hand; a channel that was taken out by itself (3) is taken over: here it is tried again."""
KEY_CHARS_MIN: Final = 8
QUOTA_PER_USD: Final = 500_000
USD_DIGITS: Final = Decimal("0.000000001")
TIERS_MAX: Final = 1_000
WEIGHT_MAX: Final = 1_000_000
_MOMENT_S_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""
_KEY_MARK: Final = "sk-"
_AUTO: Final = "auto"
_DEFAULT: Final = "default"
_RATIOS: Final = {
    "model_ratio": "ModelRatio",
    "completion_ratio": "CompletionRatio",
    "cache_ratio": "CacheRatio",
    "create_cache_ratio": "CreateCacheRatio",
    "image_ratio": "ImageRatio",
    "audio_ratio": "AudioRatio",
    "audio_completion_ratio": "AudioCompletionRatio",
    "model_price": "ModelPrice",
}


_fields = Decoder(dict[str, Any])


class _Kind(msgspec.Struct, frozen=True):
    """A number of theirs: our kind of upstream, where it is by default, what follows a host."""

    name: str
    at: str
    path: str


_KINDS: Final = {
    1: _Kind("openai", "https://api.openai.com", "/v1"),
    4: _Kind("ollama", "http://localhost:11434", "/v1"),
    8: _Kind("new-api", "", "/v1"),
    14: _Kind("anthropic", "https://api.anthropic.com", ""),
    17: _Kind("qwen", "https://dashscope.aliyuncs.com", "/compatible-mode/v1"),
    20: _Kind("openrouter", "https://openrouter.ai/api", "/v1"),
    24: _Kind("gemini", "https://generativelanguage.googleapis.com", ""),
    25: _Kind("moonshot", "https://api.moonshot.cn", "/v1"),
    26: _Kind("zhipu", "https://open.bigmodel.cn", "/api/paas/v4"),
    27: _Kind("perplexity", "https://api.perplexity.ai", ""),
    34: _Kind("cohere", "https://api.cohere.ai", "/compatibility/v1"),
    35: _Kind("minimax", "https://api.minimax.chat", "/v1"),
    40: _Kind("siliconflow", "https://api.siliconflow.cn", "/v1"),
    42: _Kind("mistral", "https://api.mistral.ai", "/v1"),
    43: _Kind("deepseek", "https://api.deepseek.com", "/v1"),
    45: _Kind("doubao", "https://ark.cn-beijing.volces.com", "/api/v3"),
    48: _Kind("xai", "https://api.x.ai", "/v1"),
}
_DEEPSEEK: Final = 43
"""At its own address the preset's is taken: going on from a partial answer is served there."""


class Balance(msgspec.Struct, frozen=True):
    """What a user has: USD as a decimal, and a reference under which it is booked once."""

    account: str
    amount: str
    ref: str


class Converted(msgspec.Struct, frozen=True):
    """What is taken over. `left_out`: "channel NAME" and the like -> why not."""

    declared: Declaration
    environ: dict[str, str]
    balances: list[Balance]
    left_out: dict[str, str]


class _LeftOut(Exception):
    """A row that cannot be taken over as it is; its text says why."""


def convert(tables: Tables, now: datetime.datetime) -> Converted:
    """Return what a relay's tables come to here.

    Args:
        tables: Its rows.
        now: Tokens that have expired by then are left out.
    """
    taking = _Taking(tables, now)
    channels = taking.channels()
    accounts = taking.accounts()
    keys = taking.keys()
    declared = Declaration(
        channel=channels,
        line=taking.lines(),
        group=taking.groups(),
        price=taking.prices(),
        account=accounts,
        key=keys,
    )
    return Converted(declared, taking.environ, taking.balances, taking.left_out)


class _Taking:
    """One relay being taken over."""

    def __init__(self, tables: Tables, now: datetime.datetime) -> None:
        self._tables = tables
        self._now = now
        self._options = {str(row.get("key")): row.get("value") for row in tables.options}
        self._ratios = self._table("GroupRatio")
        told = self._options.get("GroupRatio")
        self._ratios_unread = told not in (None, "", "{}", {}) and not self._ratios
        self._account_names: dict[int, str] = {}
        self._lines_of: dict[str, list[str]] = {}
        self._channels_of: dict[str, list[str]] = {}
        self.environ: dict[str, str] = {}
        self.balances: list[Balance] = []
        self.left_out: dict[str, str] = {}
        self._users = self._by_id("user", tables.users)

    # --- channels, and the lines they make ---------------------------------------------------

    def channels(self) -> list[ChannelEntry]:
        """Return the channels, those of the highest priority in the first tier."""
        rows = self._by_id("channel", self._tables.channels)
        priorities = sorted({order(row) for row in rows.values()}, reverse=True)
        tiers = {priority: at for at, priority in enumerate(priorities)}
        names, found = _Names(), []
        for number, row in rows.items():
            name = names.take(_text(row, "name").strip() or f"channel-{number}")
            with self._or_left_out("channel", name):
                tier = min(tiers[whole(row, "priority")], TIERS_MAX)
                found.append(self._channel(row, name, tier))
        return found

    def _channel(self, row: Row, name: str, tier: int) -> ChannelEntry:
        if whole(row, "status", ENABLED) == DISABLED:
            raise _LeftOut("it is switched off there")
        number = whole(row, "type")
        kind = _KINDS.get(number)
        if kind is None:
            raise _LeftOut(f"its type {number} is none that is known here; add it by hand")
        secrets = [line.strip() for line in _text(row, "key").splitlines() if line.strip()]
        if len(secrets) > KEYS_MAX:
            raise _LeftOut(f"it has {len(secrets)} keys; a channel has at most {KEYS_MAX} here")
        if not all(map(_is_plain, secrets)):
            raise _LeftOut("a key of it is not one line of plain ASCII")
        references = []
        for at, secret in enumerate(secrets, 1):
            reference = f"NEW_API_CHANNEL_{whole(row, 'id')}_{at}"
            self.environ[reference] = secret
            references.append(f"env:{reference}")
        mapping = _object(row.get("model_mapping"))
        models = list(dict.fromkeys(_listed(row, "models")))
        if not models:
            raise _LeftOut("it has no models")
        entry = ChannelEntry(
            name=name,
            kind=kind.name,
            base_url=_address(kind, number, _text(row, "base_url").strip()),
            models=[_model(one, mapping.get(one)) for one in models],
            api_keys=references if len(references) > 1 else msgspec.UNSET,
            api_key=(references or [""])[0] if len(references) <= 1 else msgspec.UNSET,
            weight=min(max(whole(row, "weight"), 1), WEIGHT_MAX),
            tier=tier,
        )
        for group in _listed(row, "group") or [_DEFAULT]:
            self._channels_of.setdefault(group, []).append(name)
        return entry

    def lines(self) -> list[LineEntry]:
        """Return a line for each group that has channels."""
        return [
            LineEntry(name=group, channels=names, tpm=0)
            for group, names in sorted(self._channels_of.items())
        ]

    def groups(self) -> list[GroupEntry]:
        """Return the groups, each with the line of its channels, and those its tokens name."""
        wanted = {_group_of(row) for row in self._tables.users}
        found = []
        for name in sorted(wanted | self._ratios.keys() | self._channels_of.keys()):
            with self._or_left_out("group", name):
                lines = dict.fromkeys([name, *self._lines_of.get(name, ())])
                found.append(
                    GroupEntry(
                        name=name,
                        lines=[line for line in lines if line in self._channels_of],
                        multiplier=self._ratio(name),
                    )
                )
        return found

    # --- users and their tokens --------------------------------------------------------------

    def accounts(self) -> list[AccountEntry]:
        """Return an account for each user, and note what each has."""
        names, found = _Names(), []
        for number, row in self._users.items():
            name = names.take(_text(row, "username").strip() or f"user-{number}")
            with self._or_left_out("user", name):
                disabled = whole(row, "status", ENABLED) == DISABLED
                quota = whole(row, "quota")
                amount = self._usd(quota)
                self._ratio(_group_of(row))
                found.append(AccountEntry(name=name, group=_group_of(row), disabled=disabled))
                self._account_names[number] = name
                if quota:
                    self.balances.append(Balance(name, amount, f"new-api-user-{number}"))
        return found

    def keys(self) -> list[KeyEntry]:
        """Return a key for each token that is of use."""
        names: dict[str, _Names] = {}
        found = []
        for number, row in self._by_id("token", self._tables.tokens).items():
            account = self._account_names.get(order(row, "user_id"), "")
            name = names.setdefault(account, _Names()).take(
                _text(row, "name").strip() or f"token-{number}"
            )
            with self._or_left_out("token", f"{account}/{name}"):
                found.append(self._key(row, account, name))
        return found

    def _key(self, row: Row, account: str, name: str) -> KeyEntry:
        if not account:
            raise _LeftOut("its user is not there")
        status, expires_s = whole(row, "status", ENABLED), whole(row, "expired_time", -1)
        expires = None
        if expires_s > 0:
            ends_s = min(expires_s, _MOMENT_S_MAX)
            expires = datetime.datetime.fromtimestamp(ends_s, datetime.UTC)
        if status != ENABLED or (expires is not None and expires <= self._now):
            raise _LeftOut("it is switched off, used up or expired there")
        quota = ""
        if not flag(row, "unlimited_quota"):
            left = whole(row, "remain_quota")
            if left <= 0:
                raise _LeftOut("nothing is left of its quota")
            quota = self._usd(left)
        secret = _text(row, "key").strip()
        if len(secret) < KEY_CHARS_MIN or not _is_plain(secret):
            raise _LeftOut(f"it is not one line of plain ASCII, {KEY_CHARS_MIN} or more")
        reference = f"NEW_API_TOKEN_{whole(row, 'id')}"
        entry = KeyEntry(
            account=account,
            name=name,
            key=f"env:{reference}",
            expires=expires,
            models=(_listed(row, "model_limits") or None)
            if flag(row, "model_limits_enabled")
            else None,
            allow_ip=_text(row, "allow_ips").replace(",", "\n").split() or None,
            lines=self._lines(row),
            quota=quota,
        )
        self.environ[reference] = secret if secret.startswith(_KEY_MARK) else _KEY_MARK + secret
        return entry

    def _lines(self, row: Row) -> list[str] | None:
        """Return the line of a token's own group, where it costs what its user's does."""
        group, own = _text(row, "group").strip(), _group_of(self._users[whole(row, "user_id")])
        if group in ("", _AUTO, own):
            return None
        if self._ratio(group) != self._ratio(own):
            raise _LeftOut(
                f"its group {group!r} costs {self._ratio(group)} of the price and its user's "
                f"{own!r} {self._ratio(own)}: make it an account in that group"
            )
        if group not in self._channels_of:
            raise _LeftOut(f"its group {group!r} has no channel that was taken over")
        lines = self._lines_of.setdefault(own, [])
        if group not in lines:
            lines.append(group)
        return [group]

    # --- prices ------------------------------------------------------------------------------

    def prices(self) -> list[PriceEntry]:
        """Return the prices that its options state; those that are built in are not in it."""
        stated = {ours: self._table(theirs) for ours, theirs in _RATIOS.items()}
        if not stated["model_ratio"] and not stated["model_price"]:
            self.left_out["prices"] = (
                "they are the built-in ones there: save the answer of its /api/ratio_config and "
                "put it in force with `relay price import --format ratios`"
            )
            return []
        found = parse_ratios(msgspec.json.encode(stated))
        self.left_out.update({f"price {one}": why for one, why in found.skipped.items()})
        entries = []
        for price in found.prices:
            with self._or_left_out("price", price.model):
                entries.append(to_entry(price))
        return entries

    # --- what is read ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _or_left_out(self, noun: str, name: str) -> Any:
        """Note why a row was left out; no message quotes a secret."""
        try:
            yield
        except (_LeftOut, ValueError) as error:
            self.left_out[f"{noun} {name}"] = str(error)

    def _by_id(self, noun: str, rows: Iterable[Row]) -> dict[int, Row]:
        """Return rows by their ids, in order; one without an id of its own is left out."""
        found: dict[int, Row] = {}
        for at, row in enumerate(rows, 1):
            with self._or_left_out(noun, f"in row {at}"):
                number = whole(row, "id")
                if number <= 0 or number in found:
                    raise _LeftOut("it has no id of its own")
                found[number] = row
        return dict(sorted(found.items()))

    def _table(self, option: str) -> Mapping[str, Any]:
        return _object(self._options.get(option))

    def _ratio(self, group: str) -> str:
        if self._ratios_unread:
            raise _LeftOut("its ratio is not known: the option GroupRatio cannot be read")
        told = self._ratios.get(group, 1)
        if isinstance(told, bool) or not isinstance(told, int | float):
            raise _LeftOut("its ratio is no number")
        return canonical_multiplier("multiplier", f"{Decimal(str(told)):f}")

    def _usd(self, quota: int) -> str:
        told = str(self._options.get("QuotaPerUnit") or QUOTA_PER_USD)
        with contextlib.suppress(ArithmeticError):
            per_usd = Decimal(told)
            if per_usd.is_finite() and per_usd > 0:
                return f"{(Decimal(quota) / per_usd).quantize(USD_DIGITS):f}"
        raise _LeftOut(f"its quota is no amount by the option QuotaPerUnit, {told[:40]!r}")


class _Names:
    """Names that are given once: a second one gets a number."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        """Name -> the number that was given last behind it."""

    def take(self, wanted: str) -> str:
        wanted = wanted.replace("#", " ").strip()
        name = wanted
        while name in self._taken:
            self._taken[wanted] += 1
            name = f"{wanted} {self._taken[wanted]}"
        self._taken[name] = 1
        return name


def _address(kind: _Kind, number: int, told: str) -> str:
    """Return where a channel is, as it is written here; what stands behind a host is added."""
    at = told.rstrip("/")
    if not at or at == kind.at:
        if not kind.at:
            raise _LeftOut("it has no address")
        if number == _DEEPSEEK:
            return f"{kind.at}/beta"
        return kind.at + kind.path
    return at if kind.path and at.endswith(kind.path) else at + kind.path


def _is_plain(secret: str) -> bool:
    return secret.isascii() and secret.isprintable() and " " not in secret


def _model(public: str, upstream: object) -> str:
    return f"{public}={upstream}" if isinstance(upstream, str) and upstream else public


def _group_of(row: Row) -> str:
    return _text(row, "group").strip() or _DEFAULT


def _text(row: Row, name: str) -> str:
    found = row.get(name)
    return found if isinstance(found, str) else ""


def _listed(row: Row, name: str) -> list[str]:
    parts: Iterable[str] = _text(row, name).split(",")
    return [part.strip() for part in parts if part.strip()]


def _object(told: object) -> Mapping[str, Any]:
    """Return what a text of JSON says; what is no object says nothing."""
    if isinstance(told, dict):
        return told
    if not isinstance(told, str) or not told.strip():
        return {}
    try:
        return _fields.decode(told)
    except (Undecodable, ValueError):
        return {}
