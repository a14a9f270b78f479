"""Who may do what: a call's key, its rights, its line and its price, out of one snapshot.

Everything here is a look into dicts: nothing asks Postgres or Redis while a request waits.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote

from relay.billing.tariff import Tariff
from relay.errors import (
    Forbidden,
    ModelNotFound,
    NotFound,
    QuotaExhausted,
    Unauthenticated,
    Unavailable,
)
from relay.extras import NOTHING_ASKED, REACHES_OUT
from relay.flow.call import Call
from relay.flow.priced import check_priced, note_hour_cache
from relay.flow.request import Rights
from relay.flow.reserve.credit import Credit
from relay.flow.reserve.key_quotas import KeyQuotas
from relay.model import FREE_PRICE, Account, Channel, Dialect, Key, Line, Snapshot, lines_of
from relay.records import FREE_ENDPOINTS, Endpoint
from relay.translate.ways import may_be_asked, serves_natively, spoken_at
from relay.units import PPM
from relay.wire.api_keys import digest
from relay.wire.dialects.known import TABLES
from relay.wire.model_lines import describe

KEY_CHARS_MAX: Final = 256
_MESSAGES: Final = Endpoint.MESSAGES
DRAINED_RETRY_AFTER_S: Final = 30.0
"""When to come back for a model whose channels an operator has drained, all of them."""
RIGHTS_MAX: Final = 100_000
"""Combinations of key, endpoint and model that are remembered; beyond it they start afresh."""


class Admission:
    """Answers for one snapshot at a time; `swap` takes the next.

    Args:
        pepper: Keys the digest that API keys are stored under.
        spending: What quota-bound keys have spent.
        wall_s: Seconds since 1970, for expiry.
        credit: Who can tell whether an account has any; None: nobody is asked.
    """

    def __init__(
        self,
        pepper: bytes,
        key_quotas: KeyQuotas,
        wall_s: Callable[[], int],
        credit: Credit | None = None,
    ) -> None:
        self._pepper = pepper
        self._key_quotas = key_quotas
        self._wall_s = wall_s
        self.snapshot: Snapshot | None = None
        self._credit = credit
        self._sells_free = False
        # Both hold for one snapshot. A key is known by its digest alone where only another snapshot
        # can change what it may do: it never expires, and is good from every address.
        self._known: dict[bytes, Rights] = {}
        self._rights: dict[tuple[int, Endpoint, str, str], Rights] = {}

    def swap(self, snapshot: Snapshot) -> None:
        """Admit by `snapshot` from now on."""
        self.snapshot = snapshot
        self._known.clear()
        self._rights.clear()
        self._sells_free = any(not (p.input or p.output) for p in snapshot.prices.values())
        self._key_quotas.book(snapshot.keys)

    def digest(self, presented: str | None) -> bytes | None:
        """Return the digest of a presented key; b"" if it cannot be one, None if none was given."""
        if not presented:
            return None
        return digest(self._pepper, presented) if len(presented) <= KEY_CHARS_MAX else b""

    def authenticate(self, call: Call, credential: bytes | None) -> None:
        """Find out who calls from the `digest` of the presented key: its key, account and group.

        Raises:
            Unauthenticated: CLIENT; no key, or one that is unknown, disabled or expired.
            Forbidden: CLIENT; the key may not be used from this address.
            Unavailable: RELAY; the worker has no catalog yet.
        """
        known = self._known.get(credential) if credential is not None else None
        if known is not None:
            call.rights = known
            return
        snapshot = self.snapshot
        if snapshot is None:
            raise Unavailable("The relay is starting; try again.", retry_after_s=1.0)
        if credential is None:
            raise Unauthenticated(
                "No API key was given: send 'Authorization: Bearer YOUR_KEY' or "
                "'x-api-key: YOUR_KEY'."
            )
        key = snapshot.keys.get(credential)
        if key is None:
            raise Unauthenticated("The API key is not known here: check for typos, or make one.")
        account = snapshot.accounts.get(key.account_id)
        call.rights = Rights(key, account)
        reason = self._refusal(key, account)
        if reason is not None:
            raise Unauthenticated(reason)
        assert account is not None
        if key.networks is not None and not _contains(key, call.head.ip):
            raise Forbidden("This API key may not be used from this address.")
        call.rights = Rights(key, account, snapshot.groups.get(account.group_id))
        if key.networks is None and key.expires_at_s is None:
            self._known[credential] = call.rights

    def admit(self, call: Call) -> None:
        """Find the call's line, its price and the channels that serve its model.

        Raises:
            Forbidden: CLIENT; the key's allow-list lacks the model, or it has not this line.
            ModelNotFound: CLIENT; no line of the key serves it, or it has no price.
            Unavailable: RELAY; all channels that do are drained.
            BadRequest: CLIENT; it asks for what the model has no price for (flow.priced).
            QuotaExhausted: CLIENT; the key has spent its quota.
        """
        key = call.rights.key
        assert key is not None
        head = call.head
        if head.kept is not None:
            self._admit_kept(call)
            return
        found = self._rights.get((key.id, head.endpoint, call.request.model, head.line))
        call.rights = found or self._find_rights(call, call.rights)
        call.notes += call.rights.note
        if call.head.endpoint is _MESSAGES:
            note_hour_cache(call)
        asked = call.request.asked
        if asked is not NOTHING_ASKED and asked is not REACHES_OUT:
            check_priced(call)
        if key.quota_nanos is not None:
            self.check_quota(call)

    def _admit_kept(self, call: Call) -> None:
        """Find the channels that may keep something new; who has what there is, is found later.

        It names no model, and no provider charges for it. A file that is to be a batch had better
        be where the model of its first request is.

        Raises:
            Forbidden: CLIENT; the key has not the line that it names.
            NotFound: CLIENT; no line of the key has a channel of the dialect.
        """
        rights, snapshot = call.rights, self.snapshot
        assert snapshot is not None and rights.group is not None
        tariff = Tariff(FREE_PRICE, rights.group.multiplier_ppm)
        model = call.request.model
        found: tuple[Line, tuple[Channel, ...]] | None = None
        for line in self._lines_of(call):
            channels = dialect_channels(snapshot, line, call.head.dialect)
            fitting = tuple(one for one in channels if one.models.get(model) == model)
            if model and fitting:
                found = line, fitting
                break
            if channels and found is None:
                found = line, channels
                if not model:
                    break
        if found is not None:
            call.rights = Rights(
                rights.key, rights.account, rights.group, found[0], tariff, found[1]
            )
            return
        raise NotFound("No channel of your lines keeps such things.")

    def rights_of(self, call: Call) -> Rights:
        """Return the rights of a call to its model, as of one that is asked for by itself.

        Raises:
            Forbidden, ModelNotFound, Unavailable: See `admit`.
        """
        return self._find_rights(call, call.rights)

    def check_quota(self, call: Call) -> None:
        """Refuse what no body can make good.

        Raises:
            QuotaExhausted: CLIENT; the key has spent its quota.
        """
        key = call.rights.key
        assert key is not None
        if key.quota_nanos is not None and not self._key_quotas.has_left(key):
            raise QuotaExhausted("This API key has spent its quota.")

    def may_begin(self, call: Call) -> bool:
        """Tell whether a body may be read; False: `check_credit` has to ask somebody first.

        Raises:
            QuotaExhausted: CLIENT; see `check_quota`.
        """
        self.check_quota(call)
        credit = self._credit
        if credit is None or self._sells_free or call.head.endpoint in FREE_ENDPOINTS:
            return True
        group = call.rights.group
        return group is None or not group.multiplier_ppm or credit.has_some(call)

    async def check_credit(self, call: Call) -> None:
        """Refuse an account that has nothing to pay with, before it makes us hold a body.

        Raises:
            QuotaExhausted: CLIENT; see `check_quota`.
            CreditExhausted: CLIENT; nothing is sold that it could pay.
            Unavailable: RELAY; nobody can tell.
        """
        if not self.may_begin(call) and self._credit is not None:
            await self._credit.require_some(call)

    def _find_rights(self, call: Call, known: Rights) -> Rights:
        snapshot, key, group, model = self.snapshot, known.key, known.group, call.request.model
        assert snapshot is not None and key is not None
        if key.models is not None and model not in key.models:
            raise Forbidden("This API key may not use this model.", param="model")
        line, channels, foreign = self._find_route(call)
        price = snapshot.prices.get(model)
        if line is None or price is None or group is None:
            if line is None and price is not None and self._is_drained(call):
                raise Unavailable(
                    "No channel serves this model now.", retry_after_s=DRAINED_RETRY_AFTER_S
                )
            # A model without a price is refused, not given away.
            raise ModelNotFound(self._direct(call), param="model")
        price = FREE_PRICE if call.head.endpoint in FREE_ENDPOINTS else price
        rights = Rights(
            key,
            known.account,
            group,
            line,
            Tariff(price, group.multiplier_ppm),
            channels,
            foreign,
        )
        # A body may have taken long: the key was found before it, and may be of an old snapshot.
        if snapshot.keys.get(key.digest) is key:
            if len(self._rights) >= RIGHTS_MAX:
                self._rights.clear()
            self._rights[key.id, call.head.endpoint, model, call.head.line] = rights
        return rights

    def _find_route(
        self, call: Call
    ) -> tuple[Line | None, tuple[Channel, ...], tuple[Channel, ...]]:
        """Return the line that serves the call: the first that does natively, else the first.

        Returns:
            The line, its channels that speak the client's dialect, and those that do not but can
            be asked by translation; None and nothing where no line has any.

        Raises:
            Forbidden: CLIENT; only a line that the account was not granted serves it.
        """
        translated: tuple[Line, tuple[Channel, ...]] | None = None
        for line in self._lines_of(call):
            native, foreign = self._channels_of(line.id, call)
            if native:
                return line, native, foreign
            if foreign and translated is None:
                translated = line, foreign
        if translated is not None:
            return translated[0], (), translated[1]
        self._check_invited(call)
        return None, (), ()

    def _channels_of(
        self, line_id: int, call: Call
    ) -> tuple[tuple[Channel, ...], tuple[Channel, ...]]:
        """Return a line's channels for a call: those of its dialect, and those of others."""
        assert self.snapshot is not None
        endpoint, model = call.head.endpoint, call.request.model
        if spoken_at(endpoint) is None:
            own = self.snapshot.routes.get((line_id, call.head.dialect, model), ())
            return own, ()
        native: list[Channel] = []
        foreign: list[Channel] = []
        for dialect in TABLES:
            for channel in self.snapshot.routes.get((line_id, dialect, model), ()):
                own_dialect = dialect is call.head.dialect
                speaks = own_dialect and serves_natively(channel, endpoint)
                if speaks:
                    native.append(channel)
                elif may_be_asked(channel, endpoint):
                    foreign.append(channel)
        line = self.snapshot.lines.get(line_id)
        if line is not None and not line.translates:
            foreign.clear()
        foreign.sort(key=_tier)
        return tuple(native), tuple(foreign)

    def lines_by_model(self, call: Call) -> dict[str, list[str]]:
        """Return the models that the call's key may use, in whatever dialect, with their lines.

        The first line of a model is the one that serves a call which names none.

        Raises:
            Forbidden: CLIENT; the call names a line that the key has not.
        """
        found: dict[str, list[str]] = {}
        for dialect in TABLES:
            for model, lines in self._offered(call, dialect).items():
                found[model] = list(dict.fromkeys(found.get(model, []) + lines))
        return found

    def described(self, call: Call, models: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return what models are, and what they cost the call's account."""
        snapshot, group = self.snapshot, call.rights.group
        assert snapshot is not None
        ppm = PPM if group is None else group.multiplier_ppm
        return {
            model: describe(snapshot.prices.get(model), snapshot.facts.get(model), ppm)
            for model in models
        }

    def still_good(self, key: Key) -> bool:
        """Tell whether a key that was good at admission still is."""
        if self.snapshot is None:
            return True
        now = self.snapshot.keys.get(key.digest)
        if now is None or now.id != key.id:
            return False
        return self._refusal(now, self.snapshot.accounts.get(now.account_id)) is None

    def _offered(self, call: Call, dialect: Dialect) -> dict[str, list[str]]:
        snapshot, key = self.snapshot, call.rights.key
        assert snapshot is not None and key is not None
        place = {line.id: at for at, line in enumerate(self._lines_of(call))}
        offered: dict[str, list[tuple[int, str]]] = {}
        for line_id, spoken, model in snapshot.routes:
            at = place.get(line_id)
            if at is None or spoken is not dialect or model not in snapshot.prices:
                continue
            if key.models is None or model in key.models:
                offered.setdefault(model, []).append((at, snapshot.lines[line_id].name))
        return {model: [name for _, name in sorted(found)] for model, found in offered.items()}

    def _lines_of(self, call: Call) -> tuple[Line, ...]:
        """Return the lines that may serve a call: the one it names, else all of its key.

        Raises:
            Forbidden: CLIENT; its key has no line of that name.
        """
        key, account = call.rights.key, call.rights.account
        assert self.snapshot is not None and key is not None and account is not None
        lines = lines_of(self.snapshot, key, account)
        wanted = call.head.line
        if not wanted:
            return lines
        found = tuple(line for line in lines if wanted in (line.name, quote(line.name, " ")))
        if not found:
            # Whether there is such a line is nobody's business who may not use it.
            raise Forbidden(
                "This API key may not use the line that x-relay-line names: ask your account's "
                "administrator or the operator of this relay for it."
            )
        return found

    def _check_invited(self, call: Call) -> None:
        """Say so where a line that needs an invitation is all that the account lacks.

        Raises:
            Forbidden: CLIENT; it was not granted.
        """
        snapshot, key, group = self.snapshot, call.rights.key, call.rights.group
        assert snapshot is not None and key is not None
        own = key.line_ids if key.line_ids is not None else (group.line_ids if group else ())
        for line_id in own:
            line = snapshot.lines.get(line_id)
            served = any(self._channels_of(line_id, call))
            if line is not None and line.by_invitation and served and not call.head.line:
                raise Forbidden(
                    "This model is served by invitation only, and your account has none: ask the "
                    "operator of this relay for it.",
                    param="model",
                )

    def _is_drained(self, call: Call) -> bool:
        """Tell whether a model that is not offered will be, when its channels are back."""
        snapshot = self.snapshot
        assert snapshot is not None
        for line in self._lines_of(call):
            for channel_id in line.channel_ids:
                channel = snapshot.channels.get(channel_id)
                if channel is not None and channel.drained and call.request.model in channel.models:
                    return True
        return False

    def _direct(self, call: Call) -> str:
        """Return where to go with a model that is not offered where it was asked for."""
        for dialect, table in TABLES.items():
            if dialect is call.head.dialect:
                continue
            if call.request.model in self._offered(call, dialect):
                return (
                    f"This model's providers are at {table.entrance} only, and nothing is "
                    "translated at this endpoint, or on your lines."
                )
        return "This model is not offered here: GET /v1/models lists what your key may use."

    def _refusal(self, key: Key, account: Account | None) -> str | None:
        if key.disabled:
            return f"The API key ending in {key.last4} is disabled."
        if key.expires_at_s is not None and key.expires_at_s <= self._wall_s():
            return f"The API key ending in {key.last4} has expired."
        if account is None or account.disabled:
            return "The account of this API key is disabled."
        return None


def dialect_channels(snapshot: Snapshot, line: Line, dialect: Dialect) -> tuple[Channel, ...]:
    """Return the channels of a line that take calls in a dialect, lowest tier first."""
    found = [snapshot.channels.get(channel_id) for channel_id in line.channel_ids]
    serving = [c for c in found if c is not None and not c.drained and c.protocol is dialect]
    return tuple(sorted(serving, key=lambda channel: channel.tier))


def _tier(channel: Channel) -> int:
    return channel.tier


def _contains(key: Key, ip: str) -> bool:
    try:
        address = ip_address(ip)
    except ValueError:
        return False
    return any(address in network for network in key.networks or ())
