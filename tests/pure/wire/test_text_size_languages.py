"""Goal: an estimate of tokens is within 25 % of a common tokenizer, in every script.

Method: a passage in 26 languages, counted once by o200k_base; both forms of JSON, short and long.
"""

import json

import pytest

from relay.wire.request.text_size import estimate_prompt, estimate_tokens, weigh
from relay.wire.sse import split_events
from relay.wire.usage.delivered_tokens import (
    TAIL_EVENTS_MAX,
    last_events,
    measure_stream,
    measure_text,
    tokens_of_body,
)

# ruff: noqa: RUF001 - other scripts

PASSAGES = {
    "English": (
        33,
        "All human beings are born free and equal in dignity and rights. They "
        "are endowed with reason and conscience and should act towards one "
        "another in a spirit of brotherhood.",
    ),
    "German": (
        38,
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie "
        "sind mit Vernunft und Gewissen begabt und sollen einander im Geist der "
        "Brüderlichkeit begegnen.",
    ),
    "French": (
        41,
        "Tous les êtres humains naissent libres et égaux en dignité et en "
        "droits. Ils sont doués de raison et de conscience et doivent agir les "
        "uns envers les autres dans un esprit de fraternité.",
    ),
    "Spanish": (
        38,
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos "
        "y, dotados como están de razón y conciencia, deben comportarse "
        "fraternalmente los unos con los otros.",
    ),
    "Portuguese": (
        37,
        "Todos os seres humanos nascem livres e iguais em dignidade e em "
        "direitos. Dotados de razão e de consciência, devem agir uns para com "
        "os outros em espírito de fraternidade.",
    ),
    "Italian": (
        51,
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. "
        "Essi sono dotati di ragione e di coscienza e devono agire gli uni "
        "verso gli altri in spirito di fratellanza.",
    ),
    "Dutch": (
        41,
        "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. "
        "Zij zijn begiftigd met verstand en geweten, en behoren zich jegens "
        "elkander in een geest van broederschap te gedragen.",
    ),
    "Swedish": (
        43,
        "Alla människor är födda fria och lika i värde och rättigheter. De har "
        "utrustats med förnuft och samvete och bör handla gentemot varandra i "
        "en anda av gemenskap.",
    ),
    "Polish": (
        53,
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i "
        "swych praw. Są oni obdarzeni rozumem i sumieniem i powinni postępować "
        "wobec innych w duchu braterstwa.",
    ),
    "Czech": (
        50,
        "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. "
        "Jsou nadáni rozumem a svědomím a mají spolu jednat v duchu bratrství.",
    ),
    "Turkish": (
        46,
        "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl "
        "ve vicdana sahiptirler ve birbirlerine karşı kardeşlik zihniyeti ile "
        "hareket etmelidirler.",
    ),
    "Vietnamese": (
        50,
        "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và "
        "quyền. Mọi con người đều được tạo hoá ban cho lý trí và lương tâm và "
        "cần phải đối xử với nhau trong tình bằng hữu.",
    ),
    "Indonesian": (
        47,
        "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang "
        "sama. Mereka dikaruniai akal dan hati nurani dan hendaknya bergaul "
        "satu sama lain dalam semangat persaudaraan.",
    ),
    "Russian": (
        41,
        "Все люди рождаются свободными и равными в своем достоинстве и правах. "
        "Они наделены разумом и совестью и должны поступать в отношении друг "
        "друга в духе братства.",
    ),
    "Ukrainian": (
        55,
        "Всі люди народжуються вільними і рівними у своїй гідності та правах. "
        "Вони наділені розумом і совістю і повинні діяти у відношенні один до "
        "одного в дусі братерства.",
    ),
    "Greek": (
        71,
        "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και "
        "τα δικαιώματα. Είναι προικισμένοι με λογική και συνείδηση, και "
        "οφείλουν να συμπεριφέρονται μεταξύ τους με πνεύμα αδελφοσύνης.",
    ),
    "Hebrew": (
        50,
        "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו "
        "בתבונה ובמצפון, לפיכך חובה עליהם לנהוג איש ברעהו ברוח של אחווה.",
    ),
    "Arabic": (
        43,
        "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً "
        "وضميراً وعليهم أن يعامل بعضهم بعضاً بروح الإخاء.",
    ),
    "Hindi": (
        54,
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और "
        "समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और "
        "परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
    ),
    "Thai": (
        63,
        "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ "
        "ต่างมีเหตุผลและมโนธรรม และควรปฏิบัติต่อกันด้วยเจตนารมณ์แห่งภราดรภาพ",
    ),
    "Chinese": (
        36,
        "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神互相对待。",
    ),
    "Japanese": (
        72,
        "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、互いに同胞の精神をもって行動しなければならない。",
    ),
    "Korean": (
        51,
        "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. "
        "인간은 천부적으로 이성과 양심을 부여받았으며 서로 "
        "형제애의 정신으로 행동하여야 한다.",
    ),
    "Bengali": (
        56,
        "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। "
        "তাঁদের বিবেক এবং বুদ্ধি আছে; সুতরাং সকলেরই একে অপরের প্রতি "
        "ভ্রাতৃত্বসুলভ মনোভাব নিয়ে আচরণ করা উচিত।",
    ),
    "Tamil": (
        53,
        "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் "
        "மதிப்பிலும், உரிமைகளிலும் சமமானவர்கள், அவர்கள் நியாயத்தையும் "
        "மனச்சாட்சியையும் இயற்பண்பாகப் பெற்றவர்கள்.",
    ),
    "Georgian": (
        51,
        "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და "
        "უფლებებით. მათ მინიჭებული აქვთ გონება და სინდისი და ერთმანეთის მიმართ "
        "უნდა იქცეოდნენ ძმობის სულისკვეთებით.",
    ),
    "Python": (
        68,
        "def find(items, key, *, default=None):\n    for item in items:\n       "
        "if item.key == key:\n            return item.value\n    return "
        "default\n\n\nclass Cache:\n    def __init__(self, size: int) -> "
        "None:\n        self._size = size\n        self._items: dict[str, int] "
        "= {}\n",
    ),
}
"""Language -> its tokens by o200k_base, and the text (Article 1 of the Universal Declaration of
Human Rights; a few lines of code)."""


def within(estimate: int, tokens: int) -> bool:
    return abs(estimate / tokens - 1) < 0.25


@pytest.mark.parametrize("language", PASSAGES)
def test_an_estimate_is_within_a_quarter(language: str) -> None:
    tokens, text = PASSAGES[language]
    assert within(estimate_tokens(text.encode()), tokens)
    assert within(estimate_tokens((text + " ").encode() * 40), tokens * 40)
    assert within(estimate_tokens(json.dumps(text)[1:-1].encode()), tokens)


@pytest.mark.parametrize("language", PASSAGES)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_prompt_is_estimated_by_its_text(language: str, *, ascii_only: bool) -> None:
    tokens, text = PASSAGES[language]
    messages = [{"role": "user", "content": (text + " ") * 40}]
    body = json.dumps({"messages": messages}, ensure_ascii=ascii_only).encode()
    # Windows cut escapes in two: a little less exact.
    assert abs(estimate_prompt(body, *weigh(body)) / (tokens * 40) - 1) < (
        0.3 if ascii_only else 0.25
    )


@pytest.mark.parametrize("language", PASSAGES)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("piece", [4, 60])
def test_a_stream_and_a_plain_answer_are_estimated_alike(
    language: str, piece: int, *, ascii_only: bool
) -> None:
    tokens, text = PASSAGES[language]
    text = (text + " ") * 40
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    plain = tokens_of_body(json.dumps(body, ensure_ascii=ascii_only).encode())
    events = [
        f"data: {json.dumps(chunk(text[at : at + piece]), ensure_ascii=ascii_only)}\n\n".encode()
        for at in range(0, len(text), piece)
    ]
    out = (sum(map(len, events)), len(events))
    streamed = measure_stream(b"".join(events[-8:]), *out).size
    assert within(plain, tokens * 40)
    assert within(streamed, plain)


def chunk(text: str) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


@pytest.mark.parametrize(
    ("tail", "bytes_out", "events_out", "tokens"),
    [
        (b"", 0, 0, 0),
        (b": ping\n\n", 8, 1, 1),
        (b"data: [DONE]\n\n", 14, 1, 1),
        (b"data: {broken\n\n", 1_000, 7, 7),
        (b'data: {"type":"response.output_text.delta","delta":"hi"}\n\n', 58, 1, 1),
        (b'data: {"delta":{"partial_json":"{\\"a\\":1}"}}\n\n', 46, 1, 2),
    ],
)
def test_events_without_text_count_as_a_token_each(
    tail: bytes, bytes_out: int, events_out: int, tokens: int
) -> None:
    assert measure_stream(tail, bytes_out, events_out).size == tokens


def test_the_events_that_bring_text_are_counted_but_for_those_that_open_it() -> None:
    said = [chunk(f" w{at}") for at in range(40)]
    opening = [{"id": "chatcmpl-1", "choices": [], "note": "x" * 9_000}]
    quiet = [{**chunk(""), "usage": None}]
    events = [f"data: {json.dumps(one)}\n\n".encode() for one in (*opening, *said, *quiet)]
    out = (sum(map(len, events)), len(events))
    found = measure_stream(b"".join(events[-4:]), *out, len(events[0]))
    assert found.texts == len(said) + 1
    whole = measure_text("".join(f" w{at}" for at in range(40)), 40)
    assert abs(found.size - whole.size) <= 6, "what opens a stream is no text"
    assert measure_stream(b"".join(events), *out) == whole, "that was all of it"


def test_an_event_of_a_response_that_repeats_its_deltas_is_no_text() -> None:
    delta = b'data: {"type":"response.output_text.delta","delta":" words"}\n\n'
    done = b'data: {"type":"response.output_text.done","text":"' + b" words" * 90 + b'"}\n\n'
    said = delta * 90
    cut = measure_stream(delta * 3 + done, len(said + done), 91)
    assert cut.texts == 90
    assert measure_stream(done, len(said + done), 91).texts == 0, "nothing to learn from"


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b"", 0),
        (b"no JSON", 0),
        (b'{"choices":[{"message":{"content":"hi"}}]}', 1),
        (b'{"content":[{"type":"tool_use","input":{"city":"Paris"}}]}', 4),
        (b'{"output":[{"content":[{"type":"output_text","text":"hi there"}]}]}', 2),
        (b"[" * 100 + b"]" * 100, 0),
    ],
)
def test_only_what_the_model_wrote_counts(body: bytes, tokens: int) -> None:
    assert tokens_of_body(body) == tokens


@pytest.mark.parametrize("ending", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("size", [10, 300, 2_000, 30_000])
@pytest.mark.parametrize("rest", [b"", b"data: {"])
def test_of_a_long_tail_the_last_events_are_the_same_as_of_all(
    ending: bytes, size: int, rest: bytes
) -> None:
    events = [b"data: %d %b" % (number, b"x" * size) + ending for number in range(300)]
    for tail in (b"".join(events[-count:]) + rest for count in (0, 1, 2, 63, 64, 65, 300)):
        assert last_events(tail) == split_events(tail)[-TAIL_EVENTS_MAX:]
