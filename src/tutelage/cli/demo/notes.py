"""The notes of the demo's task, each with its line of minutes.

A note tells who writes to whom, what is to happen and when, in one of several dozen phrasings, often with small talk
that has to be left out, sometimes with a slip that the writer corrects ("Thursday, sorry, Friday"). The line of minutes
follows from the note alone and always has the same form, so that exact match is meaningful.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random


def items(text: str) -> list[str]:
    """The comma-separated entries of a word list."""
    return [" ".join(item.split()) for item in text.split(",")]


PEOPLE = items(
    """Anna, Ben, Carla, David, Elena, Felix, Greta, Hugo, Irene, Jonas, Karin, Leo, Maria, Nils, Olivia, Paul,
    Rosa, Simon, Tara, Victor, Wanda, Yusuf, Zoe, Adam, Bruno, Clara, Dora, Emil"""
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
MONTHS = items("""January, February, March, April, May, June, July, August, September, October, November, December""")
PARTS = ["morning", "noon", "afternoon", "evening"]
PAPERS = items(
    """contract, budget plan, guest list, sales report, floor plan, price list, travel form, press text, staff
    rota, product photos, bank letter, survey results, user manual, safety checklist, job advert, tender, audit
    notes, invoice"""
)
STATES = ["", "draft ", "signed ", "new ", "revised ", "final ", "old "]
PLACES = items(
    """room 12, the blue room, the canteen, the library, the workshop, room 7, the front office, the lab, the main
    hall, the archive, room 31, the garden room"""
)
EVENTS = items(
    """budget review, team lunch, kick-off, fire drill, board meeting, client visit, site tour, training day,
    design review, job interview, press briefing, stock count, software demo, planning round"""
)
DUTIES = items(
    """night shift, help desk, newsletter, stock room, visitor desk, post run, first-aid box, coffee fund, key
    cabinet, phone line, permit desk, intern programme"""
)
THINGS = items(
    """chairs, laptops, name badges, toner cartridges, flip charts, lamps, folders, headsets, coffee filters,
    batteries"""
)
BROKEN = items(
    """projector, printer, door lock, coffee machine, scanner, heater, lift, dishwasher, microphone, window blind"""
)
REASONS = items(
    """a dentist appointment, a sick child, a train strike, a wedding, a customer call, jury duty, a flat tyre, a
    school meeting, a delayed flight, a power cut at home"""
)
TONGUES = ["French", "German", "Polish", "Spanish", "Italian", "Turkish"]
NUMBERS = ["two", "three", "four", "six", "eight", "ten", "twelve", "twenty"]

# base form, past participle, gerund, what follows
VERBS = [
    ("send", "sent", "sending", "the {paper} to {person}"),
    ("show", "shown", "showing", "the {paper} to {person}"),
    ("translate", "translated", "translating", "the {paper} into {tongue}"),
    ("check", "checked", "checking", "the {paper} with {person}"),
    ("print", "printed", "printing", "{number} copies of the {paper}"),
    ("order", "ordered", "ordering", "{number} {things} for {place}"),
    ("bring", "brought", "bringing", "{number} {things} to {place}"),
    ("book", "booked", "booking", "{place} for the {event}"),
    ("repair", "repaired", "repairing", "the {broken} in {place}"),
    ("explain", "explained", "explaining", "the {broken} to {person}"),
    ("leave", "left", "leaving", "the {paper} in {place}"),
    ("cancel", "cancelled", "cancelling", "the {event} with {person}"),
]


@dataclass(frozen=True)
class Kind:
    """One kind of note. The first form of `answers` is the line of minutes; the others are rephrasings of it.

    `bodies` are phrasings of the note; the last two are for the test split alone. `mended` is the slot in which a slip
    may occur.
    """

    answers: tuple[str, str, str]
    bodies: tuple[str, ...]
    mended: str


KINDS: dict[str, Kind] = {
    "request": Kind(
        (
            "{sender} asks {recipient} to {do} by {by}.",
            "{recipient} is to {do} by {by}, as {sender} asks.",
            "{sender} wants {recipient} to {do} by {by}.",
        ),
        (
            "Could you please {do} by {by}?",
            "Would you mind {doing} before {by}?",
            "I need you to {do} by {by}.",
            "Please {do}. It has to be done by {by}.",
            "By {by} at the latest, could you {do}?",
            "It would help a lot if you could {do} by {by}.",
            "Can I count on you to {do} by {by}?",
            "There is one job for you: {do}. The deadline is {by}.",
        ),
        "by",
    ),
    "promise": Kind(
        (
            "{sender} will {do} by {by}.",
            "{sender} promises to {do} by {by}.",
            "By {by}, {sender} is going to {do}.",
        ),
        (
            "I will {do} by {by}.",
            "I promise to {do} before {by}.",
            "No need to ask twice: I'll {do} by {by}.",
            "Leave it to me to {do}. You can expect it by {by}.",
            "I am going to {do}, and {by} is my deadline.",
            "Count on me to {do} by {by}.",
            "I have put it on my list to {do}; it will be finished by {by}.",
        ),
        "by",
    ),
    "done": Kind(
        (
            "{sender} has {done}.",
            "{sender} reports having {done}.",
            "It is settled: {sender} has {done}.",
        ),
        (
            "I have {done}.",
            "Good news, I have {done}.",
            "As you asked, I have now {done}.",
            "I finally found the time for {doing}. All done.",
            "You can tick it off: I've {done}.",
            "One thing less to do, as I have {done}.",
            "I am through with {doing}, it is finished.",
        ),
        "person",
    ),
    "moved": Kind(
        (
            "{sender} moves the {event} from {old} to {day}.",
            "The {event} is moved by {sender} from {old} to {day}.",
            "{sender} puts the {event} off from {old}; it is now on {day}.",
        ),
        (
            "The {event} on {old} has to move to {day}.",
            "I must shift the {event} from {old} to {day}.",
            "We were to have the {event} on {old}. Let us do it on {day}.",
            "Please note the new date of the {event}: {day} and no longer {old}.",
            "{old} does not work for the {event}, so I have put it on {day}.",
            "Forget {old}, the {event} will be on {day}.",
            "I have found a better date than {old} for the {event}, namely {day}.",
        ),
        "day",
    ),
    "absent": Kind(
        (
            "{sender} cannot attend the {event} on {day} because of {reason}.",
            "Because of {reason}, {sender} will miss the {event} on {day}.",
            "{sender} is unable to come to the {event} on {day} owing to {reason}.",
        ),
        (
            "I can't make it to the {event} on {day} because of {reason}.",
            "You will have to do without me at the {event} on {day}. The cause is {reason}.",
            "Owing to {reason} I shall miss the {event} on {day}.",
            "I am afraid {reason} keeps me from the {event} on {day}.",
            "I have {reason} on {day}, so I will not be at the {event}.",
            "Don't wait for me at the {event} on {day}; there is {reason} in the way.",
            "With {reason} coming up on {day}, count me out of the {event}.",
        ),
        "day",
    ),
    "meeting": Kind(
        (
            "{sender} and {recipient} meet in {place} on {day} about the {paper}.",
            "{recipient} and {sender} will talk about the {paper} in {place} on {day}.",
            "On {day}, {sender} meets {recipient} in {place} to discuss the {paper}.",
        ),
        (
            "Let us meet in {place} on {day} to talk about the {paper}.",
            "Shall we sit together on {day} about the {paper}? I suggest {place}.",
            "I'll see you in {place} on {day} for our talk about the {paper}.",
            "We still have to discuss the {paper}. Come to {place} on {day}.",
            "On {day} I have time for the {paper}. Meet me in {place}.",
            "The {paper} needs the two of us: {day}, {place}.",
            "How about {place} on {day}? We could go through the {paper}.",
        ),
        "place",
    ),
    "handover": Kind(
        (
            "{sender} hands the {duty} over to {recipient} from {day}.",
            "From {day}, {recipient} takes the {duty} over from {sender}.",
            "{sender} passes the {duty} on to {recipient} as of {day}.",
        ),
        (
            "From {day} the {duty} is yours.",
            "I would like you to take over the {duty} from {day}.",
            "You will look after the {duty} from {day}, no longer me.",
            "I am giving up the {duty}. It goes to you from {day}.",
            "Starting {day}, you are in charge of the {duty}.",
            "My time with the {duty} ends, and from {day} it is your turn.",
            "As of {day}, everyone should turn to you for the {duty}, not to me.",
        ),
        "day",
    ),
}

# start and end of a note, with {note} in between; the last two are for the test split alone
FRAMES = (
    "Hi {recipient}. {note} Thanks, {sender}",
    "Dear {recipient}, {note} Best wishes, {sender}",
    "{recipient}, {sender} here. {note}",
    "Hello {recipient}! {note} Cheers, {sender}",
    "Morning {recipient}. {note} Yours, {sender}",
    "To {recipient}: {note} Regards, {sender}",
    "{recipient}! {note} Bye for now, {sender}",
    "This is {sender}. {recipient}, {note}",
    "{sender} to {recipient}: {note}",
    "Good day {recipient}, it's {sender}. {note}",
    "For {recipient}. {note} (from {sender})",
    "{note} That's all for today, {recipient}. Take care, {sender}",
)
SLIPS = ("{wrong}, sorry, {right}", "{wrong} (no, {right}!)", "{wrong}, I mean {right}", "{wrong}, or rather {right}")
MENDS = (
    "Sorry, I meant {right}, not {wrong}.",
    "Oops, make that {right} instead of {wrong}.",
    "I wrote {wrong} but it is {right}.",
    "Read {right} where I said {wrong}.",
)
SMALL_TALK = (
    "I hope you had a nice weekend.",
    "What a storm last night!",
    "{other} sends greetings.",
    "Thanks for the cake, it was lovely.",
    "{other} is back from holiday, by the way.",
    "It was good to see you and {other} again.",
    "My train was late once more.",
    "Sorry for the short notice.",
    "{other} told me about your new flat, congratulations.",
    "The weather is awful here.",
    "I am in a bit of a hurry.",
    "Did you see the match with {other}?",
)
HELD_OUT = 2  # number of bodies per kind, and of frames, that only the test split has


@dataclass(frozen=True)
class Note:
    """A note with its line of minutes and the facts that it was made from."""

    kind: str
    text: str
    answer: str
    references: tuple[str, ...]  # the answer first
    slots: tuple[str, ...]  # every fact that the answer states, as written in the note and the answer
    phrasing: tuple[str, str]  # the body and the frame

    @property
    def held_out(self) -> bool:
        """Whether it is phrased as no training note is."""
        return self.phrasing[1] in FRAMES[-HELD_OUT:]


def draw_date(rng: Random) -> str:
    """Draw a day and month, or a weekday, perhaps with a part of the day."""
    if rng.random() < 0.5:
        return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    return rng.choice(DAYS) + rng.choice(["", *(f" {part}" for part in PARTS)])


def _draw_slots(rng: Random) -> dict[str, str]:
    """Values for all slots that kinds use; no person twice."""
    sender, recipient, person, other = rng.sample(PEOPLE, 4)
    draw = {"paper": PAPERS, "place": PLACES, "event": EVENTS, "duty": DUTIES, "things": THINGS, "broken": BROKEN}
    slots = {name: rng.choice(values) for name, values in draw.items()} | {
        "sender": sender,
        "recipient": recipient,
        "person": person,
        "other": other,
        "tongue": rng.choice(TONGUES),
        "number": rng.choice(NUMBERS),
        "reason": rng.choice(REASONS),
        "by": draw_date(rng),
        "old": rng.choice(DAYS),
    }
    slots["paper"] = rng.choice(STATES) + slots["paper"]
    slots["day"] = draw_date(rng)
    while slots["old"] in slots["day"]:
        slots["day"] = draw_date(rng)
    return slots


def _other_value(slot: str, slots: dict[str, str], rng: Random) -> str:
    """A wrong value for a slot, which the writer corrects."""
    draw: dict[str, Callable[[], str]] = {
        "by": lambda: draw_date(rng),
        "day": lambda: draw_date(rng),
        "place": lambda: rng.choice(PLACES),
        "person": lambda: rng.choice(PEOPLE),
    }
    taken = " ".join([slots[slot], slots["old"], slots["sender"], slots["recipient"], slots["other"]])
    while True:
        value = draw[slot]()
        if value not in taken and slots[slot] not in value and slots["old"] not in value:
            return value


def draw_note(kind_name: str, rng: Random, held_out: bool = False) -> Note:
    """Draw one note of a kind; with `held_out`, with a body and a frame that no training note has."""
    kind = KINDS[kind_name]
    slots = _draw_slots(rng)
    base, participle, gerund, tail = rng.choice(VERBS)
    cut = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
    body, frame = rng.choice(kind.bodies[cut]), rng.choice(FRAMES[cut])

    def fill(form: str, values: dict[str, str]) -> str:
        rest = tail.format(**values)
        return form.format(**values, do=f"{base} {rest}", done=f"{participle} {rest}", doing=f"{gerund} {rest}")

    written, mend = dict(slots), ""
    if rng.random() < 0.35 and slots[kind.mended] in fill(kind.answers[0], slots):
        wrong = _other_value(kind.mended, slots, rng)
        values = {"wrong": wrong, "right": slots[kind.mended]}
        if rng.random() < 0.5:
            written[kind.mended] = rng.choice(SLIPS).format(**values)
        else:
            written[kind.mended], mend = wrong, " " + rng.choice(MENDS).format(**values)
    note = fill(body, written) + mend
    if rng.random() < 0.6:
        talk = rng.choice(SMALL_TALK).format(**slots)
        note = f"{talk} {note}" if rng.random() < 0.5 else f"{note} {talk}"
    note = note[0].upper() + note[1:]
    answers = tuple(fill(form, slots) for form in kind.answers)
    fields = kind.answers[0] + (tail if "{do" in kind.answers[0] else "")
    stated = tuple(value for name, value in slots.items() if f"{{{name}}}" in fields)
    return Note(kind_name, frame.format(note=note, **slots), answers[0], answers, stated, (body, frame))


def draw_notes(count: int, rng: Random, seen: set[str], held_out_share: float = 0.0) -> list[Note]:
    """Draw `count` notes, the kinds in turn, in random order. No answer is in `seen`, to which theirs are added."""
    names, notes = list(KINDS), []
    while len(notes) < count:
        held_out = len(notes) < round(count * held_out_share)
        note = draw_note(names[len(notes) % len(names)], rng, held_out)
        if note.answer not in seen:
            seen.add(note.answer)
            notes.append(note)
    rng.shuffle(notes)
    return notes
