"""Find the letter that a reply to a multiple-choice question settles on. The cues: `find_answer.py`.

| tier | found in | example (options Paris, Rome, Oslo) | letter |
|---|---|---|---|
| 0 | a reply that is one option, word for word | "**Rome.**" | B |
| 1. stated | what follows "the answer is", "it is" | "The answer is (A). Wait, no: the answer is (B)." | B |
| 2. chosen | what follows "I choose"; before "is correct" | "I think that (B) is the correct one." | B |
| 3. bare | the whole reply, or its beginning | "C\\n\\nPlants need light." | C |
| 4. bare | the last letter in parentheses, else the only one in the last line | "It has to be this one (B)" | B |

Not read: letters that the reply denies ("not (A)", "C is wrong") or leaves open ("A or B"), and a list of all options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tutelage.evaluation.benchmarks.find_answer import (
    CHOSEN,
    LEADING_NO,
    READ_AT_MOST,
    STATED,
    Found,
    after_change,
    last_line,
    last_read,
    plain,
)

_IT_IS = re.compile(  # "it must be (B)"
    r"\bit(?:'s|\s+is|\s+must\s+be|\s+should\s+be|\s+has\s+to\s+be)\s+(?=\(?[A-Z]\b)", re.I
)
_LEAD = r"\s*(?:\b(?:option|choice|letter|answer)s?\b:?\s*)*"  # "option B" after a cue
_DENIED = (  # "is not", "aren't", "seems wrong", "can't be"
    r"(?:(?:is|was|are|were|seems?|would\s+be)\s*(?:(?:both|all|also|clearly|obviously|therefore|thus)\s+)*"
    r"(?:not|n['’]t|wrong|incorrect|false)|can(?:not|['’]t)\s+be)\b"
)


def find_letter(reply: str, letters: str, options: Sequence[str] = ()) -> Found:
    """The letter that a reply settles on. `letters`: such as "ABCD"; `options`: their texts.

    An option's full text after "the answer is" counts as its letter. Lower-case letters count where they cannot be
    words: in parentheses, before punctuation alone, or before a reason ("b because it is big").
    """
    option_texts = [_normalised(plain(option)) for option in options]
    text = _without_echo(plain(reply), letters, option_texts)

    def read(tail: str) -> str | None:
        return _letter_at(tail, letters) or _option_at(tail, letters, option_texts)

    whole = _whole_option(text, letters, option_texts)
    if whole is not None:
        return Found(whole, "the whole reply")
    text = _without_doubts(text, letters, option_texts)
    changed = after_change(text)
    if changed is not None:
        changed = LEADING_NO.sub("", changed)
        early = _bare_start(changed, letters)
        later = Found(early, "stated") if early else _stated_letter(changed, letters, read)
        if later is not None:
            return Found(later.answer, "stated after a change of mind")
    return _stated_letter(text, letters, read) or _bare_letter(text, letters)


def _letter_at(tail: str, letters: str) -> str | None:
    """The letter that a text begins with: "B", "(B)", "[B]", "b)", "option B." but not the article of "a planet"."""
    match = re.match(
        rf"{_LEAD}([\s\"'“‘(\[{{<]*)([{letters}{letters.lower()}])(?!\w|['’-]\w)(\s*[)\]}}>]?)", tail, re.I
    )
    if match is None:
        return None
    letter, after = match[2], tail[match.end(2) :]
    wrapped = bool(re.search(r"[(\[{<]", match[1])) and bool(match[3].strip())
    ends = re.match(r"\s*(?:[)\]}.,:;!?\"'”’]|\n|$|-|–|—)", after) is not None
    certain = letter.isupper() and letter not in "AI"
    # "A" and "I" are words too: they count in brackets or before punctuation, A (and b) also before a reason
    argued = letter not in "Ii" and re.match(r"\s+(?:because|since|as|is|and|with|for|which|due)\b", after) is not None
    return letter.upper() if wrapped or ends or certain or argued else None


def _option_at(tail: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the longest option that a text begins with ("Rome in Georgia", not "Rome"); None for equal ones."""
    start = _normalised(tail)[:2000]
    fitting = [
        (len(option), letter)
        for letter, option in zip(letters, options, strict=False)
        if option and re.match(rf"(?:the |an? )?{re.escape(option)}(?!\w|[.,]\d)", start)
    ]
    longest = [letter for length, letter in fitting if length == max(fitting)[0]]
    return longest[0] if len(longest) == 1 else None


def _stated_letter(text: str, letters: str, read: Callable[[str], str | None]) -> Found | None:
    """The letter that tier 1 finds, else tier 2."""
    for tier, patterns in (("stated", (STATED, _IT_IS)), ("chosen", (CHOSEN,))):
        found = last_read(text, patterns, read)
        if tier == "chosen":
            found = max([found, _judged_right(text, letters)], key=lambda one: one[0])
        if found[1] is not None:
            return Found(found[1], f"{tier} as the answer")
    return None


def _judged_right(text: str, letters: str) -> tuple[int, str | None]:
    """The last letter of the form "(B) is the correct one" or "Option B seems right"."""
    pattern = rf"(?:\b(?:option|choice|answer)\s+)?(?<!\w)\(?([{letters}])\)?\s+(?:is|seems|looks|would be)\s+"
    right = r"(?:(?:the|clearly|therefore|thus|most|only|indeed)\s+)*(?:correct|right|best|true|answer|likely)\b"
    matches = list(re.finditer(pattern + right, text))
    return (matches[-1].end(), matches[-1][1]) if matches else (-1, None)


def _bare_letter(text: str, letters: str) -> Found:
    """Tiers 3 and 4: a letter that nothing calls the answer."""
    bare = rf"\W*(?:\b(?:option|choice|answer|letter)\W+)?([{letters}{letters.lower()}])\W*"
    whole = re.fullmatch(bare, text, re.I)
    if whole:
        return Found(whole[1].upper(), "the whole reply")
    # "A. Paris\nB. Rome\nC. Oslo" lists the options and answers nothing
    last, listed = last_line(text), re.findall(rf"(?<!\S)\(?([{letters}])(?:[).:]\s|[).:]?$)", text, re.M)
    if len(listed) > 1 and letters.startswith("".join(listed)) and re.match(rf"\W*[{listed[0]}{listed[-1]}]\b", last):
        return Found(None, "a list of options")
    # "C) Oslo", "C. Oslo", "C, because …", "C\n…", "C - …" at the beginning, unless the last line is a letter
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
    """The only letter of a line; None for several letters, and for an "A" or "I" that may be a word."""
    seen: set[str] = set()
    for match in re.finditer(rf"(?<![\w'’.-])(?<!\bnot )(?<!\bnot \()([{letters}])(?![\w'’-])", line):
        closed = re.match(r"\s*(?:[).,:;!]|$)", line[match.end() :]) is not None
        if match[1] not in "AI" or closed or (match[1] == "A" and match.start() > 0):
            seen.add(match[1] if match[1] not in "AI" or closed else "")
    return seen.pop() or None if len(seen) == 1 else None


def _without_echo(text: str, letters: str, options: Sequence[str]) -> str:
    """The text without lines that only repeat an option, if the reply repeats all of them."""
    lines, echoed = text.split("\n"), {}
    for number, line in enumerate(lines):
        letter = _whole_option(line, letters, options)
        if letter is not None:
            echoed.setdefault(letter, number)
    if len(echoed) < max(len(options), 2):
        return text
    return "\n".join(line for number, line in enumerate(lines) if number not in echoed.values())


def _without_doubts(text: str, letters: str, options: Sequence[str]) -> str:
    """The text with "…" for letters that it denies ("A and C are wrong") or leaves open ("A or B")."""
    one = rf"(?<![\w'’-])(?!I\s+[a-z])(?:\(?[{letters}]\)?|\([{letters.lower()}]\))(?!['’-]?\w)"
    several = rf"{one}(?:(?:\s*,|(?:\s*,)?\s*(?:\b(?:and|or|nor)\b|[/&]))\s*{one}){{1,20}}"
    for denial in (
        # "Wrong answers: A, B"
        rf"(?i:\b(?:wrong|incorrect)\s+answers?)\s*(?:(?:is|are|was|were|[:=])\s*)?(?:{several}|{one})",
        # "not (A)", "isn't option C", "neither A nor B"
        rf"(?i:not|n['’]t|neither)(?:\s+be)?\s+(?:(?:the\s+)?(?:option|choice|answer)\s+)?"
        rf"{one}(?:,?\s+(?:or|nor)\s+{one}){{0,20}}(?!\s+is\b)",
        # "A and C are both wrong", "(C) is incorrect"
        rf"(?:{several}\s+(?=are|were)|{one}[.:]?\s+){_DENIED}",
    ):
        text = re.sub(denial, "…", text)

    def unless_an_option(found: re.Match[str]) -> str:
        match = _normalised(found[0])  # "both A and B" may be the text of an option
        apart = "," in found[0] and not re.search(r"[/&a-z]", found[0])  # "(A), (B) being wrong"
        return found[0] if apart or any(match in option for option in options) else "…"

    # "A or B", "A/B", "(A) (B)", but not "A and B is …", where a verb follows
    verb = r"\s+(?:is|was|can|would|has|does)\b"
    return re.sub(rf"{several}(?!{verb})|\([{letters}]\)(?:[ \t]*\([{letters}]\))+", unless_an_option, text)


def _bare_start(tail: str, letters: str) -> str | None:
    """The letter that a text begins with as a sentence of its own: "B." after "Actually,"."""
    return match[1] if (match := re.match(rf"\(?([{letters}])\)?\s*(?:[.!\n]|$)", tail)) else None


def _whole_option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of a text that is one option and nothing else: "Rome", "B. Rome", "(b) rome"."""
    whole = _normalised(text[:READ_AT_MOST])
    if whole.upper() in letters or len(text) > READ_AT_MOST:  # a letter is a letter, also where it is an option's text
        return None
    pairs = [(letter, option) for letter, option in zip(letters, options, strict=False) if option]
    fitting = [
        a for a, option in pairs if whole == option or whole in (f"{a.lower()}{m}{option}" for m in (". ", ") "))
    ]
    fitting = fitting or [letter for letter, option in pairs if whole == f"({letter.lower()}) {option}"]
    return fitting[0] if len(fitting) == 1 else None


def _normalised(text: str) -> str:
    """Lower case, single spaces, no quotes and no full stop at the end."""
    return " ".join(text.lower().replace('"', " ").split()).rstrip(".").strip()
