"""What a reply takes back of what it stated: "That is wrong.", "I take that back.", ", but this is not correct".

A verdict is a clause about the reply's own answer. An odd number of negatives ("it is not right") takes the answer
back, with all that stands before it; an even one ("it is not wrong") upholds it. A verdict is about the answer if it
names it ("my answer", "the above answer"), if it is a formula ("scratch that", "I give up"), or if a pronoun stands for
it: in a statement's sentence, in the next one, or later after a word of doubt ("hmm", "wait"). In "Some say that Paris
is in Italy. However, this is not correct." the pronoun stands for something else.
"""

from __future__ import annotations

import re

from tutelage.evaluation.readers.cues import CHOSEN, STATED

NEGATIVE = re.compile(
    r"\b(?:not|never|cannot|no|nobody|none|nothing|hardly|scarcely|wrong|incorrect|false|untrue|inaccurate|mistaken?|"
    r"error|doubt\w*|disagree\w*|den(?:y|ies|ied)|refus\w+|reject\w*|hesitate|unlikely|impossible|implausible|"
    r"premature|"
    r"question|contradict\w*|violat\w+|far\s+from)\b|n['’]t\b",
    re.I,
)
_DOUBT = (
    r"(?:hm+|oh|hold\s+on|hang\s+on|never\s+mind|my\s+(?:mistake|bad)|oops|whoops|wait|no|sorry|actually|unfortunately|"
    r"apologies|edit|update)"
)
_OPENING = (  # "But wait, I now think that", "However, upon closer inspection,"
    rf"(?:(?:{_DOUBT}|but|and|or|though|although|however|yet|still|so|well|then|please|note|(?:(?:I|"
    rf"we)\s+(?:now\s+|just\s+)?"
    r"(?:think|reali[sz]ed?|see|noticed?|believe|fear|find)|it\s+(?:seems|turns\s+out|appears))(?:\s+now)?(?:\s+that)?|"
    r"(?:upon|on|after)\s+(?:\w+\s+)?(?:inspection|reflection|review|second\s+thoughts?|(?:re-?|"
    r"double-?)?check(?:ing)?))"
    r"\b[\s,.:!…–—-]*){0,6}"
)
_AFTER_LOOKING = (  # "on second thought", "upon further reflection", "after re-evaluating"
    r"(?:on|upon|after)\s+(?:(?:second|further|closer|more\s+careful|careful|some|another|additional|re-?)\s+|a\s+"
    r"(?:second|closer)\s+)?(?:thoughts?|reflection|inspection|look|consideration|review|reading|examination|"
    r"analysis|(?:re-?|double-?)?(?:check|evaluat|consider|examin|read|think)ing(?:\s+(?:about\s+)?(?:it|this|that|again|"
    r"more|the\s+\w+))*)"
)
_BEGINS = r"(?:^|(?<=[.!?…\n;:,(–—-])|(?<=[.!?…;:,–—-]\s))[ \t]*"  # of a sentence or clause
_ENDS = r"(?=\s*(?:[.,;!)\n–—-]|$|(?:because|since|as|either|at\s+all|here|though|however|anyway)\b))"
_ANSWER = r"(?:answer|choice|selection|guess|solution)"
_OWN = (  # "my answer", "the above answer"
    rf"(?:my\s+(?:\w+\s+)?{_ANSWER}|my\s+(?:\w+\s+)?(?:conclusion|reasoning|calculation|analysis|logic)|"
    rf"the\s+(?:above|previous|earlier|first|initial|original)\s+{_ANSWER}|the\s+{_ANSWER}\s+above)"
)
_BE = (
    r"(?:['’]s|\s+(?:(?:is|was|does|did|do|has|would|could|must|should)(?:n['’]t)?|can['’]t|can\s?not|won['’]t|"
    r"seems?|looks?|"
    r"appears?|turn(?:s|ed)?\s+out)\b)"
)
_BETWEEN = (
    r"(?:\s+(?:not|to|be|been|have|now|also|still|really|quite|just|all|in\s+fact|a|an|the|seem|look|n['’]t|\w+ly)\b)*"
)
_JUDGED = (
    r"\s+(?:(?:right|correct|best|wrong|incorrect)\s+(?:answer|choice|option|one)|right|correct|fine|wrong|incorrect|"
    r"(?-i:true|false)|untrue|mistaken|mistake|error|make\s+sense|add\s+up|work(?:\s+out)?|"
    r"violate\s+the\s+(?:\w+\s+)?\w+)"
)
_STANDS = r"\s+(?:still\s+)?(?:stands|holds|works|(?:contradicts|violates)\s+the\s+(?:\w+\s+)?\w+)"
_I_WILL = r"I(?:['’](?:d|ll|m))?(?:\s+(?:will|would|must|have|had|am|going|rather|better|to))*"
_THIS = r"(?:it|(?:this|that|the)(?:\s+(?:one|question))?)"
_WITHDRAWAL = "|".join(
    (
        rf"{_I_WILL}\s+(?:give\s+up|(?:skip|pass)(?:\s+on)?(?:\s+{_THIS})?)",  # "I'll have to pass on this one"
        rf"{_I_WILL}\s+leave\s+{_THIS}\s+(?:open|blank|empty|unanswered|undecided)",
        r"I(?:['’]m|\s+am)\s+(?:\w+ly\s+)?no\s+longer\s+(?:sure|certain)",
        r"I(?:['’]m|\s+am)\s+(?:\w+ly\s+)?(?:not\s+(?:sure|certain)|unsure)\s+which\s+(?:one|of|option|answer)\b[^.,;!?\n]*",
    )
)
_FORMULA = (
    rf"{_WITHDRAWAL}|"
    r"(?:I|we)\s+(?:must\s+|have\s+to\s+)?(?:take|took)\s+(?:that|this|it)\s+back|(?:I|we)(?:\s+have|"
    r"['’]ve)?\s+changed\s+(?:my|our)\s+minds?|"
    r"(?:I|we)(?:\s+have|['’]ve)?\s+mis(?:read|understood|calculated|counted|interpreted)[^.!?\n]*|"
    r"(?:scratch|strike|cancel)\s+that|"
    r"(?:ignore|disregard|forget)\s+(?:that|this|the\s+above|(?:my|the)\s+(?:\w+\s+)?answer)|"
    r"(?:I|we)(?:\s+have|['’]ve)?\s+made\s+an?\s+(?:\w+\s+)?(?:mistake|error)[^.!?\n]*|"
    r"(?:I|we)(?:['’](?:m|re)|\s+(?:am|are|was|were))\s+(?:wrong|mistaken|incorrect)|"
    r"(?:I|we|let\s+(?:me|us)|let['’]s)\s+(?:(?:need|have|want)\s+to\s+)?(?:(?:reconsider|rethink|think\s+again|"
    r"start\s+(?:over|again)|try\s+again|redo|correct\s+(?:that|this|it|myself|my\s+\w+))[^.!?:\n]*|"
    r"(?:withdraw|retract|revise)\s+(?:that|this|it|my)\b(?![^.!?\n]*\sto\s)[^.!?\n]*)"
)
_SHORT = (
    r"nope|(?:that|this|it)\s+(?:can['’]t|can\s?not)\s+be|(?:that|this)(?:['’]s|\s+is)\s+not\s+it|not\s+(?:really|"
    r"quite|correct|right)|"
    r"it(?:['’]s|\s+is)\s+not|it\s+isn['’]t"
)
_ASKS = r"the\s+question\s+ask(?:s|ed)\s+(?:for|about)\s[^.!?,\n]{1,60},\s+not\s[^.!?,\n]{1,60}"  # after "oh wait"
_VERDICT = re.compile(
    rf"{_BEGINS}(?P<opening>{_OPENING})(?:(?:(?P<own>{_OWN})|(?:that|this)(?:\s+{_ANSWER})?|it|which)"
    rf"(?P<verdict>{_BE}{_BETWEEN}{_JUDGED}|{_STANDS}){_ENDS}|"
    rf"(?:(?P<formula>{_FORMULA})|{_SHORT}|(?P<bare>not|wrong|incorrect|{_ASKS}))(?::|{_ENDS}))",
    re.I | re.M,
)
_DOUBTS = re.compile(rf"\b{_DOUBT}\b|\bor\b", re.I)
_SENTENCE_ENDS = re.compile(r"[.!?…](?=\s)|\n")
_WHY = re.compile(r",?\s*(?:because|since|as)\b[^.!?\n]*", re.I)
_REASON = re.compile(r"\b(?:because|since|as|for|whereas|while)\b", re.I)
_OTHERS = re.compile(  # in the text between a statement and a verdict: what a pronoun may stand for as well
    r"\([A-Z]\)|\b(?:option|choice|statement)\s+\(?[A-Z]\b|^\W*[A-Z][.):]|\b(?:say|claim|think|believe|argue|"
    r"assume|suggest)s?\b",
    re.I | re.M,
)

# Changes of mind: what follows them is read first.
_CHANGE = (
    r"(?:wait|actually|correction|finally(?=:)|then\s+again|make\s+(?:that|it)|I\s+meant|sorry|my\s+(?:mistake|bad|"
    r"apologies)|oops|whoops|scratch\s+that|edit(?=:)|no(?=[,:])|"
    rf"{_AFTER_LOOKING}|"
    r"rather(?=\s+\(?[A-Z]\b))"
)
_CHANGES = re.compile(  # "The answer is A. Oh no, wait: actually B" → "B"
    r"(?:^|[.!?…;,:\n()–—-][ \t]{0,3})(?:(?:oh|but|no|hmm|or|so)\b[ ,.!…-]{0,5}){0,3}"
    rf"(?P<change>\b{_CHANGE})(?:[\s,.:;!…–—-]|\b(?:wait|actually)\b)*",
    re.I,
)
_RECHECKS = re.compile(  # other words with which a reply looks at its answer again
    r"\b(?:hmm+|let(?:['’]s|\s+(?:me|us))\s+(?:re-?|double[-\s]?)(?:check|count|read|think|consider|examine|evaluate|"
    r"calculate|visit)|(?:I|we)\s+(?:apologi[sz]e|mis\w+ed|overlooked|forgot|missed)|I\s+mean)\b",
    re.I,
)
_UPHOLDS = re.compile(
    r"\b(?:still|indeed|confirm\w*|same|stands|holds|yes|(?:that|this|it|which|answer|all)(?:['’]s|\s+is)\s+(?:right|"
    r"correct|fine)|checks\s+out)\b",
    re.I,
)
_FIRST_PERSON = re.compile(
    r"\b(?:I|we)(?:['’](?:d|ll)|\s+(?:would|will))\s+(?:now\s+|rather\s+|instead\s+)?(?:go\s+with|choose|pick|select|say)\b",
    re.I,
)
LEADING_NO = re.compile(  # "wait, no: B": the no is not the answer; but "no option fits"
    r"\A(?:no\b(?!\s+(?:\w+\s+)?(?:answer|option|choice)s?\s+\w\w)[\s,.:;!…–—-]*)+", re.I
)


def what_stands(text: str) -> str:
    """What follows the last verdict that takes an answer back and is not itself overruled; all of the text without one.

    "The answer is A. I take that back. It is B." → "It is B."
    """
    start = 0
    for found in _VERDICT.finditer(text):
        if re.match(r"[^.!\n]{0,80}\?", text[found.end() :]):
            continue
        wrong = found["verdict"] is None or len(NEGATIVE.findall(found["verdict"])) % 2 == 1
        if not wrong:
            start = start if _cue_in(text[start : found.start()]) else 0
        elif re.search(r"\w", text[start : found.start()]) and _is_own(text, start, found):
            why = _WHY.match(text, found.end())
            start = why.end() if why else found.end()
    return text[start:].lstrip(" \t.,;:!)–—-") if start else text


def after_change(text: str, no_is_an_answer: bool = False) -> str | None:
    """The text after the last change of mind; None without one, and where nothing comes before it.

    `no_is_an_answer`: a "no" after "Answer:" is one, and not a change.
    """
    changes = list(_CHANGES.finditer(text))
    if no_is_an_answer:
        stated = {match.end() for match in STATED.finditer(text)}
        changes = [one for one in changes if one.start("change") not in stated]
    if not changes or not re.search(r"\w", text[: changes[-1].start("change")]):
        return None
    return text[changes[-1].end() :]


def looked_again(text: str) -> str | None:
    """The text after the last look at an answer that was stated before it ("let me recheck", "hmm", "actually"), or
    from the last "I'd go with" on; None without one, and where the text upholds the answer ("Yes, that's right")."""
    cues = [match.end() for match in STATED.finditer(text)]
    if not cues:
        return None
    looks = [match for pattern in (_CHANGES, _RECHECKS) for match in pattern.finditer(text, cues[-1])]
    first = min(looks, key=lambda one: one.start(), default=None)
    again = text[first.end() :] if first else ""
    chosen = list(_FIRST_PERSON.finditer(text, cues[-1])) if not first else []
    if chosen and "\n" not in text[chosen[-1].start() :].strip():
        again = text[chosen[-1].start() :]
    return again if re.search(r"\w", again) and not _UPHOLDS.search(again) else None


def _is_own(text: str, start: int, found: re.Match[str]) -> bool:
    """Whether a verdict is about what the text states from `start` on."""
    if found["own"] or found["formula"]:
        return True
    doubts = _DOUBTS.search(found["opening"]) is not None
    if found["bare"] and not doubts:
        return False
    before = text[start : found.start()]
    sentences = _SENTENCE_ENDS.split(before)[-60:]
    if re.search(r"\w", sentences[-1]):  # the verdict is a clause: ", but this is wrong"
        cues = _cue_in(sentences[-1])
        return bool(cues) and not _REASON.search(sentences[-1], cues) and len(sentences[-1]) - cues < 60
    said = [one for one in sentences if re.search(r"\w", one)]
    if not said:
        return False
    if _cue_in(said[-1]) or (len(said) == 1 and len(said[0].split()) < 5):
        return True
    cues = _cue_in(before)
    return doubts and bool(cues) and not _OTHERS.search(before[cues:].partition(".")[2])


def _cue_in(text: str) -> int:
    """Where the text after the last cue begins; 0 without one."""
    return max((match.end() for cue in (STATED, CHOSEN) for match in cue.finditer(text)), default=0)


# --- Verdicts that name the answer ---------------------------------------------------------------------------------

_LETTER, _TEXT = "\uf101", "\uf102"  # stand for the stated option's letter, and for its text alone
_NAMED = re.compile(  # "However, C is incorrect", "But 1.65 does not match"; "so it is not H"
    rf"{_BEGINS}(?:(?:therefore|thus|hence)\b[\s,]*)?(?P<opening>{_OPENING})(?:[{_LETTER}{_TEXT}](?P<verdict>{_BE}{_BETWEEN}"
    rf"(?:{_JUDGED}{_ENDS}|\s+(?:ruled\s+out|fit|match|agree|satisfy)\b))|it(?P<not>{_BE}{_BETWEEN})\s+{_LETTER}{_ENDS})",
    re.I | re.M,
)
_WORD, _CONCLUDES = re.compile(r"\w"), re.compile(r"\W*(?:so|therefore|thus|hence)\b", re.I)
_CONTRASTS = re.compile(  # at a sentence's beginning
    r"(?:\A|[.!?…]\s|\n)\W*(?:but|however|though|yet|hm+|wait|oh|actually|sorry|oops)\b", re.I
)
_SUPPOSES = re.compile(
    r"[\"“]|\b(?:if|unless|whether|suppos\w+|assum(?:e|ing)|might|may|says?|claims?|argues?|(?<!I )think)\b", re.I
)
_COMPARES = re.compile(  # "A and D are true, but C is incorrect": that one is asked for
    r"(?<![\w'’])(?:[B-HJ-Z](?![\w'’])|\([A-Z]\))|\b(?:others?|rest|remaining|options|true|correct)\b"
)


def denied_by_name(text: str, start: int, letter: str, option: str) -> bool:
    """Whether a reply takes back, by its letter or text, the option that it states at `start`: "so it is not B".

    "B is incorrect" does so after a contrast ("but"), a second look, or at once ("Therefore"), and only where neither
    other options nor a negative before the statement show that the question asks for what is wrong.
    """
    own = rf"(?i:{re.escape(option)})(?!\w|[.,]\d)" if option else r"(?!)"
    name = rf"(?:\b(?i:option|choice|answer|letter)\s+)?(?<![\w'’])\(?{letter}(?!['’]?\w)\)?(?:[\s:]*\(?{own}\)?)?"
    after = re.sub(rf"(?<![\w.,-])(?i:the\s+)?{own}", _TEXT, re.sub(name, _LETTER, text[start : start + 4000]))
    asks_for_wrong = NEGATIVE.search(_SENTENCE_ENDS.split(text[max(0, start - 200) : start])[-1])
    word, looks, compares = (
        min((one.start() for pattern in patterns if (one := pattern.search(after))), default=len(after))
        for patterns in ((_WORD,), (_RECHECKS, _CONTRASTS), (_COMPARES,))
    )
    denied = False
    for found in _NAMED.finditer(after):
        place = found.start()
        sentence = _SENTENCE_ENDS.split(after[max(0, place - 200) : place])[-1] + found["opening"]
        if _SUPPOSES.search(sentence) or re.match(r"[^.!\n]{0,80}\?", after[found.end() :]):
            continue
        verdict = (found["verdict"] or found["not"]).replace("ruled out", "wrong")
        contrasts = looks < found.end("opening") or _CONTRASTS.match(found["opening"])
        at_once = word >= place and _CONCLUDES.match(found[0])
        if len(NEGATIVE.findall(verdict)) % 2 == 0:
            denied = False
        elif found["not"] or ((contrasts or at_once) and compares >= place and not asks_for_wrong):
            denied = True
    return denied
