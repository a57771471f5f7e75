"""Letters that a reply denies ("not A", "B and C are wrong") or leaves open ("A or B"): marks take their places."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tutelage.evaluation.readers.find_answer import JOINT
from tutelage.evaluation.readers.find_refusal import FITS
from tutelage.evaluation.readers.judged_right import NOUN
from tutelage.evaluation.readers.second_answer import SEVERAL

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
        start = f"None of the options {DENIAL}" if found[0][:4].lower() == "none" else DENIAL
        return start + "".join(chr(HIDDEN + letters.index(one)) for one in kept)

    one = rf"(?<![\w'’-])(?!I\s+[a-z])(?:\(?[{letters}]\)?|\((?![{letters}])[A-Z{letters.lower()}]\))(?!['’-]?\w)"
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
