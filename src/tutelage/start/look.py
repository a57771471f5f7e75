"""What files hold: the form of their rows, lengths in tokens, bad rows, gaps, languages."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tutelage.common.errors import TutelageError, listed
from tutelage.common.types import Conversation
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.columns import BadRow, bad_lines, json_type, lack_answers, reasons
from tutelage.data.dataset import LoadedData, exact_repetitions, load_dataset
from tutelage.data.encode_rows import encode_all
from tutelage.data.left_out import beside_texts
from tutelage.data.sources import odd_separators, read_rows
from tutelage.data.thoughts import thought_of
from tutelage.recipe.sections import DataConfig
from tutelage.runs.rows.seen import gaps, in_file_order
from tutelage.start.files import Form, find_form, form_of, likely_pair, said_unused, text_columns, without_text
from tutelage.start.languages import languages

FORM_ROWS, TOKEN_ROWS = 200, 5000  # rows that are looked at
MOST_BAD = 0.1  # share of bad rows with which a recipe is still proposed


@dataclass(frozen=True)
class Look:
    """One data section, as it is: all rows, before any split."""

    role: str
    paths: tuple[str, ...]  # as named
    form: Form
    total: int
    bad: tuple[BadRow, ...]
    rows: Sequence[Conversation]
    separators: tuple[str, ...] = ()  # of tables that have others than their names say, in words
    unused: str = ""  # which columns nothing reads, and how to use one
    repeated: tuple[str, ...] = ()  # rows that are left out because they repeat earlier ones: `distinct` in the recipe

    @property
    def targets(self) -> list[str]:
        """The reference answers of all rows."""
        return [text for row in self.rows for text in row.targets]

    @property
    def repetitions(self) -> dict[str, str]:
        """The rows that repeat an earlier one exactly, each with what it repeats, in words."""
        return exact_repetitions(in_file_order(self.rows))

    def distinct(self) -> Look:
        """The same without the rows that repeat earlier ones."""
        again = self.repetitions
        rows = tuple(row for row in self.rows if row.source not in again)
        return replace(self, rows=rows, repeated=tuple(again.values()))

    def lines(self) -> list[str]:
        """What a user should know of it, one line each."""
        share = f", {len(self.bad)} bad" if self.bad else ""
        out = [
            f"{self.role}: {', '.join(self.paths)}: {self.total:,} row{'s' * (self.total > 1)}{share}; {self.form.said}"
        ]
        out += [f"  {line}" for line in (*self.separators, self.unused) if line]
        out += [f"  {line}" for line in bad_lines(self.bad)]
        if again := len(self.repeated):
            what = "row is an exact repetition" if again == 1 else "rows are exact repetitions"
            out.append(f"  {again:,} {what} and left out (`distinct: true`): {listed(self.repeated)}")
        several = sum(sum(m.role == "assistant" for m in row.messages) > 1 for row in self.rows)
        kinds = {
            "with several answers": several,
            "with a system turn": sum(row.messages[0].role == "system" for row in self.rows),
            "with tools": sum(bool(beside_texts(row) & {"tools", "tool_calls"}) for row in self.rows),
            "with thoughts": sum(
                any(thought_of(m) for m in row.messages if m.role == "assistant") for row in self.rows
            ),
            "with references": sum(bool(row.references) for row in self.rows),
        }
        found = [f"{count:,} {what}" for what, count in kinds.items() if count]
        spoken = languages([" ".join(m.content for m in row.messages) for row in self.rows])
        out.append(f"  {'; '.join(found) if found else 'one question and one answer per row'}{spoken}")
        out += [f"  {line}" for line in gaps(self.rows)]
        return out


@dataclass(frozen=True)
class Lengths:
    """Lengths of the training rows. `exact`: in tokens of the student's template; else at 4 characters per token."""

    whole: tuple[int, ...]
    prompts: tuple[int, ...]
    responses: tuple[int, ...]
    exact: bool
    refused: int = 0  # rows that the template cannot render

    def line(self) -> str:
        """One line."""
        how = "tokens" if self.exact else "tokens (a guess, by characters)"
        parts = zip(("row", "answer"), (self.whole, self.responses), strict=True)
        said = "; ".join(f"{n} {min(v):,} to {max(v):,}, median {statistics.median(v):,.0f}" for n, v in parts)
        return f"  {how}: {said}" + (
            f"; the chat template refuses {self.refused} row{'s' * (self.refused > 1)}" if self.refused else ""
        )


def first_rows(paths: Sequence[str]) -> list[dict[str, Any]]:
    """The first rows of a section's files. Raises TutelageError for files that cannot be read, and for no rows."""
    place, first, broken = ", ".join(paths), list[dict[str, Any]](), ""
    for source, row in read_rows("", _section(paths), Path.cwd(), []):
        if isinstance(row, dict):
            first.append(row)
        elif isinstance(row, BadRow):
            broken = broken or row.reason
        else:
            broken = broken or f"{source} is {json_type(row)}, and no object with columns"
        if len(first) == FORM_ROWS:
            break
    if not first and broken:
        table = "; is it a table? Then call it .csv" if "broken JSON" in broken else ""
        raise TutelageError(f"{place}: no row can be read ({broken}){table}")
    if not first:
        raise TutelageError(
            f"{place}: the file has no rows: give one with the columns' names in its first line and rows below"
        )
    return first


def look_at(role: str, paths: Sequence[str], prompt: str | None, completion: str | None) -> Look:
    """Read one section's files. `prompt`, `completion`: columns or templates, where they are known.

    Raises UnknownFormError where only a person can tell the columns, and TutelageError for files that cannot be used.
    """
    place, trained, first, section = ", ".join(paths), role != "test", first_rows(paths), _section(paths)
    columns = text_columns(first)
    if prompt is not None and completion is not None:
        form = form_of(prompt, completion, columns)
    else:
        form = find_form(first, place, trained)
    if form is None:
        raise UnknownFormError(place, columns, without_text(first, columns), likely_pair(first, columns))
    config = section.model_copy(update={**form.keys, "max_bad_rows": 1.0})
    data = load_dataset("", config, Path.cwd(), require_response=trained)
    if len(data.bad_rows) > MOST_BAD * data.total:
        shown = reasons(data.bad_rows)
        lacking = lack_answers(data.bad_rows)
        what = "remove them; a teacher can write more (docs/synthetic.md)" if lacking else "mend or remove them"
        raise TutelageError(f"{place}: {len(data.bad_rows)} of {data.total} rows are bad: {shown}; {what}")
    separators = tuple(odd_separators(section, Path.cwd()))
    unused = said_unused(form, first) if role == "train" else ""
    return Look(role, tuple(paths), form, data.total, data.bad_rows, data.conversations, separators, unused)


def _section(paths: Sequence[str]) -> DataConfig:
    return DataConfig(path=paths[0] if len(paths) == 1 else list(paths))


class UnknownFormError(TutelageError):
    """Which column is the question, and which the answer, is not known. `odd`: what columns hold that are neither.
    `likely`: which two to propose to a person."""

    def __init__(self, place: str, columns: Sequence[str], odd: Mapping[str, str], likely: tuple[str, str]) -> None:
        text = [name for name in columns if name not in odd]
        self.place, self.columns, self.likely = place, [*text, *odd], likely
        what = "which column is the question and which the answer?"
        if len(text) < 2:
            only = f"only `{text[0]}` does" if text else "none does"
            what = f"a question and an answer are two columns with text, and {only}."
        named = [*text, *(f"{name} ({kind})" for name, kind in odd.items())]
        guess = f"; a guess: --prompt {shlex.quote(likely[0])} --completion {shlex.quote(likely[1])}"
        super().__init__(
            f"{place}: {what} Give --prompt and --completion (columns: {', '.join(named)}){guess * (len(text) > 1)}"
        )


def measure(look: Look, template: ChatTemplate | None) -> Lengths:
    """The lengths of rows with answers, under the student's template if there is one. Raises TutelageError if it can
    render none of them."""
    rows = look.rows[:TOKEN_ROWS]
    if template is None:
        whole = [sum(len(m.content) + 20 for m in row.messages) // 4 for row in rows]
        answers = [max(1, (len(row.response or "") + 4) // 4) for row in rows]
        return Lengths(tuple(whole), tuple(w - a for w, a in zip(whole, answers, strict=True)), tuple(answers), False)
    data = LoadedData(rows, (), len(rows), "")
    sequences, report = encode_all(template, data, 10**8, 1.0, ", ".join(look.paths))
    return Lengths(
        tuple(len(one.ids) for one in sequences),
        tuple(one.prompt_length for one in sequences),
        tuple(len(one.ids) - one.prompt_length for one in sequences),
        True,
        len(report.refused),
    )
