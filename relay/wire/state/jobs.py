"""What a provider goes on with when its first answer is out: where to ask, and how it has ended.

    the endpoint that began it -> Job -> path of one, its end as a value: a status, a usage

A job is told by the endpoint of the call that began it, so what is written down of a call tells it
as well. One kind differs from another in its path, in the words of its end, and in what it costs
where its provider says nothing.

Source: OpenAI API reference, Background mode; Videos: queued, in_progress, completed, failed.
"""

from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import quote

from relay.decoding import Decoder, Undecodable
from relay.extras import Extras
from relay.records import Endpoint
from relay.usage import NOTHING, Usage
from relay.wire.request.asked import video_ms
from relay.wire.state.answered import UNENDED, read_kept
from relay.wire.state.batches import begun_batch, ended_batch
from relay.wire.state.content_batches import begun_contents, ended_contents
from relay.wire.state.shapes import KeptVideo
from relay.wire.usage.reader import find_usage_of_body

MOST_S: Final = 15.0
"""A provider keeps an ended response for minutes: it is seen well before that."""
TOTAL_S: Final = 6 * 3600.0
BATCH_MOST_S: Final = 60.0
BATCH_S: Final = 4 * 86_400.0
"""A day for a batch itself, and three in which its results are asked for."""
VERSION: Final = b"anthropic-version: 2023-06-01\r\n"
FREE_ENDS: Final = frozenset({"failed", "cancelled"})
"""A response that ends so costs nothing where no usage is told, and nothing was delivered."""
MADE: Final = frozenset({"completed", "succeeded"})
_UNMADE: Final = frozenset({"failed", "cancelled", "canceled", "expired", "deleted"})
_SIZE_CHARS_MAX: Final = 32

_video = Decoder(KeptVideo)


class Results(Protocol):
    """What a job has made, where only that tells what it used: read line by line.

    `path`: where it is, below its provider's root. `told`: what its provider says of it elsewhere,
    in case it is not there any more; None = nothing.
    """

    path: str
    told: Usage | None

    def take(self, line: bytes) -> None:
        """Take one line of it."""
        ...

    def usage(self) -> Usage | None:
        """Return what all lines together used; None: they cannot be all that was made."""
        ...


class JobEnd:
    """How a job ended. `usage`: what its provider says it used, None = nothing.

    `free_unread`: it costs nothing where no usage is told and nobody had any of it. `results`: what
    has to be read first, given about how many tokens were sent for each request of the job.
    """

    __slots__ = ("free_unread", "results", "usage")

    def __init__(
        self,
        usage: Usage | None,
        *,
        free_unread: bool = False,
        results: Callable[[int], Results] | None = None,
    ) -> None:
        self.usage = usage
        self.free_unread = free_unread
        self.results = results


class Job:
    """A kind of job.

    Args:
        word: What one is called to people.
        root: Below which its provider keeps it.
        begun: Returns the id of one that goes on, by the answer that began it; "" where none does.
        read_end: Returns how one ended, by what its provider says; None: it has not, or that is no
            answer to go by.
        lost_end: How one ended of which nobody knows what became, None = by what was counted of it.
        most_s, total_s: Between two looks at one; one that has not ended by then never will.
        lines: Headers that its provider wants of each question.
        watched: The operator is told where one cannot be asked for.
    """

    __slots__ = (
        "begun",
        "lines",
        "lost_end",
        "most_s",
        "read_end",
        "root",
        "total_s",
        "watched",
        "word",
    )

    def __init__(  # noqa: PLR0913 - a fact a line
        self,
        word: str,
        root: str,
        begun: Callable[[bytes], str],
        read_end: Callable[[bytes], JobEnd | None],
        lost_end: JobEnd | None = None,
        *,
        most_s: float = MOST_S,
        total_s: float = TOTAL_S,
        lines: bytes = b"",
        watched: bool = False,
    ) -> None:
        self.word = word
        self.root = root
        self.begun = begun
        self.read_end = read_end
        self.lost_end = lost_end
        self.most_s = most_s
        self.total_s = total_s
        self.lines = lines
        self.watched = watched

    def path(self, name: str) -> str:
        """Return where one is asked for, below its provider's root."""
        return f"/{self.root}/{quote(name, safe='')}"


def _begun_response(body: bytes) -> str:
    kept = read_kept(body)
    return kept.id if kept.status in UNENDED else ""


def _end_of_response(body: bytes) -> JobEnd | None:
    status = read_kept(body).status
    if not status or status in UNENDED:
        return None
    return JobEnd(find_usage_of_body(body), free_unread=status in FREE_ENDS)


def _begun_video(body: bytes) -> str:
    return read_video(body).id if _end_of_video(body) is None else ""


def _end_of_video(body: bytes) -> JobEnd | None:
    video = read_video(body)
    if video.status in MADE:
        return JobEnd(video_usage(video))
    # What was not made has no price; a word that nobody knows is no end.
    return JobEnd(NOTHING) if video.status in _UNMADE else None


def read_video(body: bytes) -> KeptVideo:
    """Return what a provider says of a video; all empty where it says nothing."""
    try:
        return _video.decode(body)
    except Undecodable:
        return KeptVideo()


def video_usage(video: KeptVideo) -> Usage:
    """Return what a video that was made is charged by: how long it is, and its size."""
    return Usage(extras=Extras(video_ms=video_ms(video.seconds), video_class=size_of(video)))


def size_of(video: KeptVideo) -> str:
    """Return the size of a video as prices name it, "" where nothing is said of it."""
    return video.size.lower()[:_SIZE_CHARS_MAX] if isinstance(video.size, str) else ""


def _end_of_batch(body: bytes) -> JobEnd | None:
    found = ended_batch(body)
    if found is None:
        return None
    return JobEnd(found) if isinstance(found, Usage) else JobEnd(None, results=found)


def _end_of_contents(body: bytes) -> JobEnd | None:
    found = ended_contents(body)
    if found is None:
        return None
    return JobEnd(found) if isinstance(found, Usage) else JobEnd(None, results=found)


RESPONSE_JOB: Final = Job("background response", "responses", _begun_response, _end_of_response)
VIDEO_JOB: Final = Job("video", "videos", _begun_video, _end_of_video, JobEnd(NOTHING))
BATCH_JOB: Final = Job(
    "batch job",
    "batches",
    begun_batch,
    _end_of_batch,
    JobEnd(NOTHING),
    most_s=BATCH_MOST_S,
    total_s=BATCH_S,
    watched=True,
)
MESSAGE_BATCH_JOB: Final = Job(
    "batch job",
    "messages/batches",
    begun_batch,
    _end_of_batch,
    JobEnd(NOTHING),
    most_s=BATCH_MOST_S,
    total_s=BATCH_S,
    watched=True,
    lines=VERSION,
)
CONTENT_BATCH_JOB: Final = Job(
    "batch job",
    "batches",
    begun_contents,
    _end_of_contents,
    JobEnd(NOTHING),
    most_s=BATCH_MOST_S,
    total_s=BATCH_S,
    watched=True,
)
_JOBS: Final = {
    Endpoint.CONTENT_BATCHES.value: CONTENT_BATCH_JOB,
    Endpoint.EMBED_BATCHES.value: CONTENT_BATCH_JOB,
    Endpoint.CONTENT_BATCH.value: CONTENT_BATCH_JOB,
    Endpoint.BATCHES.value: BATCH_JOB,
    Endpoint.BATCH.value: BATCH_JOB,
    Endpoint.MESSAGE_BATCHES.value: MESSAGE_BATCH_JOB,
    Endpoint.MESSAGE_BATCH.value: MESSAGE_BATCH_JOB,
    Endpoint.RESPONSES.value: RESPONSE_JOB,
    Endpoint.RESPONSE.value: RESPONSE_JOB,
    Endpoint.VIDEOS.value: VIDEO_JOB,
    Endpoint.VIDEO_REMIX.value: VIDEO_JOB,
    Endpoint.VIDEO.value: VIDEO_JOB,
}


def job_of(endpoint: str) -> Job:
    """Return the kind of job that calls of an endpoint begin, or ask for."""
    return _JOBS.get(endpoint, RESPONSE_JOB)
