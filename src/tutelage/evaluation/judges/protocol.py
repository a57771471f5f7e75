"""How a judge is asked, and how its answers are read.

The code of this file is part of a judged result's fingerprint (`endpoint.py:JudgeEndpoint.fingerprint`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tutelage.evaluation.readers.cues import without_adverbs
from tutelage.evaluation.readers.second_answer import differs_by_case
from tutelage.evaluation.readers.statements import what_holds
from tutelage.evaluation.readers.thoughts import answer_of


@dataclass(frozen=True)
class ChatReply:
    """The answer to one request."""

    text: str | None  # None: there is no usable answer
    reason: str = ""  # why the text is absent or cut


JudgeChat = list[tuple[str | None, ChatReply]]  # per question: yes, no or None, and the reply


def ask_questions(
    ask: Callable[..., ChatReply],
    rules: str,
    input_text: str,
    response: str,
    questions: Sequence[str],
    official: bool,
) -> JudgeChat:
    """Ask the questions about one response, one after the other, in one conversation.

    `ask`: takes the messages, and what tells whether a text is answer enough; `official`: by the benchmark's decision.
    An empty response meets no condition, and nothing is asked about it.
    """
    if not response.strip():
        return [("no", ChatReply("", "the response is empty")) for _ in questions]
    read = read_official if official else read_answer
    messages: list[dict[str, str]] = []
    found: JudgeChat = []
    stopped = ""  # why the later questions are not asked: their context is missing
    for number, question in enumerate(questions, 1):
        if stopped:
            found.append((None, ChatReply(None, f"not asked, because question {stopped}")))
            continue
        content = f"{question}\n" if number > 1 else first_message(rules, input_text, response, question)
        messages.append({"role": "user", "content": content})
        reply = ask(messages, is_enough=lambda text: read(text) is not None)
        text = (reply.text or "") if official else answer_of(reply.text or "").strip()
        messages.append({"role": "assistant", "content": text})
        answer = read(text)
        if not text:
            stopped = f"{number} got no answer"
        elif official and answer is None:
            # the script ends the conversation here, and counts this question with those answered no
            answer, stopped = "no", f"{number} was answered with neither yes nor no"
        found.append((answer, reply))
    return found


def first_message(rules: str, input_text: str, response: str, question: str) -> str:
    """The first message, in the layout of the benchmark's own evaluation: rules, input if any, response, question."""
    shown = f'Input:\n"{input_text}"\n\n' if input_text else ""
    return f'{rules}\n\n{shown}Generated Text:\n"{response}"\n\nQuestion:\n{question}\n'


def read_answer(text: str) -> str | None:
    """ "yes", "no", or None for anything else.

    The first word decides, in any case and markup; else "the answer is yes" (or no); else exactly one of the words YES
    and NO in capitals. What a model thinks before it answers is ignored.
    """
    text = without_adverbs(what_holds(answer_of(text)))
    first = re.match(
        r"[\W_]*(?:(?:the |my |final )*answer(?: is)?[\W_]*)?"
        r"(yes|no(?!\s+(?:idea|way|opinion|answer|doubt|information|clear)\b))(?![^\W_]|['’-]\w)",
        text,
        re.I,
    )
    if first:
        # "Yes and no", "Yes, but also no", "No, wait: yes", "Yes | No"; in "Yes, and no errors" it is not an answer
        more = r"[\W_]+(?:(?:and|or|but|also|however|well|actually|wait|answer)[\W_]+)*(yes|no)\b(?!\s+\w)"
        other = re.match(more, text[first.end() :], re.I)
        several = differs_by_case(text, "yes|no") or (other and other[1].lower() != first[1].lower())
        return None if several else first[1].lower()
    answers = {word.lower() for word in re.findall(r"\banswer(?: is|:)[\W_]*(yes|no)\b", text, re.I)}
    answers = answers or {word.lower() for word in re.findall(r"(?<!\b[Nn]ot )\b(YES|NO)\b", text)}
    return answers.pop() if len(answers) == 1 else None


def read_official(text: str) -> str | None:
    """The decision of the benchmark's own script (`evaluation.py` of github qinyiwei/InfoBench), on the whole text.

    "yes" or "no" for a text that begins with these letters in any case ("Not sure" is a no); else for one that holds
    just one of YES and NO in capitals, as part of a word too; else None.
    """
    start = text.lower()
    if start.startswith("yes"):
        return "yes"
    if start.startswith("no"):
        return "no"
    if ("YES" in text) != ("NO" in text):
        return "yes" if "YES" in text else "no"
    return None
