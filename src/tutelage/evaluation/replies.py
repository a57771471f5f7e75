"""Score replies to a benchmark: those of a file, or those that `run_benchmarks` sampled.

A file has one JSON object per line, {"id": …, "response": …}. InFoBench also takes a judge's answers, {"id": …,
"judgements": ["yes" | "no" | null, …]}. Nothing here loads a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.common.checksums import seal
from tutelage.common.errors import TutelageError, listed
from tutelage.common.files import write_atomically
from tutelage.evaluation.benchmarks import JUDGED, WITH_COMET, benchmark
from tutelage.evaluation.benchmarks.base import Benchmark, Item, Reply
from tutelage.evaluation.benchmarks.data import data_folder, read_lines
from tutelage.evaluation.chance import chance_warning
from tutelage.evaluation.readers.thoughts import read_reply, unended_notice
from tutelage.evaluation.records import ExampleRecord, write_records, write_result

if TYPE_CHECKING:
    from tutelage.evaluation.judges.endpoint import JudgeEndpoint

RESPONSES_FILE = "responses.jsonl"  # of kept replies
GIVEN = {"model": "given with the replies", "rules": "unknown", "decision": "unknown", "fingerprint": ""}
_NAMED = 10  # ids in a one-line message; the result holds all of them


@dataclass(frozen=True)
class ReplyFile:
    """The replies of a file by id, and the ids with which something is wrong."""

    replies: dict[str, Reply]
    missing: tuple[str, ...] = ()  # of the items asked for, without a reply
    unknown: tuple[str, ...] = ()  # not ids of the benchmark
    doubled: tuple[str, ...] = ()  # with more than one reply; none of them is scored


@dataclass(frozen=True)
class Evaluation:
    """A scored benchmark: the content of `result.json`, and the records of `examples.jsonl`."""

    result: dict[str, Any]
    records: list[ExampleRecord]
    given: Mapping[str, Reply] = field(default_factory=dict)  # the replies of a file, by id


def score_file(
    task: str,
    file: Path,
    data_dir: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    judge: JudgeEndpoint | None = None,
) -> Evaluation:
    """Score a file of replies; the result has `missing`, `unknown` and `doubled` ids beside the numbers.

    `n` counts the examples that have a reply. With `limit` only the examples that it draws are scored, and replies to
    other examples of the benchmark are ignored. Raises TutelageError for a file or data that cannot be read.
    """
    bench, folder = benchmark(task), data_folder(data_dir)
    everything = bench.load(folder, None, seed)
    items = everything if limit is None else bench.load(folder, limit, seed)
    found = read_replies(bench, file, items, {item.id for item in everything})
    records, notices = score(bench, items, found.replies, judge)
    result = bench.summarise(records) | scored_by(bench, records, judge)
    named = {"missing": found.missing, "unknown": found.unknown, "doubled": found.doubled}
    notices += id_notices(named, len(items))
    chance, warnings = with_chance(bench, items, records)
    notices += warnings
    about = {**{kind: list(ids) for kind, ids in named.items()}, "limit": limit, "seed": seed}
    result |= {**chance, **about, "reading": bench.reading, "notices": notices}
    return Evaluation(result, records, found.replies)


def was_given(result: Mapping[str, Any]) -> bool:
    """Whether the result is one of `score_file`."""
    return "missing" in result


def write_evaluation(folder: Path, bench: Benchmark, evaluation: Evaluation) -> None:
    """Write records, result and page to the folder. GPQA's texts are sealed in the records and not on the page."""
    from tutelage.evaluation.page import write_page

    write_records(folder, [_concealed(bench, record) for record in evaluation.records])
    write_result(folder, evaluation.result)
    write_page(folder, include_text=bench.may_be_shown)
    if evaluation.given:  # so that they can be scored again
        lines = (seal(_as_row(bench, id, reply)) for id, reply in evaluation.given.items())
        write_atomically(folder / RESPONSES_FILE, "".join(lines))


def _as_row(bench: Benchmark, id: str, reply: Reply) -> dict[str, Any]:
    """What `_reply` reads."""
    row = {"id": id, "response": bench.conceal(reply.text), "finished": reply.finished, "tokens": reply.tokens}
    more = {"shots": reply.shots, "judgements": reply.judgements, "likelihoods": reply.likelihoods}
    return row | {key: value for key, value in more.items() if value is not None}


def _concealed(bench: Benchmark, record: ExampleRecord) -> ExampleRecord:
    return replace(record, prompt=bench.conceal(record.prompt), response=bench.conceal(record.response))


def id_notices(ids: Mapping[str, Sequence[str]], total: int) -> list[str]:
    """Sentences about the `missing`, `unknown` and `doubled` ids of a file of replies to `total` examples."""
    kinds = ("missing", "unknown", "doubled")
    return [sentence for kind in kinds if (sentence := _sentence(kind, ids.get(kind, ()), total))]


def problem(result: Mapping[str, Any]) -> str | None:
    """One line about the unknown and doubled ids in a result of `score_file`; None without any."""
    found = [sentence for kind in ("unknown", "doubled") if (sentence := _sentence(kind, result[kind], 0))]
    return "; ".join(found) or None


def refuse_absent(file: Path) -> None:
    """Raise TutelageError for a file of replies that is not there."""
    if not file.is_file():
        state = "is a folder" if file.is_dir() else "does not exist"
        raise TutelageError(f"--responses: {file} {state}; give a JSON Lines file")


def read_replies(bench: Benchmark, file: Path, items: Sequence[Item], known: set[str]) -> ReplyFile:
    """The replies of a file to the items. `known`: all ids of the benchmark, items that are not asked for included.

    Raises TutelageError, naming file and line, for a row that is not a reply.
    """
    refuse_absent(file)
    rows = [(_id(row, f"{file}:{number}"), row, f"{file}:{number}") for number, row in read_lines(file)]
    if not rows:
        raise TutelageError(f'{file}: holds no reply; write one {{"id": …, "response": …}} per line')
    counts = Counter(name for name, _, _ in rows)
    wanted = {item.id for item in items}
    doubled = {name for name, count in counts.items() if count > 1 and name in known}
    replies = {name: _reply(bench, row, where) for name, row, where in rows if name in wanted and name not in doubled}
    return ReplyFile(
        replies,
        missing=tuple(item.id for item in items if item.id not in counts),
        unknown=tuple(name for name in counts if name not in known),
        doubled=tuple(sorted(doubled, key=list(counts).index)),
    )


def score(
    bench: Benchmark,
    items: Sequence[Item],
    replies: Mapping[str, Reply],
    judge: JudgeEndpoint | None = None,
    comet: bool | None = None,
) -> tuple[list[ExampleRecord], list[str]]:
    """Records of the items with a reply, and notices.

    Replies to InFoBench go to the judge, those to FLORES to COMET. A reply that has judgements, or COMET's score, is
    not judged again. `comet`: True needs it, False does without, None takes it where it is set up.
    Raises TutelageError when the judge, or COMET where it is needed, gives no scores.
    """
    notices: list[str] = []
    if bench.name == JUDGED:
        replies, notices = _judged(items, replies, judge)
    if bench.name == WITH_COMET and replies and comet is not False:
        from tutelage.evaluation.benchmarks.flores import with_comet

        try:
            replies = with_comet(items, replies)
        except TutelageError as error:
            if comet:
                raise
            notices = [f"flores: no COMET: {error}"]
    records = bench.score(items, replies)
    unended = sum(read_reply(record.response).unended for record in records)
    return records, [*notices, *unended_notice(bench.name, unended, len(records))]


def scored_by(
    bench: Benchmark,
    records: Sequence[ExampleRecord],
    judge: JudgeEndpoint | None = None,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a result says of the other programs that scored it: {"judge": …} of InFoBench, {"comet": …} of FLORES.

    Both are None where there was none. `before`: what an earlier result said of the judge whose answers were kept.
    """
    if bench.name == WITH_COMET:
        from tutelage.evaluation.judges.comet import MODEL

        return {"comet": MODEL if any(record.scores.get("comet") is not None for record in records) else None}
    if bench.name != JUDGED:
        return {}
    if judge is not None:
        return {"judge": judge.about}
    answered = any(part.get("answer") is not None for record in records for part in record.parts)
    return {"judge": (before or GIVEN) if answered else None}


def with_chance(
    bench: Benchmark, items: Sequence[Item], records: Sequence[ExampleRecord]
) -> tuple[dict[str, float], list[str]]:
    """{"chance": the score of guessing on these examples, 0..100}, and a warning if the headline is not above it.

    Both are empty for benchmarks that cannot be guessed.
    """
    chances = {item.id: item.chance for item in items if item.chance is not None}
    scored = [
        (chances[record.id], score)
        for record in records
        if record.id in chances and (score := record.scores.get(bench.headline)) is not None
    ]
    if not scored:
        return {}, []
    chance = sum(one for one, _ in scored) / len(scored)
    warning = chance_warning(f"{bench.name} ({bench.headline})", [score for _, score in scored], chance)
    return {"chance": 100 * chance}, [warning] if warning else []


def _judged(
    items: Sequence[Item], replies: Mapping[str, Reply], endpoint: JudgeEndpoint | None
) -> tuple[dict[str, Reply], list[str]]:
    asked = [item for item in items if item.id in replies and replies[item.id].judgements is None]
    if not asked:
        return dict(replies), []
    answers = {item.id: read_reply(replies[item.id].text) for item in asked}
    if endpoint is None:
        return dict(replies), [
            f"infobench: {len(asked)} replies are not judged, so they are unscored: name a judge (--judge-url and "
            "--judge-model, or `judge` of a study), or give judgements"
        ]
    from tutelage.evaluation.judges.judge import JudgeItem, judge_questions

    to_judge = [item for item in asked if not answers[item.id].unended]  # a thought without an end meets no condition
    questions = [
        JudgeItem(item.id, item.row["instruction"], item.row["input"], answers[item.id].answer, item.targets)
        for item in to_judge
    ]
    judged: dict[str, tuple[str | None, ...]] = {item.id: ("no",) * len(item.targets) for item in asked}
    for item, row in zip(to_judge, judge_questions(endpoint, questions) if questions else [], strict=True):
        judged[item.id] = tuple(row)
    notice = f"infobench: judged by {endpoint.model}; scores by different judges cannot be compared"
    return {**replies, **{id: replace(replies[id], judgements=row) for id, row in judged.items()}}, [notice]


def _id(row: Any, where: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str | int) or isinstance(row.get("id"), bool):
        raise TutelageError(f'{where}: has no `id`; write {{"id": …, "response": …}}')
    return str(row["id"]).encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be printed


def _reply(bench: Benchmark, row: Mapping[str, Any], where: str) -> Reply:
    from tutelage.evaluation.benchmarks.infobench import normalise

    judged = row.get("judgements") is not None and bench.name == JUDGED
    text = row.get("response", "" if judged else None)
    if not isinstance(text, str):
        raise TutelageError(f'{where}: `response` of `{row["id"]}` is not a text; write "" for an empty reply')
    try:
        text = bench.reveal(text)
    except TutelageError as error:
        raise TutelageError(f"{where}: `response` of `{row['id']}`: {error}") from None
    tokens, shots = (
        row.get("tokens"),
        row.get("shots"),
    )  # counts in files of `run_benchmarks`; other files may have anything there
    return Reply(
        text=text,
        finished=bool(row.get("finished", True)),
        tokens=tokens if isinstance(tokens, int) else 0,
        shots=shots if isinstance(shots, int) else None,
        judgements=normalise(row["judgements"], where) if judged else None,
        likelihoods=_likelihoods(row, where) if bench.name == "arc_challenge" else None,
    )


def _likelihoods(row: Mapping[str, Any], where: str) -> tuple[float, ...] | None:
    values = row.get("likelihoods")
    if values is None:
        return None
    if not isinstance(values, list) or any(not isinstance(value, int | float) for value in values):
        raise TutelageError(f"{where}: `likelihoods` is not a list of numbers; give one per option, or leave it out")
    return tuple(values)


def _sentence(kind: str, ids: Sequence[str], total: int) -> str:
    if not ids:
        return ""
    named = listed(ids, _NAMED)
    one = len(ids) == 1
    if kind == "missing":
        verb = "has no reply and is" if one else "have no reply and are"
        return f"{len(ids)} of {total} examples {verb} left out: {named}"
    if kind == "unknown":
        return f"{len(ids)} {'id is' if one else 'ids are'} not in this benchmark: {named}"
    return f"{len(ids)} {'id has' if one else 'ids have'} more than one reply, of which none is scored: {named}"
