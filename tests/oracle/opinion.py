"""What a call costs, in plain decimals, written from README's words alone.

It knows nothing of the relay's own billing: no integer, no scaled rate, no rounding of its own but
the one at the end.
"""

from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Decimal, localcontext

MILLION = Decimal(1_000_000)
NANO = Decimal("0.000000001")


@dataclass
class Used:
    """What a call really used, each part apart: nothing is counted twice."""

    fresh: int = 0
    cached: int = 0
    written: int = 0
    written_hour: int = 0
    audio_in: int = 0
    image_in: int = 0
    text: int = 0
    reasoning: int = 0
    audio_out: int = 0
    image_out: int = 0
    images: int = 0
    image_class: tuple[str, str] = ("", "")
    seconds: Decimal = Decimal(0)
    characters: int = 0
    searches: int = 0
    sessions: int = 0
    search_units: int = 0
    video_seconds: Decimal = Decimal(0)
    video_size: str = ""
    tier: str = ""

    @property
    def input(self) -> int:
        """The whole prompt."""
        written = self.written + self.written_hour
        return self.fresh + self.cached + written + self.audio_in + self.image_in

    @property
    def output(self) -> int:
        """The whole answer."""
        return self.text + self.reasoning + self.audio_out + self.image_out


@dataclass
class PriceList:
    """A price as its operator wrote it, in USD; "" = not set."""

    words: dict[str, str]
    tiers: dict[str, dict[str, str]] = field(default_factory=dict)
    classes: dict[tuple[str, str], str] = field(default_factory=dict)
    model_multiplier: Decimal = Decimal(1)
    long: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """The rates of prompts that are longer than so many tokens, shortest first."""
    video_sizes: dict[str, str] = field(default_factory=dict)
    """What a second of video of a size costs."""

    def rates(self, tier: str, prompt_tokens: int) -> dict[str, str]:
        """Return what is written of the tier that served, else of prompts that long."""
        if tier in self.tiers:
            return self.tiers[tier]
        fitting = [words for above, words in self.long if prompt_tokens > above]
        return fitting[-1] if fitting else self.words

    def is_dearer(self, tier: str) -> bool:
        """Tell whether a tier costs more than the standard one."""
        asked, plain = self.tiers[tier], self.words
        both = Decimal(asked["input"]) + Decimal(asked["output"])
        return both > Decimal(plain["input"]) + Decimal(plain["output"])


def rate(words: dict[str, str], name: str, otherwise: str) -> Decimal:
    """Return a rate; one that is not set is that of its whole."""
    told = words.get(name, "")
    if name == "cache_write" and told == "0":
        told = ""
    return Decimal(told or words[otherwise])


def cost_usd(used: Used, price: PriceList, group_multiplier: Decimal) -> Decimal:
    """Return what a call costs: each part at its price, times both multipliers, rounded once."""
    words = price.rates(used.tier, used.input)
    with localcontext() as context:
        context.prec = 60
        input_rate = rate(words, "input", "input")
        output_rate = rate(words, "output", "output")
        write_rate = rate(words, "cache_write", "input")
        hour = words.get("cache_write_1h", "")
        hour_rate = Decimal(hour) if hour else write_rate
        tokens = (
            used.fresh * input_rate
            + used.cached * rate(words, "cached_input", "input")
            + used.written * write_rate
            + used.written_hour * hour_rate
            + used.audio_in * _part(price, "audio_input", input_rate)
            + used.image_in * _part(price, "image_input", input_rate)
            + used.text * output_rate
            + used.reasoning * _part(price, "reasoning", output_rate)
            + used.audio_out * _part(price, "audio_output", output_rate)
            + used.image_out * _part(price, "image_output", output_rate)
            + used.characters * _unit(price, "character")
        )
        apiece = (
            used.images * image_usd(price, *used.image_class)
            + used.seconds * _unit(price, "per_second")
            + used.video_seconds * video_usd(price, used.video_size)
            + used.searches * _unit(price, "per_search")
            + used.sessions * _unit(price, "per_session")
            + used.search_units * _unit(price, "per_search_unit")
            + _unit(price, "per_call")
        )
        cost = (tokens / MILLION + apiece) * group_multiplier * price.model_multiplier
        return ((cost + NANO / 2) / NANO).to_integral_value(ROUND_FLOOR) * NANO


def image_usd(price: PriceList, quality: str, size: str) -> Decimal:
    """Return what an image costs: where its class is not said, the dearest it may be of."""
    fitting = [
        Decimal(usd)
        for (named_quality, named_size), usd in price.classes.items()
        if quality in (named_quality, "", "auto") and size in (named_size, "", "auto")
    ]
    return max(fitting) if fitting else _unit(price, "per_image")


def video_usd(price: PriceList, size: str) -> Decimal:
    """Return what a second of video costs: where its size is not said, the dearest there is."""
    fitting = [Decimal(usd) for named, usd in price.video_sizes.items() if size in (named, "")]
    return max(fitting) if fitting else _unit(price, "per_video_second")


def _part(price: PriceList, name: str, whole: Decimal) -> Decimal:
    told = price.words.get(name, "")
    return Decimal(told) if told else whole


def _unit(price: PriceList, name: str) -> Decimal:
    return Decimal(price.words.get(name) or 0)
