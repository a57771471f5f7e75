"""Find the answer in a reply: a short text, a word such as yes or no, or a number. Letters: `find_letter.py`.

What a reply states last counts, so that a change of mind is respected. A statement of two answers ("3 or 4"), or of
none ("it cannot be determined"), is no answer, whatever was stated before it. Statements come in tiers; a lower tier is
read only when the higher ones hold nothing. After a change of mind ("wait", "actually") the rest is read first.

| tier | found in | example | answer |
|---|---|---|---|
| 1. stated (`STATED`) | what follows "the answer is" | "So the best choice would be **B**." | B |
| 2. chosen (`CHOSEN`) | what follows "I choose", "the result is" | "Therefore I would choose B." | B |
| 3. the bare answer | the last line, the reply's beginning | "Yes\\n\\nThere is no offset." | Yes |

Each rule below has an example beside it; tests/evaluation/readers/test_find_answer.py has many more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tutelage.evaluation.readers.cues import CHOSEN, STATED, without_adverbs
from tutelage.evaluation.readers.find_refusal import ANSWER_CANNOT, last_refusal, left_undecided, refuses, takes_back
from tutelage.evaluation.readers.last_statement import last_sentence
from tutelage.evaluation.readers.second_answer import SEVERAL, begins_with_two, differs_by_case, left_open
from tutelage.evaluation.readers.statements import what_holds
from tutelage.evaluation.readers.taken_back import LEADING_NO, after_change, looked_again


@dataclass(frozen=True)
class Found:
    """What a reply answers."""

    answer: str | None  # None: the reply states none
    how: str  # the rule that found it, for people
    stated: bool = True  # False: the reply only mentions it last, which counts if it was not cut


# --- Markup: taken off before anything is read -------------------------------------------------------------------

_WRAPPERS = re.compile(  # "\text{(B)}" → "(B)"
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{([^{}]*)\}"
)
_BOXED = re.compile(  # "\boxed{B}", "\boxed B" → "answer is B"
    r"\\(?:boxed|fbox)\s*(?:\{((?:\\[{}]|[^{}\\]|\\(?![{}])|\{[^{}]*\})*)\}|([A-Z0-9]))"
)
_BOXES = re.compile(  # "$\boxed{A}$ and $\boxed{B}$": no more than a joint between boxes
    rf"{_BOXED.pattern}(?:[ \t$]*(?:(?:,|;|/|&|\band\b|\bor\b|\\quad|\\[,;]|\\text\{{\s*(?:and|or)\s*\}})[ \t$]*)*"
    rf"{_BOXED.pattern})+"
)
_ASCII = "".join(map(chr, range(33, 127)))
_WIDE = str.maketrans("".join(chr(ord(one) + 0xFEE0) for one in _ASCII) + "。", _ASCII + ".")  # "（Ｂ）。" → "(B)."
_TAGS = re.compile(r"<(b|i|u|em|strong|code)>([^<]*)</\1>")  # "<b>B</b>" → "B"
_STRUCK = re.compile(r"~~[^~\n]+~~|<(s|del|strike)>[^<]*</\1>")  # is not said
_EMPHASIS = re.compile(  # "**B**", "_B_", "`B`", "$B$", "\(B\)" → "B"
    r"\*\*|(?<![\w*])\*(?=\S)|(?<=\S)\*(?![\w*])|__|(?<![^\W_])_|_(?![^\W_])|`|\$|\\(?=[()\[\]{},;!%])|\\[,;!]"
)
_SPACE = re.compile(r"(?:\\[ ,;:]|\\quad\b|(?<=[^\s~])~(?=[^\s~]))(?!\d)")  # "6.0\,m", "6.0~m" → "6.0 m"; not "1\,200"

# --- Numbers -----------------------------------------------------------------------------------------------------

_NUMBER = r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?"  # "1,234", "−5", "24.0"
_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
NUMBER_WORDS = [*_UNITS, *_TEENS]
_A_NUMBER = rf"(?:{_NUMBER}|\b(?:{'|'.join(NUMBER_WORDS)})\b)"
_UNIT = r"(?:\s+(?!or\b|and\b|to\b|because\b|since\b|is\b)[a-z]+){0,2}"
_TWO_NUMBERS = re.compile(  # "3 or 4", "between 3 and 4", "3 apples or 4 apples", "1, 2 or 3"
    rf"({_A_NUMBER}){_UNIT}(?:\s*(?:,?\s*(?:\bor\b|\band\b|\bto\b)(?:\s+(?:maybe|perhaps|possibly|even|also))?|/|&|–|-)"
    rf"\s*|,\s+(?={_A_NUMBER}\s*(?:[]).,;}}]|$|or\b|and\b))|,?\s+(?:\(\s*)?(?:or|possibly|maybe|perhaps)\s+)"
    rf"({_A_NUMBER})(?!\s*[-+*=×])",
    re.I,
)
_TWO_VALUES = re.compile(  # "x = 3 or x = 12"
    rf"\b([a-z])\s*=\s*(?P<one>{_A_NUMBER})(?:\s*,)?\s*(?:\b(?:or|and)\b)?\s*\1\s*=\s*(?!(?P=one)\b){_A_NUMBER}", re.I
)
_NOT_ONE = re.compile(  # "at least 3", "±3", "3 or more", "3+", "3 | 4", "3, but also 4", "3. Or 4", "3 + 4."
    rf"\W*(?:at\s+(?:least|most)|(?:more|fewer|less)\s+than)\b|[^\w\n]*[±<>≤≥]|\W*{_A_NUMBER}(?:\+(?!\s*\d)"
    rf"|\s+or\s+(?:more|fewer|less)\b|\s*[-+*/×÷]\s*{_A_NUMBER}\s*(?:[.;!\n]|$)|[\"'”’]?(?:\s*[|?]\s*|"
    rf"[.?!]+\s+or\s+|,?\s+"
    rf"(?:but|also|maybe|or)\s+(?:(?:also|maybe|perhaps|possibly|it|could|might|may|be)\s+)+|"
    rf"\s+but\s+)[\"'“‘]?{_A_NUMBER})",
    re.I,
)
_AT_LEAST = re.compile(  # at a line's end: "There are at least 12 of them.", "12 or more."
    rf"(?:\b(?:at\s+(?:least|most)|(?:more|fewer|less)\s+than)\s+{_A_NUMBER}|{_A_NUMBER}\s+or\s+(?:more|fewer|less))"
    r"(?:,?\s+[a-z]+){0,4}\W*\Z",
    re.I,
)
_COUNT = re.compile(rf"({_A_NUMBER})(?!\s*[-+*/×=.])[^:(\n]{{1,60}}?(?::|\()(?=\W*{_A_NUMBER}\s+\w)", re.I)
_NUMBER_LIST = re.compile(rf"\s*(?:[-*•]\s+{_A_NUMBER}[ \t.,;]*(?:\n\s*|$)){{2}}", re.I)
_YOU_DO_NOT = re.compile(r"\b(?:you|we|they)\s+(?:do|did|would)(?:\s+not|n['’]t)\b", re.I)
_CONCLUDED_NUMBER = re.compile(  # at a sentence's end: "so it's 7", "that makes 13", "so there are 11 in all"
    r"\b(?:so|thus|hence|therefore|(?:that|which|this)\s+(?:makes|gives|leaves|is)|(?:should|must|would)\s+be|"
    r"total\s+is|it['’]s|it\s+is|there\s+are|go\s+with|say)\s+(?:[a-z'’]+\s+){0,4}?"
    rf"({_A_NUMBER})(?!\s*[-+*/=×])(?:\s+[a-z]+){{0,4}}\W*\Z",
    re.I,
)
_NO_ANSWER = ""  # what a statement answers that chooses none, or several

_OR_SO = r"(?:(?:also|maybe|perhaps|possibly|even|likely)\s+)"  # "A or possibly B"
_PLUS = r"(?:and/or|and|or|plus|as\s+well\s+as|(?:together|along)\s+with|und|oder|et|ou|o|y)"
JOINT = (  # " and ", ", ", " (or ", between two answers
    rf"\s*(?:(?:,\s*)?\(?(?:\b{_PLUS}\b|[&/+])\s*{_OR_SO}?|,\s*{_OR_SO}?|\(\s*{_OR_SO})"
)
READ_AT_MOST = 4000  # characters after a cue: a reply that repeats a cue a thousand times must be read in good time


_CONCLUDED = re.compile(  # the last sentence, if it concludes
    r"(?:(?<=[.!?]\s)(?:so|thus|hence|therefore|in\s+conclusion|however|but|consequently|overall)\b|"
    r"(?<=\s)→)[^.!?\n]*\W*\Z",
    re.I,
)


def plain(text: str) -> str:
    """The reply without LaTeX wrappers, dollar signs, emphasis, full-width characters and answers that it only asks
    for, supposes or doubts; a box reads "answer is …" on a line of its own."""
    before, text = None, _STRUCK.sub("", text.translate(_WIDE))
    while before != text:
        before, text = text, _TAGS.sub(r"\2", _WRAPPERS.sub(r"\1", text))
    text = _BOXES.sub(_boxes, re.sub(r"\\(?:lor|vee|land|wedge)\b", " or ", text))
    text = _EMPHASIS.sub("", _SPACE.sub(" ", _BOXED.sub(_boxes, text).replace("{,}", ",")))
    return without_adverbs(left_open(what_holds(text)))


def find_if_ended(find: Callable[[str], Found], reply: str, finished: bool) -> Found:
    """What `find` finds in a reply; if it was cut at its limit, only what it states or begins with.

    "Let us look at (A). Let us look at (B). It", cut, answers nothing; "B\\nB\\nB", cut, B.
    """
    found = find(reply)
    if finished or found.stated:
        return found
    first = _first_line(plain(reply))
    return find(first) if len(first.split()) < 3 else Found(None, "cut before an answer is stated")


def find_phrase(reply: str) -> Found:
    """What follows the last "the answer is", to the end of its line, or of the next line with text.

    "The answer is:\\n\\nfig pear" → "fig pear".
    """
    found = find_passage(reply)
    return replace(found, answer=_first_line(found.answer)) if found.answer else found


def find_passage(reply: str) -> Found:
    """What follows the last "the answer is", the following lines included."""
    text = plain(reply)
    for tier, pattern in (("stated", STATED), ("chosen", CHOSEN)):
        _, passage = last_read(text, (pattern,), lambda tail: tail.strip() or None)
        if passage is not None:
            return Found(passage, f"{tier} as the answer")
    return Found(None, "no answer stated")


def find_word(reply: str, words: Sequence[str]) -> Found:
    """Which of a few words, such as Yes and No, the reply settles on, in upper or lower case; spelt as in `words`.

    | reply | words | answer |
    |---|---|---|
    | "The answer is not True, it is False." | True, False | False |
    | "Yes. On second thought, no." | Yes, No | No |
    | "True or False?" | True, False | None |
    """
    known, either = {word.lower(): word for word in words}, "|".join(map(re.escape, words))
    both = re.compile(  # "Yes and no", "True/False"; but in "True and False = False" the last word is the answer
        rf"[\s\"'“‘(\[]*(?:(?:both|n?either|between)\s+)?({either})\b\W{{0,3}}"
        rf"(?:,?\s*\b(?:and|or|but)\b\s*(?:,[^,.\n]{{1,30}},\s*)?{_OR_SO}?|[/&,;+]\s*{_OR_SO}?)"
        rf"\W{{0,3}}(?!(?-i:no)\s+\w)({either})\b(?P<result>\s*(?:=|is\b|equals\b|gives\b|evaluates\s+to\b))?",
        re.I,
    )
    # "no" before another word is not an answer ("there is no way to know"), but for "the answer is no because …"
    pattern = re.compile(rf"(?<!not )(?<!n['’]t )(?!(?-i:no)\s+\w|No\s+(?:one|comment)\b)\b({either})\b", re.I)
    first = re.compile(rf"\W*({either})\b", re.I)

    def differ(tail: str) -> bool:
        """Whether a text begins with two different words, or has one in one case and another in another."""
        if differs_by_case(_first_line(tail), either):
            return True
        two = both.match(tail)
        return begins_with_two(tail, either) or (two is not None and two[1].lower() != two[2].lower())

    def read(tail: str) -> str | None:
        two = both.match(tail)
        if two and two["result"]:
            tail = tail[two.end() :]
        elif differ(tail) or (refuses(tail) and not first.match(tail)):
            return _NO_ANSWER
        match = pattern.search(_first_line(tail))
        return known[match[1].lower()] if match else None

    def read_stated(tail: str) -> str | None:
        match = None if both.match(tail) or differ(tail) else first.match(tail)
        return known[match[1].lower()] if match else read(tail)

    def only(part: str) -> str | None:
        """The answer word of a part that has only one."""
        found = set(map(str.lower, pattern.findall(part)))
        return known[found.pop()] if len(found) == 1 else None

    text = plain(reply)
    changed = after_change(text, no_is_an_answer="no" in known)
    if changed is not None:  # "wait, no: yes" is a yes, "wait, no" a no
        word = only(LEADING_NO.sub("", changed)) or only(changed)
        if word is None and not STATED.search(changed) and (left_undecided(changed) or differ(changed)):
            word = _NO_ANSWER
        if word is not None:
            return Found(word or None, "stated after a change of mind")
    if _taken_back(text):
        return Found(None, "no answer is chosen")
    again = looked_again(text) or ""
    word = only(last_sentence(again))
    if word is not None:
        return Found(word, "concluded after a look at the answer before it")
    if _YOU_DO_NOT.search(last_sentence(again)) and not pattern.search(again):  # "Actually, you don't return."
        return Found(None, "taken back after a look at the answer before it")
    for tier, cues, reader in (("stated", (STATED, ANSWER_CANNOT), read_stated), ("chosen", (CHOSEN,), read)):
        _, word = last_read(text, cues, reader)
        if word is not None:
            return Found(word or None, f"{tier} as the answer")
    last = last_line(text)
    result = re.search(rf"(?:=|→|⇒|\b(?:evaluates\s+to|equals|gives))\s*({either})\W*\Z", last, re.I)
    if result:  # "(False or True) and True = True"
        return Found(known[result[1].lower()], "the result in the last line", stated=False)
    if begins_with_two(text, either):
        return Found(None, "several answers")
    opens = re.match(rf"\W*({either})[\"'”’)]*\s*(?:[.,!;:–—-]|\n|$)", text, re.I)  # not "True and False is …"
    if opens and only(_first_line(text)) and not re.fullmatch(rf"\W*({either})\W*", last, re.I):
        return Found(known[opens[1].lower()], "the reply's beginning")
    refusal = last_refusal(text)
    if refusal >= 0 and only(text[refusal:]) is None:
        return Found(None, "no answer is chosen")
    word = only(last)
    neither = re.search(rf"\b(?:both|n?either)\s+({either})\s+(?:and|n?or)\s+({either})\b", last, re.I)
    if neither or differ(last):
        return Found(None, "several answers")
    if word is None and (concluded := _CONCLUDED.search(last)):  # "It seems valid. But … Therefore, it is invalid."
        word = only(concluded[0])
    if word is not None:
        return Found(word, "the last line's only answer word", stated=False)
    opening = first.match(text)
    if opening and not differ(last) and only(_first_line(text)):
        return Found(known[opening[1].lower()], "the reply's first word")
    return Found(None, "no answer stated")


def find_number(reply: str) -> Found:
    """The number that the reply settles on, without separators; words up to "twenty" count.

    | reply | answer |
    |---|---|
    | "the answer is 3 + 4 = 7." | 7 |
    | "There are 8 (2 + 4) of them." | 8 |
    | "Answer: 1,234" | 1234 |
    """
    text = re.sub(rf"(?:not|n['’]t)\s+(?:be\s+)?{_A_NUMBER}(?!\w)", "…", plain(reply))  # "the answer is not 8"
    changed = LEADING_NO.sub("", after_change(text) or "")
    if re.search(r"\w", changed) and not STATED.search(changed) and (left_undecided(changed) or _two_numbers(changed)):
        return Found(None, "no single number after a change of mind")
    it_is = r"(?:(?:it(?:'s|\s+is|\s+(?:should|must)\s+be)|I\s+meant)\s+)?"
    corrected = re.match(rf"{it_is}({_NUMBER})(?!\s*[-+*/=×])", changed, re.I)
    if corrected:
        return Found(_tidy(corrected[1]), "stated after a change of mind")
    if _taken_back(text):
        return Found(None, "no answer is chosen")
    concluded = _CONCLUDED_NUMBER.search(last_sentence(looked_again(text) or ""))
    if concluded:
        return Found(number_of(concluded[1]), "concluded after a look at the answer before it")
    for tier, cues in (("stated", (STATED, ANSWER_CANNOT)), ("chosen", (CHOSEN,))):
        _, number = last_read(text, cues, _stated_number)
        if number is not None:
            return Found(number or None, f"{tier} as the answer")
    last = re.sub(r"^\W*(?:(?:it\s+is|it's|so|therefore|thus|hence)\b\W*)+", "", last_line(text), flags=re.I)
    count = _with_its_parts(text)
    if count is not None:
        return Found(count, "a count, then its parts", stated=False)
    both = [one for one in (text, last) if len(re.findall(_A_NUMBER, one, re.I)) == 2]  # "3\n4", "It is 3; 4."
    if any(begins_with_two(one, _A_NUMBER, number_of) for one in both):
        return Found(None, "no single number")
    alone = rf"\W*?((?:{_NUMBER})|{'|'.join(NUMBER_WORDS)})\W*"
    opening = re.fullmatch(alone, _first_line(text), re.I)
    if opening and not re.fullmatch(alone, last_line(text), re.I):
        return Found(number_of(opening[1]), "the reply's beginning")
    cues = [match.end() for match in STATED.finditer(text)]  # what is stated there is no number
    text = re.sub(r"(?<=\d) \([^()\n]*\)", "", text[cues[-1] if cues else 0 :])  # in "8 (2 + 6)" 8 is the number
    last = last_line(text)
    several = _two_numbers(last, at_end=True) or _AT_LEAST.search(last) or differs_by_case(last, _A_NUMBER)
    if several or last_refusal(text, undecided_only=True) >= 0:
        return Found(None, "no single number")
    numbers = re.findall(_NUMBER, text)
    if numbers:
        return Found(_tidy(numbers[-1]), "the reply's last number", stated=False)
    word = _number_word(text, -1)
    return Found(word, "the reply's last number", stated=False) if word else Found(None, "no number")


def _taken_back(text: str) -> bool:
    """Whether the last sentence is a refusal of all answers, after whatever was stated."""
    return takes_back(text) > max((match.end() for match in STATED.finditer(text)), default=-1)


def trim(phrase: str) -> str:
    """A phrase without the quotes around it and the punctuation at its end: "“fig pear”." → "fig pear"."""
    phrase = phrase.strip().rstrip(" .,;:!").strip()
    while len(phrase) > 1 and phrase[0] + phrase[-1] in ('""', "''", "“”", "‘’"):
        phrase = phrase[1:-1].strip().rstrip(" .,;:!")
    return phrase


def last_read(
    text: str, patterns: Sequence[re.Pattern[str]], read: Callable[[str], str | None]
) -> tuple[int, str | None]:
    """The last cue after which `read` finds something: where the text after it begins, and what was found.

    (−1, None) where there is none; an empty form, at the text's end, states `_NO_ANSWER`: "Answer: ?".
    """
    places = sorted(match.end() for pattern in patterns for match in pattern.finditer(text))
    for end in reversed(places):
        answer = read(tail := text[end : end + READ_AT_MOST])
        if answer is None and tail.strip() and not re.search(rf"[^\W_]|[…{SEVERAL}]", tail):
            answer = _NO_ANSWER
        if answer is not None:
            return end, answer
    return -1, None


def _boxes(found: re.Match[str]) -> str:
    """One or more boxes as a statement: "answer is A, B"."""
    contents = [box[1] if box[1] is not None else box[2] for box in _BOXED.finditer(found[0])]
    return f" answer is {', '.join(dict.fromkeys(contents)).strip() or '?'}\n"


def _first_line(tail: str) -> str:
    return match[0].rstrip() if (match := re.search(r"\S[^\n]*", tail)) else ""


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _stated_number(tail: str) -> str | None:
    """The number that a text after a cue states; `_NO_ANSWER` for two numbers, and for none."""
    line = _first_line(re.sub(r"\n\s*(?=(?:or|and|also)\b)", " ", tail))
    two = begins_with_two(line, _A_NUMBER, number_of) or _two_numbers(line) or differs_by_case(line, _A_NUMBER)
    several = two or _NOT_ONE.match(line) or _NUMBER_LIST.match(tail)
    return _NO_ANSWER if refuses(line) or several else number_of(line)


def _two_numbers(line: str, at_end: bool = False) -> bool:
    """Whether a line begins (or, `at_end`, ends) with two different numbers, of which it chooses none: "3 or 4"."""
    line = re.split(r"\s(?:because|since)\b|[.;!]\s", line)[-1 if at_end else 0]
    if _TWO_VALUES.search(line):
        return True
    if "=" in line:
        return False
    for match in _TWO_NUMBERS.finditer(line):
        if number_of(match[1]) == number_of(match[2]):
            continue
        around = line[match.end() :] if at_end else line[: match.start()]
        if not re.search(_A_NUMBER, around, re.I):
            return True
    return False


def number_of(line: str) -> str | None:
    """The result that a clause states: "3 + 4 = 7" → 7, "7 because 3 + 4 = 7" → 7."""
    clause = re.split(r"\s(?:because|since)\b|[.;!]\s", line)[0]
    worded = re.match(rf"\W*({'|'.join(NUMBER_WORDS)})\s*:", clause, re.I)  # "three: 1 + 2"
    if worded:
        return _number_word(worded[1], 0)
    line = clause if re.search(_NUMBER, clause) else line
    line = re.sub(r"\b(?:minus|negative)\s+(?=\d)|^[-−]\s+(?=\d)", "-", line, flags=re.I)
    numbers = re.findall(_NUMBER, line.rpartition("=")[2])
    if len(numbers) > 1 or not numbers:  # "7 = 2 + 5"
        numbers = re.findall(_NUMBER, line)
    return _tidy(numbers[0]) if numbers else _number_word(line, 0)


def _with_its_parts(text: str) -> str | None:
    """The last number of a text that is followed by its parts: "6 cups: 1 red, 2 blue and 3 green" → 6."""
    for count in reversed(list(_COUNT.finditer(text))):
        parts = [number_of(one) for one in re.findall(_A_NUMBER, text[count.end() :][:READ_AT_MOST], re.I)]
        if len(parts) > 1 and all(part and re.fullmatch(r"\d+", part) for part in parts):
            return number_of(count[1]) if str(sum(map(int, filter(None, parts)))) == number_of(count[1]) else None
    return None


def _number_word(text: str, place: int) -> str | None:
    """The first (`place` 0) or last (−1) number word; "one", a pronoun too, only where there is no other."""
    words = [word for word in re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower()) if word in NUMBER_WORDS]
    words = [word for word in words if word != "one"] or words
    return str(NUMBER_WORDS.index(words[place])) if words else None


def _tidy(number: str) -> str:
    """ "1,234" → "1234", "−5" → "-5", "24.0" → "24"."""
    value = number.replace(",", "").replace("−", "-")
    return re.sub(r"\.0*$", "", value)
