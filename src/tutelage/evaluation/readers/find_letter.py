"""Find the letter that a reply to a multiple-choice question settles on. The cues: `find_answer.py`.

| tier | found in | example (options Paris, Rome, Oslo) | letter |
|---|---|---|---|
| 0 | a reply that is one option, word for word | "**Rome.**" | B |
| 1. stated | what follows "the answer is", "it is" | "The answer is (A). Wait, no: the answer is (B)." | B |
| 2. chosen | what follows "I choose"; before "is correct" | "I think that (B) is the correct one." | B |
| 3. bare | the whole reply, or its beginning | "C\\n\\nPlants need light." | C |
| 4. bare | the last letter in parentheses, else the only one in the last line | "It has to be this one (B)" | B |

Not read: denied letters ("not (A)", "C is wrong") and a list of all options. A statement of several options ("(A) or
(B)", offered or not), one that is not offered, or none ("neither of them") is no answer, whatever was stated before it;
a later statement or a change of mind overrules it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from tutelage.evaluation.readers.cues import CHOSEN, IS, STATED
from tutelage.evaluation.readers.find_answer import (
    JOINT,
    READ_AT_MOST,
    Found,
    last_line,
    last_read,
    plain,
)
from tutelage.evaluation.readers.find_refusal import (
    ANSWER_CANNOT,
    chooses_none,
    closest,
    gives_up,
    last_refusal,
    left_undecided,
    names_no_option,
    no_answer_known,
    refused_flatly,
    refuses,
    same_refusal,
    sentence_before,
    takes_back,
)
from tutelage.evaluation.readers.judged_letters import (
    DENIAL,
    HIDDEN,
    NO_SINGLE,
    concludes_several,
    denied_at,
    is_conclusion,
    judged_right,
    normalised,
    preferred,
    without_doubts,
    without_own_texts,
)
from tutelage.evaluation.readers.last_statement import last_sentence, left_open_at
from tutelage.evaluation.readers.not_stated import with_spaces
from tutelage.evaluation.readers.second_answer import NO_PRONOUN, SEVERAL, names_another
from tutelage.evaluation.readers.taken_back import LEADING_NO, after_change, denied_by_name, looked_again

_IT_IS = re.compile(  # "it must be (B)"
    rf"\b(?:it|that|this)(?:'s|\s+(?!was|were){IS})\s+"
    r"(?=(?:(?:option|choice)\s+)?(?:[(\[]|(?-i:(?=[A-Z])))[A-Z]\b(?!['’]\w)|(?:both\s+|either\s+)?⁂)",
    re.I,
)
_LEAD = r"\s*(?:(?:[-*•]|\d[.)])\s+)?(?:\b(?:option|choice|letter|answer)s?\b:?\s*)*"  # "option B" after a cue
_COULD_BE = re.compile(
    rf"\banswers?\s+(?:could|can|may|might)\s+(?:also\s+)?be\s+(?=(?:either\s+|both\s+)?{SEVERAL})", re.I
)
_FORCED = re.compile(  # "The answer is not listed, but if I had to choose, I would say (G)"
    r"\bif\s+(?:(?:I|we)(?:\s+(?:had|have|must|were\s+forced))?(?:\s+to)?|forced\s+to|pressed\s+to)\s+"
    r"(?:choose|guess|pick|answer|select|decide)(?:\s+one)?,?\s+(?:(?:I|we|it)(?:['’](?:d|ll)|\s+would|\s+will)\s+)"
    r"(?:say|choose|guess|pick|select|be|go\s+(?:with|for))\s+(?=(?:option\s+)?\(?[A-Z]\b)",
    re.I,
)
_BETTER = re.compile(
    r"\b(?:(?:a\s+better|the\s+best)\s+\w+\s+(?:would|might)\s+be|I\s+would\s+(?:recommend|suggest))\s+([^\n]+)", re.I
)
_OTHER_LETTER = re.compile(  # "E.", "(E)", "E because", "E) Madrid", "E Madrid" where no such letter is offered
    r"[\s\"'“‘]*(?:[(\[{<]([A-Za-z])[)\]}>]|([A-Z])(?=\s*(?:[.,;:!?)\"'”’]|\n|$|[-–—]\s)|\s+(?:[A-Z][a-z]|"
    r"(?:because|since|as|"
    r"is|and|or|with|for|which|not|rather|instead)\b))|([a-z])(?=\s*(?:[.!]|\n|$)))"
)
_ITEM = r"(?:[-*•]|\d[.)])\s+\W*([A-Z])(?!['’-]?\w)(?!\s+[a-z])[^\n]*(?:\n\s*|$)"  # "1. (A) Paris"


def find_letter(reply: str, letters: str, options: Sequence[str] = ()) -> Found:
    """The letter that a reply settles on. `letters`: such as "ABCD"; `options`: their texts.

    An option's full text after "the answer is" counts as its letter. Lower-case letters count where they cannot be
    words: in parentheses, before punctuation alone, or before a reason ("b because it is big").
    """
    option_texts = [normalised(plain(option)) for option in options]
    text = _without_echo(with_spaces(plain(reply)), letters, option_texts)
    found = _settled_on(text, letters, option_texts)
    several = found.answer and concludes_several(last_sentence(text), found.answer, letters, option_texts)
    return Found(None, "several options at the end") if several else found


def _settled_on(text: str, letters: str, option_texts: Sequence[str]) -> Found:
    """The letter that a reply settles on, whatever its last sentence concludes."""
    denied: set[str] = set()  # by later statements than the one that is read

    def read(tail: str) -> str | None:
        denied.update(denied_at(tail, letters))
        found = _statement(tail, letters, option_texts)
        return NO_SINGLE if found in denied else found

    whole = _whole_option(text, letters, option_texts)
    if whole is not None:
        return Found(whole, "the whole reply")
    said = text
    text = _COULD_BE.sub(f"the answer is {SEVERAL} ", without_doubts(text, letters, option_texts))
    text = _FORCED.sub("the answer is ", text)
    changed = after_change(text)
    if changed is not None:
        refused = LEADING_NO.match(changed) is not None  # "Actually, no. …"
        changed = LEADING_NO.sub("", changed)
        early = re.match(rf"\(?([{letters}])\)?\s*(?:[.!\n]|$)", changed)  # "B." after "Actually,"
        later = Found(early[1], "stated") if early else _stated_letter(changed, letters, option_texts, read)
        none = left_undecided(changed) or (_no_single(changed, letters) and not refuses(changed))
        if later is None and none and _bare_letter(changed, letters, ends=True).answer is None:
            later = Found(None, "")
        if later is None and refused and (bare := _bare_letter(changed, letters, ends=True)).answer:
            later = bare
        if later is None and (rather := preferred(changed, letters, option_texts)):
            later = Found(rather, "preferred")
        if later is not None:
            return Found(later.answer, _how(later.answer, "stated after a change of mind"))
        denied.clear()
    stated = _stated_letter(text, letters, option_texts, read)
    again = looked_again(text) if stated is not None and stated.answer else None
    if stated is not None and stated.answer and again is None:  # "The answer is B. … So B is wrong and D is right."
        after = text[max((match.end() for match in STATED.finditer(text)), default=len(text)) :]
        again = after if chr(HIDDEN + letters.index(stated.answer)) in after else None
    rather = preferred(again, letters, option_texts) if again else None
    if rather is not None:
        return Found(rather, "preferred after a look at the answer before it")
    flat = refused_flatly(text)
    if flat > _last_cue(text):
        answer = closest(text[flat:], letters, option_texts)
        answer = answer or _like_option(sentence_before(text, flat), letters, option_texts)
        denied_later = answer is not None and chr(HIDDEN + letters.index(answer)) in text[flat:]
        return Found(None if denied_later else answer, "no option fits")
    cues = [match.end() for match in STATED.finditer(text)]
    if stated is not None:
        own = dict(zip(letters, option_texts, strict=False)).get(stated.answer or "", "")
        if stated.answer and (
            chr(HIDDEN + letters.index(stated.answer)) in (changed or "") + (looked_again(text) or "")
            or denied_by_name(said, _last_cue(said), stated.answer, own)
        ):
            return Found(None, "taken back")  # "The answer is D. Wait, D is wrong."
        back = takes_back(text)
        if back > max(cues, default=-1):
            return Found(_like_option(text[back:], letters, option_texts), "no option is chosen")
        open_at = left_open_at(text)
        if open_at >= 0 and not cues and not CHOSEN.search(text):  # "This is option B. The question is ambiguous."
            return Found(_like_option(text[open_at:], letters, option_texts), "the question is left open")
        return stated
    return _bare_letter(text, letters, cues[-1] if cues else 0, option_texts)  # what is stated is unreadable


def _last_cue(text: str) -> int:
    """Where the text after the last cue begins; −1 without one."""
    return max((match.end() for cue in (STATED, _IT_IS, CHOSEN) for match in cue.finditer(text)), default=-1)


def _statement(tail: str, letters: str, options: Sequence[str]) -> str | None:
    """What a text after a cue states: a letter, NO_SINGLE, or None where it states nothing that can be read."""
    if _lists_several(tail, letters):
        return NO_SINGLE
    bare = re.sub(r"\A\s*(?:both|either|between)\s+", "", tail)
    letter, option = _letter_at(bare, letters), _option_at(tail, letters, options)
    if letter is not None and (option is None or len(options[letters.index(option)]) < 3):  # not "I, II and III"
        return NO_SINGLE if _another_follows(bare, letter, letters, options) else letter
    option = option or _option_at(bare, letters, options)
    if option is not None:
        return NO_SINGLE if _another_text_follows(tail, option, letters, options) else option
    if refuses(tail):
        return _like_option(tail, letters, options) or NO_SINGLE
    return NO_SINGLE if _no_single(tail, letters) or names_no_option(tail, letters, options) else None


def _no_single(tail: str, letters: str) -> bool:
    """Whether a text begins with several letters, a letter that is not offered, or a refusal of all of them."""
    lead = re.match(_LEAD, tail)
    rest = tail[lead.end() if lead else 0 :][:400]
    before = r"(?:both|either|between|all|any|one|two|three|of|probably|likely|also|options?|a\s+toss-?up)\b[\s:,]*"
    if re.match(rf"[\s\"'“‘(\[]*(?:{before})*(?:{SEVERAL}|[{letters}]{{2,4}}\W*?(?:[.,;!\n]|$))", rest):
        return True
    other = _OTHER_LETTER.match(rest)
    if other and next(filter(None, other.groups())).upper() not in letters:
        return True
    a_range = rf"\(?[{letters}]\)?\s*(?:to|through|[-–—])\s*\(?[{letters}]\)?\s*(?:[.,;!\n]|$)"  # "A to C"
    return re.match(a_range, rest) is not None or refuses(rest)


def _lists_several(tail: str, letters: str) -> bool:
    """Whether a text begins with a list of several options, not of all of them, and calls none wrong."""
    listed = re.match(rf"\s*(?:{_ITEM}){{2,20}}", tail)
    if listed is None or re.search(rf"\b(?:wrong|incorrect|false|not|too)\b|n['’]t\b|{DENIAL}", listed[0], re.I):
        return False
    return 1 < len(set(re.findall(_ITEM, listed[0]))) < len(letters)


def _another_follows(tail: str, letter: str, letters: str, options: Sequence[str]) -> bool:
    """Whether another option stands beside the letter that a text begins with: "(A) → (C)", "A, but B is right too"."""
    tail = without_own_texts(tail[:700], letters, options)
    lead = re.match(rf"{_LEAD}[\s\"'“‘(\[{{<]*", tail, re.I)  # as in `_letter_at`, which found the letter behind it
    start = lead.end() if lead else 0
    return names_another(tail[start + 1 :], letter, letters, wrapped=tail[:start].endswith(("(", "[", "{", "<")))


def _another_text_follows(tail: str, letter: str, letters: str, options: Sequence[str]) -> bool:
    """Whether the text of one option is followed by that of another: "Paris or Rome", "Paris (A) and Rome (B)"."""
    start, own = normalised(tail)[:2000], options[letters.index(letter)]
    match = re.match(
        rf"(?:both |either )?(?:the |an? )?{re.escape(own)}(?: \({letter.lower()}\))?{JOINT}(?:the |an? )?", start
    )
    rest = start[match.end() :] if match else ""
    others = (re.escape(option) for one, option in zip(letters, options, strict=False) if one != letter and option)
    return any(re.match(rf"{other}(?: \([a-z]\))?\s*(?:[.,;:!?)]|$|and\b|or\b)", rest) for other in others)


def _like_option(tail: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the only option that refuses as a text does: "None of these" for "none of the above"."""
    fitting = [one for one, option in zip(letters, options, strict=False) if option and same_refusal(option, tail)]
    return fitting[0] if len(fitting) == 1 else None


def _how(answer: str | None, how: str) -> str:
    return how if answer else f"{how}: no single option"


def _letter_at(tail: str, letters: str) -> str | None:
    """The letter that a text begins with: "B", "(B)", "[B]", "b)", "option B." but not the article of "a planet"."""
    match = re.match(
        rf"{_LEAD}([\s\"'“‘(\[{{<]*)([{letters}{letters.lower()}])(?!\w|['’-]\w)(\s*[)\]}}>]?)", tail, re.I
    )
    if match is None:
        return None
    letter, after = match[2], tail[match.end(2) :]
    wrapped = bool(re.search(r"[(\[{<]", match[1])) and bool(match[3].strip())
    ends = re.match(r"\s*(?:[)\]}.,:;!?(\"'”’]|\n|$|-|–|—)", after) is not None
    certain = letter.isupper() and letter not in "AI"
    # "A" and "I" are words too: they count in brackets or before punctuation, A (and b) also before a reason
    argued = letter not in "Ii" and re.match(
        r"\s+(?:because|since|as|is|and|with|for|if|when|which|due|over|rather|instead)\b", after
    )
    return letter.upper() if wrapped or ends or certain or argued else None


def _option_at(tail: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of the longest option that a text begins with ("Rome in Georgia", not "Rome"); None for equal ones."""
    start = normalised(tail)[:2000]
    fitting = [
        (len(option), letter)
        for letter, option in zip(letters, options, strict=False)
        if option and re.match(rf"(?:the |an? )?{re.escape(option)}(?!\w|[.,]\d)", start)
    ]
    longest = [letter for length, letter in fitting if length == max(fitting)[0]]
    return longest[0] if len(longest) == 1 else None


def _stated_letter(text: str, letters: str, options: Sequence[str], read: Callable[[str], str | None]) -> Found | None:
    """The letter that tier 1 finds, else tier 2; none where the last line chooses several, or one not offered."""
    stated = last_read(text, (STATED, ANSWER_CANNOT, _IT_IS), read)
    judged = judged_right(text, letters, options)
    if judged[1] and gives_up(text[judged[0] :]):
        judged = judged[0], NO_SINGLE
    if judged[0] > stated[0] and is_conclusion(text[: judged[0]]):  # "So B is the right answer" states it
        stated = judged
    chosen = max([last_read(text, (CHOSEN,), read), judged], key=lambda one: one[0])
    ends = chosen[1] == NO_SINGLE and chosen[0] > stated[0] and "\n" not in text[chosen[0] :].strip()
    for tier, (_, found) in (("chosen", chosen),) if ends else (("stated", stated), ("chosen", chosen)):
        if found is not None:
            return Found(found or None, _how(found, f"{tier} as the answer"))
    return None


def _bare_letter(text: str, letters: str, start: int = 0, options: Sequence[str] = (), *, ends: bool = False) -> Found:
    """Tiers 3 and 4: a letter that nothing calls the answer.

    Tier 4 reads the text from `start` on. `ends`: read only tier 4.
    """
    bare = rf"\W*(?:\b(?:option|choice|answer|letter)\W+)?([{letters}{letters.lower()}])\W*"
    whole = re.fullmatch(bare, text, re.I)
    if whole:
        return Found(whole[1].upper(), "the whole reply")
    letter_line = r"\W*(?:\d+[.)]\W*)?(?:(?i:option|choice|answer|letter)\W+)?([A-Z])\W*"
    ending = [re.fullmatch(letter_line, line) for line in text.split("\n") if line.strip()][-2:]
    if len({line[1] for line in ending if line}) > 1:
        return Found(None, "several options")
    start_letter = re.match(rf"\W*(?:\b(?i:option|choice|answer)\W+)?{NO_PRONOUN}([{letters}])(?!\w)", text)
    if start_letter and _another_follows(text, start_letter[1], letters, options):
        return Found(None, "several options")
    # "A. Paris\nB. Rome\nC. Oslo" lists the options and answers nothing
    last, listed = last_line(text), re.findall(rf"(?<!\S)\(?([{letters}])(?:[).:]\s|[).:]?$)", text, re.M)
    items = re.findall(rf"^[^\w\n]*([{letters}])[).:]\s", text, re.M)
    if len(listed) > 1 and letters.startswith("".join(listed)) and re.match(rf"\W*[{listed[0]}{listed[-1]}]\b", last):
        return Found(None, "a list of options")
    own_line = re.match(rf"\W*(?:\b(?i:option|choice)\s+)?([{letters}])\W*?\n", text)
    rest = text[start:]
    wrapped = list(re.finditer(rf"\(([{letters}])\)", rest))
    open_at = left_open_at(text)
    refusal = max(last_refusal(text), open_at, no_answer_known(text, start))
    better = _BETTER.search(last_sentence(text))
    if better and names_no_option(better[1], letters, options):
        return Found(None, "what is recommended is not offered")
    chosen = re.search(rf"\([{letters}]\)\W*\Z", text[max(refusal, 0) :])  # "It is hard to say, but (B)."
    # "C) Oslo", "C. Oslo", "C, because …", "C\n…", "C - …" at the beginning, unless the last line is a letter
    opening = re.match(
        rf"\W*(?:\b(?i:option|choice)\s+)?([{letters}])(?:\)\s|[.:]\s|(?<!I)\)?,(?!\s*\(?[{letters}]\b)|\s*\n|"
        r"\s[-–—]\s)",
        text,
    )
    lists = "".join(listed[:2]) == letters[:2] or (len(items) > 1 and "".join(items[:2]) in letters)
    opens = opening and not ends and not lists and not re.fullmatch(bare, last, re.I)
    # "(B) starts with …. (A) has …": no answer stands at the beginning
    discusses = re.match(rf"\([{letters}]\)\s+[a-z][^\n]*?[.!?\n]\s*\([{letters}]\)\s+[a-z]", text)
    if (
        refusal >= 0
        and not chosen
        and not own_line
        and (not opens or open_at >= 0 or discusses or chooses_none(text[refusal:]))
    ):
        return Found(_like_option(text[refusal:], letters, options), "no option is chosen")
    foreign = re.fullmatch(
        r"\W*(?:(?i:option|choice|letter)\W+)?([A-Z])(?:\W*|\)[.:]?\s+[^.]{1,60}\.?|\.\s+[A-Z]\w+\W*)", last_line(rest)
    )
    if foreign and foreign[1] not in letters:
        return Found(None, "no single option in the last line")
    if opening and opens:
        return Found(opening[1], "the reply's beginning")
    last = last_line(rest)
    if SEVERAL in last and not re.search(rf"(?<!\w)[{letters}](?!\w)", last):
        return Found(None, "several options")
    if wrapped and chr(HIDDEN + letters.index(wrapped[-1][1])) in rest[wrapped[-1].end() :]:
        return Found(None, "the last letter in parentheses is denied later")
    if all(chr(HIDDEN + number) in rest for number in range(len(letters))):
        return Found(None, "all options are denied")
    sentence = re.split(r"[\n.;!?](?!\w)", rest[: wrapped[-1].end()])[-1] if wrapped else ""
    if wrapped[1:] and _another_follows(rest[wrapped[-2].start() :], wrapped[-2][1], letters, options):
        return Found(None, "several options")
    if len(set(re.findall(r"\(([A-Z])\)", sentence))) > 1:
        return Found(None, "several options")
    begins_line = wrapped and re.search(r"(?:\A|\n)[^\w\n]*\Z", rest[: wrapped[-1].start()])
    in_list = begins_line and len(items) > 1 and items.count(wrapped[-1][1]) == 1
    if in_list and re.match(rf"\W*{wrapped[-1][1]}\)", last):
        return Found(None, "a list of options")
    if wrapped and not in_list:
        return Found(wrapped[-1][1], "the last letter in parentheses", stated=False)
    alone = _standing_alone(last, letters)
    return Found(alone, "the last line's only letter", stated=False) if alone else Found(None, "no answer stated")


def _standing_alone(line: str, letters: str) -> str | None:
    """The only letter of a line; None for several letters, and for an "A" or "I" that may be a word."""
    seen: set[str] = set()
    for match in re.finditer(rf"(?<![\w'’.-])(?<!\bnot )(?<!\bnot \()([{letters}])(?![\w'’-])", line):
        closed = re.match(rf"\s*(?:[).,:;!|]|$|\(?[{letters}]\)?\W*$)", line[match.end() :]) is not None
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


def _whole_option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """The letter of a text that is one option and nothing else: "Rome", "B. Rome", "(b) rome"."""
    whole = normalised(text[:READ_AT_MOST])
    if whole.upper() in letters or len(text) > READ_AT_MOST:  # a letter is a letter, also where it is an option's text
        return None
    pairs = [(letter, option) for letter, option in zip(letters, options, strict=False) if option]
    fitting = [
        a for a, option in pairs if whole == option or whole in (f"{a.lower()}{m}{option}" for m in (". ", ") "))
    ]
    fitting = fitting or [letter for letter, option in pairs if whole == f"({letter.lower()}) {option}"]
    return fitting[0] if len(fitting) == 1 else None
