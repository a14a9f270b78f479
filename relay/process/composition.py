"""A worker's data plane, composed: the one place where its parts are made and told of each other.

edge.server --> edge.service --> flow.admission, flow.exchange --> upstream.pool
|
flow.reserve, flow.state, flow.translated, flow.settle --> journal
"""

import time
from collections.abc import Callable, Iterable, Sequence

from relay.clock import clock_s
from relay.config import Config
from relay.edge.client.body_room import BodyRoom
from relay.edge.door import Door
from relay.edge.server import DataServer
from relay.edge.service import Service
from relay.edge.tunnel.opening import VoiceDesk
from relay.flow.admission import Admission
from relay.flow.balancer import Balancer
from relay.flow.counters import Counters
from relay.flow.engine import Engine
from relay.flow.exchange import Exchange
from relay.flow.ports import Reservation, ThinkingStore
from relay.flow.reserve.channel_quotas import NO_QUOTAS, ChannelQuotas
from relay.flow.reserve.credit import Credit
from relay.flow.reserve.holds import Holds
from relay.flow.reserve.key_quotas import KeyQuotas
from relay.flow.reserve.reservations import Reservations
from relay.flow.running import RunningCalls
from relay.flow.settle import Settlement
from relay.flow.state.adopted import AdoptedCalls, UnendedStore
from relay.flow.state.background import BackgroundCalls
from relay.flow.state.batches import BatchDesk
from relay.flow.state.binding import StateRouter
from relay.flow.state.listed import VideoList
from relay.flow.state.owners import Owners, OwnerStore
from relay.flow.state.remembered import Remembered
from relay.flow.state.remixed import Remixes
from relay.flow.translated.kept import KeptThinking
from relay.flow.translated.translator import Translator
from relay.flow.tunnelled import TunnelledCalls
from relay.flow.witness import Witness
from relay.model import Snapshot
from relay.ports import Journal
from relay.records import Endpoint
from relay.routing.health import HealthChange
from relay.upstream.pool import UpstreamPool
from relay.wire.client_ip import read_networks


def compose_server(  # noqa: PLR0913 - a part a line
    config: Config,
    journal: Journal,
    counters: Counters,
    pepper: bytes,
    on_changes: Callable[[Iterable[HealthChange]], None] = lambda changes: None,
    reservations: Sequence[Reservation] = (),
    quotas: ChannelQuotas = NO_QUOTAS,
    owner_store: OwnerStore | None = None,
    thinking: ThinkingStore | None = None,
) -> DataServer:
    """Return a data plane that serves once it has a catalog and a socket.

    Args:
        config: The whole of relay.toml.
        journal: Where calls are written down.
        counters: What is counted.
        pepper: Keys the digest that API keys are stored under.
        on_changes: Called with what this worker finds out about its channels' health.
        reservations: What a call has to take before it may run.
        quotas: What the channels' upstreams allow us.
        owner_store: Where workers share who made what.
        thinking: Where workers keep what upstreams signed of their thinking.
    """
    pool = UpstreamPool(config.timeouts)
    key_quotas = KeyQuotas(Holds(config.billing))
    taken = Reservations([key_quotas, *reservations])
    settlement = Settlement(journal, counters, key_quotas, taken)
    credit = next((one for one in reservations if isinstance(one, Credit)), None)
    admission = Admission(pepper, key_quotas, _wall_s, credit)
    balancer = Balancer(config, counters, on_changes, quotas)
    running_calls = RunningCalls(
        config.timeouts,
        settlement.checkpoint,
        balancer.strike_silence,
        config.journal.checkpoint_s,
    )
    translator = Translator(balancer, KeptThinking(pepper, clock_s, thinking))
    owners = Owners(pepper, owner_store, settlement.checkpoint)

    def current() -> Snapshot | None:
        return admission.snapshot

    state = StateRouter(owners, balancer, current)
    exchange = Exchange(
        pool, journal, running_calls, balancer, settlement, config, translator, state
    )
    remembered = Remembered(owners, pool)
    background = BackgroundCalls(pool, settlement, remembered)
    # The one knot: what goes on in the background is settled later, by whom it is settled.
    settlement.take_on, taken.on_background = background.take_on, background.require_room
    balancer.on_forbidden = Witness(pool, balancer).suspect
    settlement.on_read, state.last_look = remembered.note_read, remembered.look_last
    _tell_state(state, pool, admission)
    tunnelled = TunnelledCalls(journal, running_calls, balancer, settlement, config.switching)
    trusted = read_networks(config.server.trusted_proxies)
    door = Door(config.door, trusted, counters, BodyRoom(config.server), admission.digest)
    voice = VoiceDesk(admission, tunnelled, pool)
    service = Service(
        admission, exchange, settlement, journal, counters, config.server, door, voice
    )
    engine = Engine(admission, balancer, exchange, running_calls, quotas, owners, background)
    return DataServer(config, counters, engine, pool, service, door)


def _tell_state(state: StateRouter, pool: UpstreamPool, admission: Admission) -> None:
    """Tell a router who looks at what is begun out of something else, and who makes lists."""

    def current() -> Snapshot | None:
        return admission.snapshot

    desk = BatchDesk(pool, admission, state.owners)
    state.source_looks = {
        Endpoint.VIDEO_REMIX: Remixes(pool, current).look,
        Endpoint.BATCHES: desk.prepare,
        Endpoint.MESSAGE_BATCHES: desk.prepare,
        Endpoint.CONTENT_BATCHES: desk.prepare,
        Endpoint.EMBED_BATCHES: desk.prepare,
    }
    state.pages = {
        Endpoint.VIDEO: VideoList(pool, current, state.owners).page,
        Endpoint.BATCH: desk.page,
        Endpoint.MESSAGE_BATCH: desk.page,
        Endpoint.CONTENT_BATCH: desk.page,
    }


def adopt(server: DataServer, store: UnendedStore) -> AdoptedCalls:
    """Return who settles the jobs of workers that are gone."""
    engine = server.engine
    return AdoptedCalls(engine.current, store, engine.background)


def _wall_s() -> int:
    return time.time_ns() // 1_000_000_000
