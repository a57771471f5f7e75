"""Find the answer in a reply. What a reply states last counts, so that a change of mind is respected.

Two kinds of answers: a letter of a multiple choice (`find_letter`), and a short text such as a number, a yes or a list
of words (`find_phrase` and what is made of it). Statements come in tiers, and a lower tier is only looked at when the
higher ones have nothing:

1. "the answer is …", "Answer: …", "\\boxed{…}", "the best choice is …", "it is (B)"
2. "option … is correct", "I choose …"
3. for letters: the reply's beginning, then letters in parentheses, then a letter alone in the last line

What follows "wait", "actually", "on second thought" and the like is read first, by the first two tiers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{([^{}]*)\}"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?:\{((?:\\[{}]|[^{}\\]|\\(?![{}])|\{[^{}]*\})*)\}|([A-Z0-9]))")
_MARKS = re.compile(r"\*\*|__|`|\$|\\(?=[()\[\]{},;!%])|\\[,;!]")
_SO = r"(?:\s+(?:therefore|thus|then|hence|clearly|probably|(?:most\s+)?likely|indeed|simply))?"
_IS = rf"(?:\s+(?:is|was|(?:would|should|must|will|has\s+to){_SO}\s+be)\b{_SO}(?:\s+that\b(?!'))?\s*[:=]?|\s*[:=])\s*"
_OF = r"(?:\s+(?:to|for|of|in)\s[^\n.:=]{1,80}?|,\s[^,\n]{1,30},)?"

_STRONG = re.compile(
    rf"\banswers?{_OF}{_IS}|\bchange[sd]?\s+(?:my|the)\s+answer\s+to\s+|\banswer\s+(?=\([A-Z]\))"
    r"|\bfinal\s+answer\s*[-–—\n]\s*|^[^\w\n]{0,9}answer\s*\n\s*"
    rf"|\b(?:correct|right|best|final)\s+(?:option|choice|letter|one){_OF}{_IS}",
    re.I | re.M,
)
_WEAK = re.compile(
    rf"\b(?:option|choice|solution|result|conclusion|letter|one|statement){_OF}{_IS}"
    r"|\b(?:I|we)(?:'d|'ll|\s+would|\s+will)?\s+(?:choose|chose|pick|picked|select|selected|go\s+with|say|meant?)\s+"
    r"|\bgo(?:ing)?\s+with\s+|\b(?:therefore|thus|hence|so),?\s+(?=\(?[A-Z]\)?\s*(?:[.!]|$))",
    re.I,
)
_IT_IS = re.compile(r"\bit(?:'s|\s+is|\s+must\s+be|\s+should\s+be|\s+has\s+to\s+be)\s+(?=\(?[A-Z]\b)", re.I)
_CHANGED = re.compile(
    r"(?:^|[.!?;,:\n–—-][ \t]{0,3})(?:(?:oh|but|no|hmm|or)\b[ ,.!…-]{0,5}){0,3}\b(?:wait|actually|correction|sorry|"
    r"scratch\s+that|(?:on|upon)\s+(?:second\s+thoughts?|reflection)|no(?=,))(?:[\s,.:;!…–—-]|\bno\b)*",
    re.I,
)  # where a reply takes back what it said
_READ = 4000  # characters of a statement: a reply that repeats one a thousand times is read in good time
_LEAD = r"\s*(?:\b(?:option|choice|letter|answer)s?\b:?\s*)*"

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
NUMBER_WORDS = [*_UNITS, *_TEENS]


@dataclass(frozen=True)
class Found:
    answer: str | None  # None: the reply states none
    how: str  # which statement it was taken from, for people


def plain(text: str) -> str:
    """The reply without LaTeX wrappers, dollar signs and bold marks; a box reads "answer is …" on a line of its own."""
    before = None
    while before != text:
        before, text = text, _WRAPPERS.sub(r"\1", text)
    text = _BOXED.sub(lambda box: f" answer is {box[1] if box[1] is not None else box[2]}\n", text)
    return _MARKS.sub("", text.replace("{,}", ","))


def find_letter(reply: str, letters: str, options: Sequence[str] = ()) -> Found:
    """The letter that a reply to a multiple choice settles on; `letters` such as "ABCD", `options` their texts.

    An option's full text after "the answer is" counts as its letter. Lower-case letters count where they cannot be
    words: in parentheses, with nothing but punctuation behind, or before a reason.
    """
    text, folded = plain(reply), [_fold(plain(option)) for option in options]

    def read(tail: str) -> str | None:
        return _letter_at(tail, letters) or _option_at(tail, letters, folded)

    whole = _whole_option(text, letters, folded)
    if whole is not None:
        return Found(whole, "the whole reply")
    changed = _after_change(text)
    if changed is not None:
        early = _bare_start(changed, letters)
        later = Found(early, "stated") if early else _stated_letter(changed, letters, read)
        if later is not None:
            return Found(later.answer, "stated after a change of mind")
    return _stated_letter(text, letters, read) or _bare_letter(text, letters)


def find_phrase(reply: str) -> Found:
    """What stands behind the last "the answer is", up to the end of its line (or the next line with text)."""
    text = plain(reply)
    for tier, pattern in (("stated", _STRONG), ("chosen", _WEAK)):
        _, phrase = _last(text, (pattern,), lambda tail: _first_line(tail) or None)
        if phrase is not None:
            return Found(phrase, f"{tier} as the answer")
    return Found(None, "no answer stated")


def find_word(reply: str, words: Sequence[str]) -> Found:
    """Which of a few words (such as Yes and No) the reply settles on, in any case; the word as it stands in `words`."""
    # "no" before another word is not an answer: "there is no way to know"
    pattern = re.compile(rf"(?<!not )(?!(?-i:no)\s+\w)\b({'|'.join(map(re.escape, words))})\b", re.I)
    known = {word.lower(): word for word in words}

    def read(tail: str) -> str | None:
        match = pattern.search(_first_line(tail))
        return known[match[1].lower()] if match else None

    text = plain(reply)
    changed = _after_change(text)
    closing = set(map(str.lower, pattern.findall(changed))) if changed is not None else set()
    if len(closing) == 1:
        return Found(known[closing.pop()], "stated after a change of mind")
    for tier, cue in (("stated", _STRONG), ("chosen", _WEAK)):
        _, word = _last(text, (cue,), read)
        if word is not None:
            return Found(word, f"{tier} as the answer")
    opening = re.match(rf"\W*({'|'.join(map(re.escape, words))})\b", text, re.I)
    closing = list(pattern.finditer(_last_line(text)))
    if closing and len({match[1].lower() for match in closing}) == 1:
        return Found(known[closing[0][1].lower()], "the last line's only answer word")
    if opening and len(set(map(str.lower, pattern.findall(_first_line(text))))) == 1:
        return Found(known[opening[1].lower()], "the reply's first word")
    return Found(None, "no answer stated")


def find_number(reply: str) -> Found:
    """The number that the reply settles on, written without separators; number words up to twenty count."""
    text = plain(reply)
    corrected = re.match(
        rf"(?:it(?:'s|\s+is|\s+(?:should|must)\s+be)\s+)?({_NUMBER})(?!\s*[-+*/=×])", _after_change(text) or ""
    )
    if corrected:
        return Found(_tidy(corrected[1]), "stated after a change of mind")
    for tier, cue in (("stated", _STRONG), ("chosen", _WEAK)):
        _, number = _last(text, (cue,), lambda tail: _number_in(_first_line(tail)))
        if number is not None:
            return Found(number, f"{tier} as the answer")
    numbers = re.findall(_NUMBER, text)
    if numbers:
        return Found(_tidy(numbers[-1]), "the reply's last number")
    word = _number_word(text, -1)
    return Found(word, "the reply's last number") if word else Found(None, "no number")


def trim(phrase: str) -> str:
    """A phrase without the quotes, brackets around the whole and the punctuation that a sentence adds."""
    phrase = phrase.strip().rstrip(" .,;:!").strip()
    while len(phrase) > 1 and phrase[0] + phrase[-1] in ('""', "''", "“”", "‘’"):
        phrase = phrase[1:-1].strip().rstrip(" .,;:!")
    return phrase


# --- parts ------------------------------------------------------------------------------------------------------------

_DENIED = r"(?:is|was|seems|would\s+be|cannot|can't)?\s*(?:not|n't|wrong|incorrect|false|isn't|be)\b"
_NUMBER = r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?"


def _last(text: str, patterns: Sequence[re.Pattern[str]], read: Callable[[str], str | None]) -> tuple[int, str | None]:
    """Where the last statement with something readable behind it stands, and what is read there."""
    places = sorted(match.end() for pattern in patterns for match in pattern.finditer(text))
    for end in reversed(places):
        answer = read(text[end : end + _READ])
        if answer is not None:
            return end, answer
    return -1, None


def _letter_at(tail: str, letters: str) -> str | None:
    """The letter that a text begins with: B, (B), [B], b), "B." … but not the article in "a planet"."""
    match = re.match(
        rf"{_LEAD}([\s\"'“‘(\[{{<]*)([{letters}{letters.lower()}])(?!\w|['’-]\w)(\s*[)\]}}>]?)", tail, re.I
    )
    if match is None:
        return None
    letter, after = match[2], tail[match.end(2) :]
    wrapped = bool(re.search(r"[(\[{<]", match[1])) and bool(match[3].strip())
    ends = re.match(r"\s*(?:[)\]}.,:;!?\"'”’]|\n|$|-|–|—)", after) is not None
    certain = letter.isupper() and letter not in "AI"
    # "A" and "I" are words too: A is taken unless an article's noun follows, I only where it stands alone
    argued = letter not in "Ii" and re.match(r"\s+(?:because|since|as|is|and|with|for|which|due)\b", after) is not None
    return letter.upper() if wrapped or ends or certain or argued else None


def _option_at(tail: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the longest option (folded) that the tail begins with; None when two options share it."""
    start = _fold(tail)[:2000]
    fitting = [
        (len(folded), letter)
        for letter, folded in zip(letters, options, strict=False)
        if folded and re.match(rf"(?:the |an? )?{re.escape(folded)}(?!\w|[.,]\d)", start)
    ]
    longest = [letter for length, letter in fitting if length == max(fitting)[0]]
    return longest[0] if len(longest) == 1 else None  # two options of the same text: no telling which


def _judged_right(text: str, letters: str) -> tuple[int, str | None]:
    """ "(B) is the correct one", "Option B seems right": the last such letter."""
    pattern = rf"(?:\b(?:option|choice|answer)\s+)?(?<!\w)\(?([{letters}])\)?\s+(?:is|seems|looks|would be)\s+"
    right = r"(?:(?:the|clearly|therefore|thus|most|only|indeed)\s+)*(?:correct|right|best|true|answer|likely)\b"
    matches = list(re.finditer(pattern + right, text))
    return (matches[-1].end(), matches[-1][1]) if matches else (-1, None)


def _stated_letter(text: str, letters: str, read: Callable[[str], str | None]) -> Found | None:
    """The letter that the first two tiers find."""
    for tier, patterns in (("stated", (_STRONG, _IT_IS)), ("chosen", (_WEAK,))):
        found = _last(text, patterns, read)
        if tier == "chosen":
            found = max([found, _judged_right(text, letters)], key=lambda one: one[0])
        if found[1] is not None:
            return Found(found[1], f"{tier} as the answer")
    return None


def _after_change(text: str) -> str | None:
    """What follows the last change of mind."""
    changes = list(_CHANGED.finditer(text))
    return text[changes[-1].end() :] if changes and changes[-1].start() > 0 else None


def _bare_start(tail: str, letters: str) -> str | None:
    """The letter that is a sentence by itself at the beginning: "B." of "Actually, B."."""
    return match[1] if (match := re.match(rf"\(?([{letters}])\)?\s*(?:[.!\n]|$)", tail)) else None


def _whole_option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of a reply that is an option's text and nothing else, or its letter and its text."""
    said = _fold(text[:_READ])
    if said.upper() in letters or len(text) > _READ:  # a letter is a letter, also where it is an option's text
        return None
    pairs = [(letter, option) for letter, option in zip(letters, options, strict=False) if option]
    fitting = [a for a, option in pairs if said == option or said in (f"{a.lower()}{m}{option}" for m in (". ", ") "))]
    fitting = fitting or [letter for letter, option in pairs if said == f"({letter.lower()}) {option}"]
    return fitting[0] if len(fitting) == 1 else None


def _bare_letter(text: str, letters: str) -> Found:
    """A letter that nothing calls the answer: the whole reply, its beginning, in parentheses, in the last line."""
    whole = re.fullmatch(rf"\W*([{letters}{letters.lower()}])\W*", text)
    if whole:
        return Found(whole[1].upper(), "the whole reply")
    listed = re.findall(rf"^\s*\(?([{letters}])[).:]\s", text, re.M)
    if (
        len(set(listed)) == 1
        and re.match(rf"\W*[A-Z]\)?[).:]?\s(?!{_DENIED})", text)
        and text.strip().lstrip("(")[0] == listed[0]
    ):
        return Found(listed[0], "the reply's beginning")
    wrapped = re.findall(rf"(?<!\bnot )\(([{letters}])\)(?!\s+{_DENIED})", text)
    if wrapped:
        return Found(wrapped[-1], "the last letter in parentheses")
    alone = _standing_alone(_last_line(text), letters)
    return Found(alone, "the last line's only letter") if alone else Found(None, "no answer stated")


def _standing_alone(line: str, letters: str) -> str | None:
    """The one letter of a line; None where there are several, or only an "A" or "I" that may be a word."""
    seen: set[str] = set()
    for match in re.finditer(rf"(?<![\w'’.-])(?<!\bnot )(?<!\bnot \()([{letters}])(?![\w'’-])", line):
        closed = re.match(r"\s*(?:[).,:;!]|$)", line[match.end() :]) is not None
        if match[1] not in "AI" or closed or (match[1] == "A" and match.start() > 0):
            seen.add(match[1] if match[1] not in "AI" or closed else "")
    return seen.pop() or None if len(seen) == 1 else None


def _number_in(line: str) -> str | None:
    """The number that a clause ends its calculation with: "3 + 4 = 7" gives 7, "7 (3 apples, 4 pears)" gives 7."""
    line = re.sub(r"\b(?:minus|negative)\s+(?=\d)|^[-−]\s+(?=\d)", "-", line, flags=re.I)
    numbers = re.findall(_NUMBER, line.rpartition("=")[2]) or re.findall(_NUMBER, line)
    return _tidy(numbers[0]) if numbers else _number_word(line, 0)


def _number_word(text: str, place: int) -> str | None:
    """The first or last number word; "one" only where nothing else is one, for it is a pronoun too."""
    words = [word for word in re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower()) if word in NUMBER_WORDS]
    words = [word for word in words if word != "one"] or words
    return str(NUMBER_WORDS.index(words[place])) if words else None


def _tidy(number: str) -> str:
    value = number.replace(",", "").replace("−", "-")
    return re.sub(r"\.0*$", "", value)


def _first_line(tail: str) -> str:
    return next((line.strip() for line in tail.split("\n") if line.strip()), "")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _fold(text: str) -> str:
    return " ".join(text.lower().replace('"', " ").split()).rstrip(".").strip()
