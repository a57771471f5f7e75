"""Find the answer in a reply. What a reply states last counts, so that a change of mind is respected.

Two kinds of answers: a letter of a multiple choice (`find_letter`), and a short text such as a number, a yes or a list
of words (`find_phrase` and what is made of it). Statements come in tiers, and a lower tier is only looked at when the
higher ones have nothing:

1. "the answer is …", "Answer: …", "\\boxed{…}", "the best choice is …", "it is (B)"
2. "option … is correct", "I choose …"
3. a last line that is nothing but an answer, then the reply's beginning ("B", "Yes, …", "8" on a line of its own)
4. for letters, those in parentheses; then the last line

What follows "wait", "actually", "on second thought" and the like is read first, by the first two tiers. Letters and
numbers that a reply denies ("not (A)", "C is wrong") or leaves open ("A or B") count nowhere, nor does a list of all
options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{([^{}]*)\}"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*(?:\{((?:\\[{}]|[^{}\\]|\\(?![{}])|\{[^{}]*\})*)\}|([A-Z0-9]))")
_TAGS = re.compile(r"<(b|i|u|em|strong|code)>([^<]*)</\1>")
_MARKS = re.compile(r"\*\*|__|(?<![^\W_])_|_(?![^\W_])|`|\$|\\(?=[()\[\]{},;!%])|\\[,;!]")
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
_CHANGE = (
    r"(?:wait|actually|correction|sorry|scratch\s+that|edit(?=:)|no(?=[,:])|"
    r"(?:on|upon|after)\s+(?:second\s+thoughts?|reflection|(?:re-?)?checking))"
)
_CHANGED = re.compile(
    r"(?:^|[.!?;,:\n)–—-][ \t]{0,3})(?:(?:oh|but|no|hmm|or)\b[ ,.!…-]{0,5}){0,3}"
    rf"(?P<change>\b{_CHANGE})(?:[\s,.:;!…–—-]|\b(?:wait|actually)\b)*",
    re.I,
)  # where a reply takes back what it said
_NO = re.compile(r"\A(?:no\b[\s,.:;!…–—-]*)+", re.I)
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
    """The reply without LaTeX wrappers, dollar signs and emphasis; a box reads "answer is …" on a line of its own."""
    before = None
    while before != text:
        before, text = text, _TAGS.sub(r"\2", _WRAPPERS.sub(r"\1", text))
    text = _BOXED.sub(lambda box: f" answer is {box[1] if box[1] is not None else box[2]}\n", text)
    return _MARKS.sub("", text.replace("{,}", ","))


def find_letter(reply: str, letters: str, options: Sequence[str] = ()) -> Found:
    """The letter that a reply to a multiple choice settles on; `letters` such as "ABCD", `options` their texts.

    An option's full text after "the answer is" counts as its letter. Lower-case letters count where they cannot be
    words: in parentheses, with nothing but punctuation behind, or before a reason.
    """
    folded = [_fold(plain(option)) for option in options]
    text = _without_echo(plain(reply), letters, folded)

    def read(tail: str) -> str | None:
        return _letter_at(tail, letters) or _option_at(tail, letters, folded)

    whole = _whole_option(text, letters, folded)
    if whole is not None:
        return Found(whole, "the whole reply")
    text = _without_doubts(text, letters, folded)
    changed = _after_change(text)
    if changed is not None:
        changed = _NO.sub("", changed)
        early = _bare_start(changed, letters)
        later = Found(early, "stated") if early else _stated_letter(changed, letters, read)
        if later is not None:
            return Found(later.answer, "stated after a change of mind")
    return _stated_letter(text, letters, read) or _bare_letter(text, letters)


def find_phrase(reply: str) -> Found:
    """What stands behind the last "the answer is", up to the end of its line (or the next line with text)."""
    found = find_passage(reply)
    return Found(_first_line(found.answer), found.how) if found.answer else found


def find_passage(reply: str) -> Found:
    """What stands behind the last "the answer is", the following lines included."""
    text = plain(reply)
    for tier, pattern in (("stated", _STRONG), ("chosen", _WEAK)):
        _, passage = _last(text, (pattern,), lambda tail: tail.strip() or None)
        if passage is not None:
            return Found(passage, f"{tier} as the answer")
    return Found(None, "no answer stated")


def find_word(reply: str, words: Sequence[str]) -> Found:
    """Which of a few words (such as Yes and No) the reply settles on, in any case; the word as it stands in `words`."""
    known, either = {word.lower(): word for word in words}, "|".join(map(re.escape, words))
    # "no" before another word is not an answer ("there is no way to know"), but for "the answer is no because …"
    pattern = re.compile(rf"(?<!not )(?<!n['’]t )(?!(?-i:no)\s+\w)\b({either})\b", re.I)
    first = re.compile(rf"\W*({either})\b", re.I)

    def read(tail: str) -> str | None:
        match = pattern.search(_first_line(tail))
        return known[match[1].lower()] if match else None

    def read_stated(tail: str) -> str | None:
        match = first.match(tail)
        return known[match[1].lower()] if match else read(tail)

    def only(part: str) -> str | None:
        """The answer word of a part that has but one."""
        said = set(map(str.lower, pattern.findall(part)))
        return known[said.pop()] if len(said) == 1 else None

    text = plain(reply)
    changed = _after_change(text)
    if changed is not None:  # "wait, no: yes" is a yes, "wait, no" a no
        word = only(_NO.sub("", changed)) or only(changed)
        if word is not None:
            return Found(word, "stated after a change of mind")
    for tier, cue, reader in (("stated", _STRONG, read_stated), ("chosen", _WEAK, read)):
        _, word = _last(text, (cue,), reader)
        if word is not None:
            return Found(word, f"{tier} as the answer")
    last = _last_line(text)
    opens = re.match(rf"\W*({either})[\"'”’)]*\s*(?:[.,!;:–—-]|\n|$)", text, re.I)  # not "True and False is …"
    if opens and only(_first_line(text)) and not re.fullmatch(rf"\W*({either})\W*", last, re.I):
        return Found(known[opens[1].lower()], "the reply's beginning")
    word = only(last)
    if word is not None:
        return Found(word, "the last line's only answer word")
    opening = first.match(text)
    if opening and only(_first_line(text)):
        return Found(known[opening[1].lower()], "the reply's first word")
    return Found(None, "no answer stated")


def find_number(reply: str) -> Found:
    """The number that the reply settles on, written without separators; number words up to twenty count."""
    text = re.sub(rf"(?:not|n['’]t)\s+(?:be\s+)?{_NUMBER}(?!\w)", "…", plain(reply))  # "the answer is not 8"
    changed = _NO.sub("", _after_change(text) or "")
    corrected = re.match(rf"(?:it(?:'s|\s+is|\s+(?:should|must)\s+be)\s+)?({_NUMBER})(?!\s*[-+*/=×])", changed, re.I)
    if corrected:
        return Found(_tidy(corrected[1]), "stated after a change of mind")
    for tier, cue in (("stated", _STRONG), ("chosen", _WEAK)):
        _, number = _last(text, (cue,), lambda tail: _number_in(_first_line(tail)))
        if number is not None:
            return Found(number, f"{tier} as the answer")
    alone = rf"\W*?((?:{_NUMBER})|{'|'.join(NUMBER_WORDS)})\W*"
    opening = re.fullmatch(alone, _first_line(text), re.I)
    if opening and not re.fullmatch(alone, _last_line(text), re.I):
        return Found(_number_in(opening[1]), "the reply's beginning")
    numbers = re.findall(_NUMBER, re.sub(r"(?<=\d) \([^()\n]*\)", "", text))  # in "8 (2 + 6)" 8 is the number
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


_DENIED = (
    r"(?:(?:is|was|are|were|seems?|would\s+be)\s*(?:(?:both|all|also|clearly|obviously|therefore|thus)\s+)*"
    r"(?:not|n['’]t|wrong|incorrect|false)|can(?:not|['’]t)\s+be)\b"
)
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
    """What follows the last change of mind, if something stands before it."""
    changes = list(_CHANGED.finditer(text))
    if not changes or not re.search(r"\w", text[: changes[-1].start("change")]):
        return None
    return text[changes[-1].end() :]


def _without_echo(text: str, letters: str, options: Sequence[str]) -> str:
    """The text without lines that only repeat the options, where each of them is repeated."""
    lines, echoed = text.split("\n"), {}
    for number, line in enumerate(lines):
        letter = _whole_option(line, letters, options)
        if letter is not None:
            echoed.setdefault(letter, number)
    if len(echoed) < max(len(options), 2):
        return text
    return "\n".join(line for number, line in enumerate(lines) if number not in echoed.values())


def _without_doubts(text: str, letters: str, options: Sequence[str]) -> str:
    """The text with "…" for the letters that it denies ("A and C are wrong") or leaves open ("A or B")."""
    one = rf"(?<![\w'’-])(?!I\s+[a-z])(?:\(?[{letters}]\)?|\([{letters.lower()}]\))(?!['’-]?\w)"
    several = rf"{one}(?:(?:\s*,|(?:\s*,)?\s*(?:\b(?:and|or|nor)\b|[/&]))\s*{one}){{1,20}}"
    for denial in (
        rf"(?i:\b(?:wrong|incorrect)\s+answers?)\s*(?:(?:is|are|was|were|[:=])\s*)?(?:{several}|{one})",
        rf"(?i:not|n['’]t|neither)(?:\s+be)?\s+(?:(?:the\s+)?(?:option|choice|answer)\s+)?"
        rf"{one}(?:,?\s+(?:or|nor)\s+{one}){{0,20}}(?!\s+is\b)",
        rf"(?:{several}\s+(?=are|were)|{one}[.:]?\s+){_DENIED}",
    ):
        text = re.sub(denial, "…", text)

    def unless_an_option(found: re.Match[str]) -> str:
        said = _fold(found[0])  # "both A and B" may be an option
        apart = "," in found[0] and not re.search(r"[/&a-z]", found[0])  # "(A), (B) being wrong"
        return found[0] if apart or any(said in option for option in options) else "…"

    verb = r"\s+(?:is|was|can|would|has|does)\b"
    return re.sub(rf"{several}(?!{verb})|\([{letters}]\)(?:[ \t]*\([{letters}]\))+", unless_an_option, text)


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
    bare = rf"\W*(?:\b(?:option|choice|answer|letter)\W+)?([{letters}{letters.lower()}])\W*"
    whole = re.fullmatch(bare, text, re.I)
    if whole:
        return Found(whole[1].upper(), "the whole reply")
    last, listed = _last_line(text), re.findall(rf"(?<!\S)\(?([{letters}])(?:[).:]\s|[).:]?$)", text, re.M)
    if len(listed) > 1 and letters.startswith("".join(listed)) and re.match(rf"\W*[{listed[0]}{listed[-1]}]\b", last):
        return Found(None, "a list of options")
    opening = re.match(
        rf"\W*(?:\b(?i:option|choice)\s+)?([{letters}])(?:\)\s|[.:]\s|(?<!I),(?!\s*\(?[{letters}]\b)|\s*\n|\s[-–—]\s)",
        text,
    )
    if opening and "".join(listed[:2]) != letters[:2] and not re.fullmatch(bare, last, re.I):
        return Found(opening[1], "the reply's beginning")
    wrapped = re.findall(rf"\(([{letters}])\)", text)
    if wrapped:
        return Found(wrapped[-1], "the last letter in parentheses")
    alone = _standing_alone(last, letters)
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
    """The number that a clause ends its calculation with: "3 + 4 = 7" gives 7, "7 because 3 + 4 = 7" gives 7."""
    clause = re.split(r"\s(?:because|since)\b|[.;!]\s", line)[0]
    line = clause if re.search(_NUMBER, clause) else line
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
    return match[0].rstrip() if (match := re.search(r"\S[^\n]*", tail)) else ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "")


def _fold(text: str) -> str:
    return " ".join(text.lower().replace('"', " ").split()).rstrip(".").strip()
