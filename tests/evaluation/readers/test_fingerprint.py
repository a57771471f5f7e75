"""The fingerprint of a reading follows the code that scores, and not its wording."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tutelage import evaluation
from tutelage.evaluation.benchmarks import BENCHMARKS
from tutelage.evaluation.judges.endpoint import JudgeEndpoint
from tutelage.evaluation.readers.fingerprint import code_of, reading_fingerprint
from tutelage.recipe.stages import SftStage, SynthesizeStage
from tutelage.recipe.study import BenchmarkTask, HeldOutTask
from tutelage.runs.fingerprints import evaluation_fingerprint, stage_fingerprint

EVALUATION = Path(evaluation.__file__).parent
FILES = {
    "top/__init__.py": "",
    "top/bench.py": "from top.reader import read\nfrom other.thing import x\n\ndef score():\n    return read(x)\n",
    "top/reader.py": "def read(text):\n    from top.inner import CUES\n    return CUES\n",
    "top/inner.py": "CUES = 'answer  is'\n",
    "top/typed.py": "X = 1\n",
    "top/other.py": "Y = 1\n",
}


def fingerprint(root: Path, **changed: str) -> str:
    for name, text in (FILES | {f"top/{key}.py": text for key, text in changed.items()}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    reading_fingerprint.cache_clear()
    return reading_fingerprint("top.bench", root, "top")


def test_code_counts_wherever_it_is_imported_and_wording_does_not(tmp_path: Path) -> None:
    first = fingerprint(tmp_path)
    assert len(first) == 8
    assert fingerprint(tmp_path, inner="CUES = 'answer is'\n") != first  # a space in a text is code
    assert fingerprint(tmp_path, reader=FILES["top/reader.py"].replace("return CUES", "return None")) != first
    assert fingerprint(tmp_path, other="Y = 2\n") == first  # nothing imports it
    worded = '"""Cues."""\n\n# those that follow\nCUES = \'answer  is\'  # two spaces\n'
    assert fingerprint(tmp_path, inner=worded) == first
    docstring = FILES["top/bench.py"].replace(
        "def score():\n", 'def score():\n    """The score.\n\n    Of a reply.\n    """\n'
    )
    assert fingerprint(tmp_path, bench=docstring) == first


def test_imports_for_annotations_alone_do_not_count(tmp_path: Path) -> None:
    bench = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from top.typed import X\n" + FILES["top/bench.py"]
    first = fingerprint(tmp_path, bench=bench)
    assert fingerprint(tmp_path, bench=bench, typed="X = 2\n") == first


@pytest.mark.parametrize(
    ("library", "reading", "counts"),
    [
        ("lm-eval", BENCHMARKS["ifeval"], True),  # its checks are lm-eval's
        ("langdetect", BENCHMARKS["ifeval"], True),
        ("rouge-score", BENCHMARKS["dialogsum"], True),
        ("sacrebleu", BENCHMARKS["flores"], True),
        ("langdetect", BENCHMARKS["dialogsum"], False),
        ("torch", BENCHMARKS["ifeval"], False),
    ],
)
def test_another_version_of_a_library_that_scores_is_another_reading(
    monkeypatch: pytest.MonkeyPatch, library: str, reading: Any, counts: bool
) -> None:
    reading_fingerprint.cache_clear()
    before, version = reading.reading, metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "99" if name == library else version(name))
    reading_fingerprint.cache_clear()
    assert (reading.reading != before) == counts
    reading_fingerprint.cache_clear()


def test_a_hash_in_a_text_is_no_comment() -> None:
    assert (
        code_of('x = "# not a comment"  # a comment\n\ny = """a\n# b"""\n') == 'x = "# not a comment"\ny = """a\n# b"""'
    )


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        ("readers/find_letter.py", {"bbh", "gpqa", "gpqa_main", "gpqa_diamond", "mmlu_pro", "arc_challenge"}),
        ("readers/find_answer.py", {"bbh", "gpqa", "gpqa_main", "gpqa_diamond", "mmlu_pro", "arc_challenge"}),
        ("benchmarks/mmlu_pro.py", {"mmlu_pro"}),
        ("benchmarks/ifeval.py", {"ifeval"}),
        ("clusters.py", set(BENCHMARKS)),
        ("metrics.py", set(BENCHMARKS)),  # clusters.py imports it
        ("compare.py", set()),
        ("../data/thoughts.py", set(BENCHMARKS)),  # the marks of thoughts
        ("judges/comet.py", {"flores"}),
    ],
)
def test_which_benchmarks_a_file_belongs_to(monkeypatch: pytest.MonkeyPatch, changed: str, affected: set[str]) -> None:
    reading_fingerprint.cache_clear()
    before = {name: bench.reading for name, bench in BENCHMARKS.items()}
    edit(monkeypatch, EVALUATION / changed)
    after = {name: bench.reading for name, bench in BENCHMARKS.items()}
    reading_fingerprint.cache_clear()
    assert {name for name in before if before[name] != after[name]} == affected


def test_the_marks_of_thoughts_are_a_part_of_the_reading_of_recipes_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    first = reading_fingerprint("tutelage.evaluation.tasks")
    edit(monkeypatch, EVALUATION.parent / "data/thoughts.py")
    assert reading_fingerprint("tutelage.evaluation.tasks") != first
    reading_fingerprint.cache_clear()


@pytest.mark.parametrize("changed", ["protocol.py", "../readers/thoughts.py", "../../data/thoughts.py"])
def test_how_a_judge_is_asked_is_a_part_of_its_fingerprint(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    first = JudgeEndpoint("", "some-model").fingerprint
    edit(monkeypatch, EVALUATION / "judges" / changed)
    assert JudgeEndpoint("", "some-model").fingerprint != first
    reading_fingerprint.cache_clear()


def test_the_script_of_the_official_rules_is_a_part_of_a_judges_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    own, official = (JudgeEndpoint("", "some-model", rules=rules) for rules in ("own", "official"))
    before = own.fingerprint, official.fingerprint
    monkeypatch.setattr("tutelage.evaluation.judges.endpoint.SCRIPT", "https://localhost/another")
    assert (own.fingerprint, official.fingerprint != before[1]) == (before[0], True)


def edit(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Let a file of code be read as if it had one more line."""
    read_text = Path.read_text

    def edited(self: Path, *arguments: Any, **options: Any) -> str:
        text = read_text(self, *arguments, **options)
        return text + "\nEDITED = 1\n" if self.resolve() == file.resolve() else text

    monkeypatch.setattr(Path, "read_text", edited)
    reading_fingerprint.cache_clear()


@pytest.mark.parametrize(
    ("module", "benchmarks_too"),
    [(name, False) for name in ("columns", "forms", "rows", "sources", "dataset", "encode_rows", "align_rows")]
    + [(name, False) for name in ("left_out", "teacher_prompts")]
    + [(name, True) for name in ("chat_template", "template_text", "thoughts", "whole_text")],
)
def test_the_code_that_turns_files_into_tokens_is_in_the_fingerprint_of_what_reads_them(
    monkeypatch: pytest.MonkeyPatch, module: str, benchmarks_too: bool
) -> None:
    stage, task = SftStage(kind="sft", name="a", data="rows"), HeldOutTask(data="rows")

    def fingerprints() -> list[str]:
        reading_fingerprint.cache_clear()
        of_data = [stage_fingerprint(stage, None, 0, {}, ["data"], "cpu")]
        of_data += [evaluation_fingerprint(kind, task, 0, {}, ["data"], "cpu") for kind in ("evaluate", "held_out")]
        return [*of_data, evaluation_fingerprint("benchmark", BenchmarkTask(benchmark="bbh"), 0, {}, [], "cpu")]

    before = fingerprints()
    edit(monkeypatch, EVALUATION.parent / "data" / f"{module}.py")
    after = fingerprints()
    reading_fingerprint.cache_clear()
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, False, False, not benchmarks_too]


@pytest.mark.parametrize(
    "module", ["synthesis", "filters", "prompts", "words", "likeness", "near_duplicates", "blocks"]
)
def test_the_code_of_a_synthesis_is_in_the_fingerprint_of_its_rows(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    new = SynthesizeStage(kind="synthesize", name="new", gold="rows", rows=9)
    sft = SftStage(kind="sft", name="a", data="rows")

    def fingerprints() -> list[str]:
        reading_fingerprint.cache_clear()
        return [stage_fingerprint(stage, None, 0, {}, ["data"], "cpu") for stage in (new, sft)]

    before = fingerprints()
    edit(monkeypatch, EVALUATION.parent / "synthesis" / f"{module}.py")
    after = fingerprints()
    reading_fingerprint.cache_clear()
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True]
