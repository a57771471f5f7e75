"""Short text exercises for the demo: a student some of whose layers were removed relearns from them before the task.

Made from word lists like the notes in `notes.py`, but with other people, things and instructions, so that healing
teaches reading, copying and answering, and nothing of the task itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tutelage.cli.demo.notes import MONTHS, items

PEOPLE = items(
    """Agnes, Boris, Celia, Dario, Edith, Frank, Gita, Henry, Ida, Jakob, Kira, Lukas, Mona, Norman, Otto, Petra,
    Ravi, Selma, Theo, Uma, Vera, Walter, Yara, Zeno"""
)
# present, base form, past, objects
DEEDS = [
    ("paints", "paint", "painted", ["the fence", "a wooden boat", "the kitchen wall", "the garden gate"]),
    ("carries", "carry", "carried", ["a heavy basket", "the ladder", "two buckets", "a sack of flour"]),
    ("washes", "wash", "washed", ["the windows", "a muddy dog", "the old van", "the curtains"]),
    ("finds", "find", "found", ["a silver coin", "the lost glove", "three mushrooms", "a bird's nest"]),
    ("bakes", "bake", "baked", ["an apple pie", "fresh bread", "a dozen biscuits", "a plum cake"]),
    ("feeds", "feed", "fed", ["the goats", "the neighbour's cat", "two ponies", "the ducks"]),
    ("picks", "pick", "picked", ["ripe cherries", "some herbs", "a bunch of tulips", "the last pears"]),
    ("hides", "hide", "hid", ["the spare key", "a birthday present", "the chocolate", "an old map"]),
    ("reads", "read", "read", ["a long poem", "the village paper", "an adventure story", "a letter from Peru"]),
    ("mends", "mend", "mended", ["the broken chair", "a torn sail", "the leaking roof", "a bicycle tyre"]),
]
WHERE = items(
    """behind the barn, by the river, in the cellar, under the oak, near the mill, at the market, on the balcony,
    in the greenhouse, beside the pond, in the attic"""
)
WHEN = items(
    """at dawn, after lunch, before supper, every spring, late at night, during the storm, at the weekend, on a
    rainy day, in early autumn, just before sunset"""
)
FINDS = items(
    """a rusty rake, a straw hat, two candles, a tin drum, a pair of skates, five marbles, a glass jar, a brass
    bell, a fishing net, four plates, a wool blanket, a paper kite, a garden hose, three corks, a toy train, an
    oil lamp"""
)
WORDS = items(
    """apple, anchor, bridge, butter, candle, copper, desert, dragon, engine, falcon, feather, garden, hammer,
    island, jacket, kettle, lemon, marble, needle, orange, pepper, pigeon, quilt, rabbit, ribbon, saddle,
    silver, tunnel, umbrella, velvet, walnut, winter, yellow, zebra"""
)
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class Exercise:
    """An exercise and its answer."""

    kind: str
    instruction: str
    text: str
    answer: str


@dataclass(frozen=True)
class Deed:
    """Who does what, where and when; the exercises' sentences are made from it."""

    who: str
    present: str
    base: str
    past: str
    what: str
    where: str
    when: str

    @property
    def now(self) -> str:
        """The deed as a sentence in the present tense."""
        return f"{self.who} {self.present} {self.what} {self.where} {self.when}."


def _deed(rng: Random, who: str | None = None) -> Deed:
    present, base, past, objects = rng.choice(DEEDS)
    return Deed(
        who or rng.choice(PEOPLE), present, base, past, rng.choice(objects), rng.choice(WHERE), rng.choice(WHEN)
    )


def _listed(things: list[str]) -> str:
    return ", ".join(things[:-1]) + f" and {things[-1]}"


def _repeat(rng: Random) -> Exercise:
    text = _deed(rng).now
    return Exercise("repeat", "Repeat the sentence.", text, text)


def _past(rng: Random) -> Exercise:
    d = _deed(rng)
    answer = f"{d.who} {d.past} {d.what} {d.where} {d.when}."
    return Exercise("past", "Put the sentence into the past tense.", d.now, answer)


def _negate(rng: Random) -> Exercise:
    d = _deed(rng)
    answer = f"{d.who} does not {d.base} {d.what} {d.where} {d.when}."
    return Exercise("negate", "Say that this is not so.", d.now, answer)


def _question(rng: Random) -> Exercise:
    """Two facts about two people, one question about one of them."""
    deeds = [_deed(rng, who) for who in rng.sample(PEOPLE, 2)]
    d = rng.choice(deeds)
    question, answer = rng.choice(
        [
            (f"What does {d.who} {d.base}?", f"{d.who} {d.present} {d.what}."),
            (f"Where is {d.who}?", f"{d.who} is {d.where}."),
            (f"When does {d.who} do it?", f"{d.who} does it {d.when}."),
        ]
    )
    return Exercise("question", "Answer from the text.", f"{deeds[0].now} {deeds[1].now} {question}", answer)


def _who(rng: Random) -> Exercise:
    first, second = (_deed(rng, who) for who in rng.sample(PEOPLE, 2))
    text = f"{first.now} {second.now}"
    return Exercise("who", "Name the people in the text.", text, f"{first.who} and {second.who}.")


def _join(rng: Random) -> Exercise:
    who = rng.choice(PEOPLE)
    first, second = _deed(rng, who), _deed(rng, who)
    answer = f"{who} {first.present} {first.what} and {second.present} {second.what}."
    text = f"{who} {first.present} {first.what}. {who} {second.present} {second.what}."
    return Exercise("join", "Make one sentence of the two.", text, answer)


def _list(rng: Random) -> Exercise:
    things = rng.sample(FINDS, rng.randint(2, 4))
    text = f"There are {_listed(things)} {rng.choice(WHERE)}."
    return Exercise("list", "List the things, one a line.", text, "\n".join(f"- {thing}" for thing in things))


def _count(rng: Random) -> Exercise:
    words = rng.sample(WORDS, rng.randint(2, 6))
    return Exercise("count", "How many words are there?", " ".join(words), f"There are {COUNTS[len(words)]} words.")


def _sort(rng: Random) -> Exercise:
    words = rng.sample(WORDS, rng.randint(2, 4))
    return Exercise("sort", "Put the words in alphabetical order.", " ".join(words), " ".join(sorted(words)))


def _date(rng: Random) -> Exercise:
    day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1950, 2030)
    text = f"{rng.choice(PEOPLE)} moved in on {day} {MONTHS[month - 1]} {year}."
    return Exercise("date", "Write the date as year-month-day.", text, f"{year}-{month:02d}-{day:02d}")


KINDS: tuple[Callable[[Random], Exercise], ...] = (
    _repeat,
    _past,
    _negate,
    _question,
    _who,
    _join,
    _list,
    _count,
    _sort,
    _date,
)


def draw_exercises(count: int, rng: Random) -> list[Exercise]:
    """Draw `count` exercises, the kinds in turn, each instruction and text at most once, in random order."""
    seen: set[tuple[str, str]] = set()
    drawn: list[Exercise] = []
    while len(drawn) < count:
        exercise = KINDS[len(drawn) % len(KINDS)](rng)
        if (exercise.instruction, exercise.text) not in seen:
            seen.add((exercise.instruction, exercise.text))
            drawn.append(exercise)
    rng.shuffle(drawn)
    return drawn
