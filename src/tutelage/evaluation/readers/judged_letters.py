"""Letters that a reply calls right ("(B) is the correct one"), denies ("not A", "B and C are wrong") or leaves open ("A
or B"): marks take the places of the last two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from tutelage.evaluation.readers.find_answer import JOINT
from tutelage.evaluation.readers.find_refusal import FITS
from tutelage.evaluation.readers.second_answer import LETTER, NO_NAME, NO_PRONOUN, SEVERAL, YET

NO_SINGLE = ""  # what a statement answers that chooses no single option
NOUN = r"(?i:\b(?:option|choice|answer|statement|letter)s?)"  # before a letter

_OWN = "\uf100"  # stands for a character of an option's text behind its letter
_FITS = r"(?:fits?|match(?:es)?|suits?|describes?|answers|works?|satisf(?:y|ies)|remains)\b"
_PATTERN = re.compile(
    rf"(?:{NOUN}\s+)?(?<![\w'’])\(?([A-Z⁂])\)?(?P<own>{_OWN}*)"
    rf"(?:\s+(?P<verb>is|are|seems|looks|would be)\s+|:\s+(?:[Tt]his\s+is\s+)?|\s+(?=(?:best\s+)?{_FITS}))"
    r"(?:(?:the|most|only|both|all|(?P<also>also|equally|likewise))\s+)*"
    rf"(?P<right>correct|right|best|true|answer|likely|{_FITS}(?:\s+\w+){{0,5}}?\s+best(?!\s+\w+)|(?:option|choice|one)\s+"
    rf"(?:left|that\s+(?:is\s+consistent|{_FITS})))\b(?P<noun>\s+(?:answer|option|choice|one)\b)?"
)
_SO_IS = re.compile(  # after a judgement: ", and so is (C)", " at first, but so does (B)"
    rf"[^.!?\n]{{0,40}}?[,;]?\s+(?:and|but)\s+so\s+(?:is|does|would)\s+(?:{NOUN}\s+)?\(?([A-Z])(?!\w)"
)
_CONCLUSION = re.compile(  # a sentence's beginning up to "B is the right answer"
    r"(?:^|[.!?,;]\s|\n)[^\w\n]*(?:(?i:so|thus|therefore|hence|then|now|wait|but|and|instead|actually|in\s+fact|"
    r"I\s+(?:now\s+)?"
    r"(?:think|believe|see|realize)(?:\s+that)?)\b[\s,:]*)+"
    rf"(?:{NOUN}\s+)?\(?[A-Z]\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\s+(?:answer|option|choice|one)\Z"
)
_JOINED = re.compile(  # before a letter: "option A and", "A, ", "(A) or"
    rf"(?:{NOUN}\s+)?(?<![\w'’])\(?([A-Z])\)?{_OWN}*(?:,?\s+(?P<word>and|or|as\s+well\s+as)\s+|\s*[,&/+]\s*)\Z"
)


def judged_right(text: str, letters: str, options: Sequence[str] = ()) -> tuple[int, str | None]:
    """Where the last judgement like "(B) is the correct one" ends, and its letter; (−1, None) without one.

    NO_SINGLE where the letter is not offered, another is "also" right, or one sentence, or one subject ("(B) Rome and
    (D) Bonn are"), says so of two.
    """
    text = re.sub(r"\([a-z]\)", lambda found: found[0].upper(), text)
    text = without_own_texts(text, letters, options, _OWN)
    matches = [
        one
        for one in _PATTERN.finditer(text)
        if (one[1] in letters or one["right"] not in ("true", "likely")) and (not one["own"] or _joined(text, one))
    ]
    if not matches:
        return -1, None
    last, found = matches[-1], matches[-1][1]
    if last["also"] and not matches[1:]:  # "equally right", as something else
        return -1, None
    so_is = _SO_IS.match(text, last.end())
    if _joined(text, last) or (so_is and so_is[1] != last[1]):
        found = NO_SINGLE
    for before in matches[:-1]:
        between = text[before.end() : last.start()]
        # in one sentence, or in two with nothing between
        together = not re.search(r"[.!?\n;]|\b(?:but|however|while|although|though|not)\b", between) or re.fullmatch(
            r"(?:[\s.;(]|\b(?:and|also|too|I|think|believe|that|one|answer|option)\b)*", between
        )
        if before[1] != last[1] and (last["also"] or together):
            found = NO_SINGLE
    return last.end(), found if found in letters else NO_SINGLE


_PREFERRED = (  # "(D) is a better answer", "option D fits better", "that leaves D", "I'd go with D"
    r"(?P<before>{noun}?\s*(?<![\w'’])\(?{no_pronoun}(?P<a>[{letters}])\)?{own}*(?![\w'’])[^.!?\n]{{0,60}}?\s(?:(?:is|would\s+be|"
    r"seems|looks|appears)(?:\s+to\s+be)?\s+(?:(?:the|an?|also|now|in\s+fact|\w+ly)\s+)*(?:better|best|correct|right|more|"
    r"most)\b|(?:fits|matches|suits|describes|answers|works)\b[^.!?\n]{{0,40}}?\b(?:better|best)\b))"
    r"|(?P<after>\b(?i:that\s+leaves|go\s+with|choose|pick|select|say|match(?:es)?|fits?|so|therefore|thus|I\s+mean)\s+"
    r"(?:(?i:the|it['’]s|it\s+is)\s+)?{noun}?\s*\(?(?P<b>[{letters}])\)?{own}*(?:\s+better)?(?:\s+instead)?\s*(?:[.!,;\n]|\Z))"
)
_LIMITED = re.compile(r"\b(?:not|if|unless|possibly|perhaps|maybe|partly|also|too|in\s+some)\b|n['’]t\b", re.I)


def preferred(text: str, letters: str, options: Sequence[str] = ()) -> str | None:
    """The letter that a text, after a look at the answer before it, prefers last; None without one."""
    text = without_own_texts(text, letters, options, _OWN)
    found = list(
        re.finditer(
            _PREFERRED.format(noun=f"(?:{NOUN})", letters=letters, own=_OWN, no_pronoun=NO_PRONOUN), text[:2000]
        )
    )
    alone = re.fullmatch(rf"\W*([{letters}])\W*", text)  # after "I mean"
    if alone:
        return alone[1]
    found = [one for one in found if not _LIMITED.search(one[0] + text[one.end() :].partition(".")[0])]
    return (found[-1]["a"] or found[-1]["b"]) if found else None


def is_conclusion(text: str) -> bool:
    """Whether a text ends with a judgement as its conclusion: "So B is the right answer"."""
    return _CONCLUSION.search(text[-200:]) is not None


def _joined(text: str, found: re.Match[str]) -> bool:
    """Whether a different letter is joined to the one that is called right; not in "I looked at A and B is right"."""
    before = _JOINED.search(text, max(0, found.start() - 400), found.start())
    return before is not None and before[1] != found[1] and (found["verb"] != "is" or before["word"] == "or")


def without_own_texts(text: str, letters: str, options: Sequence[str], instead: str = "") -> str:
    """The text with letters alone where an option's own text follows: "(C) Oslo" → "(C)".

    `instead`: takes the place of each character that is left out.
    """
    lower = text.lower()
    for one, option in zip(letters, options, strict=False):
        if not option or option not in lower:
            continue
        own = rf"(\({one}\)|(?<![\w(]){one})([\s)\]}}>.,:\"'”’-]*\(?(?i:(?:the )?{re.escape(option)})(?!\w)\)?)"
        text = re.sub(own, lambda found: found[1] + instead * len(found[2]), text)
    return text


_CONCLUDES = re.compile(  # before letters, where no noun says what they name: not "vitamins C and D"
    rf"{NO_NAME.pattern}|\b(?:options|choices|so|thus|hence|therefore|consequently|accordingly|in|us|get|means)\s+\Z",
    re.I,
)


def concludes_several(sentence: str, letter: str, letters: str, options: Sequence[str]) -> bool:
    """Whether a last sentence concludes with several letters, `letter` among them: "So C and F are effects"."""
    sentence = without_own_texts(sentence, letters, options)
    found = list(LETTER.finditer(sentence))
    named = {(one[1] or one[2] or SEVERAL).upper() for one in found}
    if letter not in named or len(named) == 1:
        return False
    before, after = sentence[: found[0].start()], sentence[found[-1].end() :]
    joints = [sentence[one.end() : other.start()] for one, other in pairwise(found)]
    if not all(re.fullmatch(rf"{JOINT}(?:(?:both|{NOUN})\s+)*", joint) for joint in joints):
        return False
    own_verb = re.match(r"[\s)]+(?:is|was|has|does|[a-z]{3,}s)\b", after) and "or" not in joints[-1]  # "A, and B is"
    named_by_option = any(normalised(sentence[found[0].start() : found[-1].end()]) in option for option in options)
    concludes = found[0][1] or _CONCLUDES.search(before)
    return bool(concludes and not own_verb and not named_by_option and not YET.search(before + after))


# --- Denied, or left open --------------------------------------------------------------------------------

DENIAL = "…"  # replaces letters that are denied, which follow it as characters of HIDDEN
HIDDEN = 0xE000  # the first of the private characters that keep denied letters
_DENIED = (  # "is not", "aren't", "seems wrong", "can't be"
    r"(?:(?:is|was|are|were|seems?|would\s+be)\s*(?:(?:both|all|also)\s+)*"
    r"(?:not|n['’]t|wrong|incorrect|false)|do(?:es)?(?:n['’]t|\s+not)\s+(?:fit|work|match|apply|hold|either)|"
    r"can(?:not|['’]t)\s+be|(?:is|are|can\s+be)\s+(?:ruled\s+out|eliminated))\b"
)
_NEGATED = r"(?:\b(?:wrong|incorrect|not)\b|n['’]t\b)"


def without_doubts(text: str, letters: str, options: Sequence[str]) -> str:
    """The text with marks for letters that it denies ("A and C are wrong") and that it leaves open ("A or B")."""

    def hidden(found: re.Match[str]) -> str:
        kept = re.findall(rf"(?<!\w)\(?([{letters}])\)?(?!\w)", found[0])
        other = "other " if re.match(r"(?i:none of the other)\b", found[0]) else ""
        start = f"None of the {other}options {DENIAL}" if found[0][:4].lower() == "none" else DENIAL
        return start + "".join(chr(HIDDEN + letters.index(one)) for one in kept)

    one = rf"(?<![\w'’-]){NO_PRONOUN}(?:\(?[{letters}]\)?|\((?![{letters}])[A-Z{letters.lower()}]\))(?!['’-]?\w)"
    several = rf"{one}(?:(?:{JOINT}|,?\s*\bnor\b\s*)(?:{NOUN}\s+)?{one}){{1,20}}"
    for denial in (
        rf"(?m:^[^\w\n]*[❌✗✘]\W*{one}[^\n]*|^[^\w\n]*{one}[^\n]*[❌✗✘])",  # "❌ B. Rome", "- B ❌"
        # "Wrong answers: A, B"
        rf"(?i:\b(?:wrong|incorrect)\s+answers?)\s*(?:(?:is|are|was|were|[:=])\s*)?(?:{several}|{one})",
        # "not (A)", "isn't option C", "neither A nor B"; "we can rule out A and B"
        rf"(?i:\bneither)\s+{one}(?:,?\s+(?i:nor|or)\s+{one}){{1,20}}",  # "Neither A nor B is right"
        rf"(?i:not|n['’]t|neither|\bnor|nicht|\bno\s+es|n['’]est\s+pas|anything\s+but)(?:\s+be)?\s+"
        rf"(?:(?:the\s+)?(?:option|choice|answer)\s+)?{one}(?:,?\s+(?:or|nor)\s+{one}){{0,20}}(?!\)?\s+is\b)",
        # "None of (A), (B), (C) is right", "none of the options (A-D)"
        rf"(?i:\bnone\s+of\s+(?:[a-z]+\s+){{0,3}}(?:options?|choices?|answers?)?)[\s,:(]*"
        rf"(?:{several}|[{letters}]\s*[-–]\s*[{letters}]\b)",
        rf"(?i:\b(?:rul|eliminat|exclud)(?:e[sd]?|ing)(?:\s+out)?\s+(?:both\s+)?(?:options?\s+)?)(?:{several}|{one})",
        # "A and C are both wrong", "(C) is incorrect"
        rf"{one}[^.;!?\n]{{0,40}}?,?\s+(?:but|which|though|although)\s+(?i:(?:it|this|that)\s+)?(?:is|was|"
        rf"seems)\s+(?i:not\s+(?:the\s+)?(?:right|"
        r"correct)|wrong|incorrect)\b",  # "The closest is B, but it is not correct"
        rf"(?<!answer is )(?<!answer is \()"
        rf"(?:{several}\s+(?=are|were|can\s+be|do)|{one}[.:]?\s+(?i:this\s+)?){_DENIED}",
    ):
        text = re.sub(denial, hidden, text)

    text = re.sub(rf"(?i:\bwhether)\s+{several}", f"whether {SEVERAL}", text)  # "whether (A) or (B) is right"

    def unless_an_option(found: re.Match[str]) -> str:
        match = normalised(found[0])  # "both A and B" may be the text of an option
        ends = re.match(r"\s*(?:[.;:!?]|\n|$)", found.string[found.end() :])
        joints = re.sub(rf"{NOUN}\s", "", found[0])
        apart = "," in joints and not re.search(r"[/&a-z]", joints) and not ends  # "(A), (B) being wrong"
        return found[0] if apart or any(match in option for option in options) else SEVERAL

    lower = text.lower()
    present = [re.escape(option) for option in options if option and option in lower]
    if len(present) > 1:  # "Both Rome and Oslo are correct"
        texts = "|".join(present)
        named = rf"(?i:(?:the\s+)?(?:{texts}))(?!\w)"
        text = re.sub(rf"(?<!\w){named}\s+(?:and|or)\s+{named}(?={FITS})(?![^.\n]*{_NEGATED})", SEVERAL, text)

    # "A or B", "A/B", "(A) (B)", "option A or option B", but not "A and B is …", where a verb follows
    verb = r"\s+(?:is|was|can|would|has|does)\b"
    return re.sub(
        rf"(?<=ither\s){several}|(?<=oth\s){several}|{one},?\s+or\s+{NOUN}\s+{one}|{several}(?!\)?{verb})|"
        rf"\([A-Z]\)(?:[ \t]*(?:(?:[-–—]|to|"
        rf"through)[ \t]*)?\([A-Z]\))+",
        unless_an_option,
        text,
    )


def denied_at(tail: str, letters: str) -> set[str]:
    """The letters that a text begins by denying."""
    match = re.match(rf"\s*(?:can|is|are)?{DENIAL}([\ue000-\ue019]*)", tail)
    return {letters[ord(one) - HIDDEN] for one in match[1]} if match else set()


def normalised(text: str) -> str:
    """Lower case, single spaces, no quotes and no full stop at the end."""
    return " ".join(text.lower().replace('"', " ").split()).rstrip(".").strip(" '‘’")
