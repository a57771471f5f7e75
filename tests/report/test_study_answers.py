from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fake_study import STUDENTS, evaluate, make_study, plan

from tutelage.evaluation.records import ExampleRecord, read_result, write_records, write_result
from tutelage.evaluation.statistics import Paired
from tutelage.report.labels import AVERAGE, short, size_text
from tutelage.report.study.answers import answers, left_out
from tutelage.report.study.claims import claims
from tutelage.report.study.read import build_study
from tutelage.report.study.results import Result, Study
from tutelage.report.study.sentences import Link
from tutelage.study.plan import Cell

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return build_study(make_study(tmp_path_factory.mktemp("words")))


def test_the_answer_names_a_method_for_each_size(study: Study) -> None:
    first, _, translation, *_ = answers(study)
    assert first.text.startswith("Llama-3.2-1B: at 10k–80k use GKD (SFT-S): ")
    assert "; at 939k use SFT, the cheapest to train, nothing was shown to beat it: " in first.text
    assert " With a stronger teacher (Llama-3.3-70B-Instruct) at 939k, GKD-IT scores " in first.text
    assert first.text.endswith("against the same-data teacher's student: use it if you have one.")
    assert translation.text.startswith("Translation: use Two-stage: Llama-3.2-1B ")


def test_every_number_leads_to_its_cell(study: Study) -> None:
    by_anchor = {result.anchor: result for result in study.results.values()}
    for sentence in [*answers(study), *(one for claim in claims(study) for one in claim.evidence)]:
        links = [part for part in sentence.parts if isinstance(part, Link)]
        assert links
        for link in links:
            result = by_anchor[link.anchor]
            if link.text[0].isdigit() and float(link.text) > 1:  # a score, not a difference
                assert f"{result.value:.1f}" == link.text


def test_claims_follow_the_numbers(study: Study) -> None:
    outcome = {claim.text.split(" (")[0]: claim.outcome for claim in claims(study)}
    assert outcome["Distilling beats SFT with little data"] == "held"
    assert outcome["The gap closes as data grow"] == "held"
    assert outcome["Starting from the SFT student is no worse than from the base"] == "held"
    assert outcome["A stronger teacher restores the gain at full size"] == "held"
    assert outcome["Two stages beat mixing"] in ("held", "could not be told")
    assert outcome["SeqKD equals GKD at full size"] in ("held", "could not be told")
    assert len(outcome) == 9


def test_claims_are_tested_by_held_out_loss_too(tmp_path: Path) -> None:
    """GKD 0.1 nats better at 10 rows and 0.1 worse at 20; SeqKD a hundredth from it."""
    change = {("gkd_sft", 10): -0.1, ("gkd_sft", 20): 0.1, ("seqkd", 20): 0.11}
    cells = [Cell(size, "s", method, None, 0, "held_out", tmp_path / f"{method}{size}")
             for size in (10, 20) for method in ("sft", "gkd_sft", "seqkd")]  # fmt: skip
    for cell in cells:
        loss = [2.0 + 0.1 * n + change.get((cell.method, cell.size or 0), 0.0) for n in range(30)]
        records = [
            ExampleRecord(f"{n}", "", "", (), {"loss": one, "kl": one}, "", "", True, 5) for n, one in enumerate(loss)
        ]
        write_records(cell.folder, records)
        one = {"value": sum(loss) / 30, "stderr": 0.1}
        write_result(cell.folder, {"task": "held_out", "headline": "loss", "metrics": {"loss": one, "kl": one}})
    found = claims(build_study(cells))
    assert {claim.outcome for claim in found if not claim.measure} == {"could not be told"}
    outcome = {claim.text: claim.outcome for claim in found if claim.measure == "held out: loss"}
    assert {claim.measure for claim in found} == {"", "held out: loss"}
    assert outcome == {
        "Distilling beats SFT with little data": "held",
        "The gap closes as data grow": "held",
        "SeqKD equals GKD at full size (within 0.02 nats per token)": "held",
    }
    (first,) = next(claim for claim in found if claim.measure).evidence
    assert first.text.startswith("s at 10, GKD against SFT: −0.1")


def test_guessing_is_named(tmp_path: Path) -> None:
    """Of 80 examples 25 % are 20: SFT's 27.5 % (22) are no more, 90 % are."""
    cells = [Cell(10, "s", method, None, 0, task, tmp_path / f"{method}-{task}")
             for method in ("sft", "gkd_sft") for task in ("gpqa", "mmlu_pro", "ifeval")]  # fmt: skip
    rights = {("sft", "gpqa"): 22, ("gkd_sft", "gpqa"): 72}
    for cell in cells:
        evaluate(cell)
        right = rights.get((cell.method, cell.task), 78)
        metric = "prompt_loose" if cell.task == "ifeval" else "accuracy"
        records = [ExampleRecord(f"{n}", "", "", (), {metric: float(n < right)}, "", "", True, 1) for n in range(80)]
        write_records(cell.folder, records)
        chance = {"gpqa": 25.0, "mmlu_pro": 10.0}.get(cell.task)
        metrics = {metric: {"value": 100 * right / 80, "stderr": 1.0}}
        write_result(cell.folder, read_result(cell.folder) | {"chance": chance, "metrics": metrics})
    assert left_out(build_study(cells)) == []  # one of two models does better
    study = build_study([cell for cell in cells if (cell.method, cell.task) != ("gkd_sft", "gpqa")])
    assert [one.text for one in left_out(study)] == [
        "Left out for s: GPQA (none of its models was shown to do better than guessing, 25.0)."
    ]
    assert study.headline("s") == "average of MMLU-Pro, IFEval"
    (advice,) = answers(study)
    assert advice.text.startswith("s by average of MMLU-Pro, IFEval: ")
    arm = next(arm for arm in study.arms if arm.method == "gkd_sft")
    assert study.results[arm, "average of MMLU-Pro, IFEval"].value == pytest.approx(97.5)
    assert study.results[arm, AVERAGE].is_missing


def test_a_missing_arm_leaves_the_answer_open(tmp_path: Path) -> None:
    def skip(cell: Cell) -> bool:
        return (cell.method == "gkd_sft" and cell.size == 939_000) or cell.student != STUDENTS[0]

    study = build_study(make_study(tmp_path, 40, skip))
    text = answers(study)[0].text
    assert "at 939k not known yet, GKD (SFT-S) has no score; of the rest " in text
    by_text = {claim.text: claim for claim in claims(study)}
    assert by_text["The gap closes as data grow"].outcome == "could not be told"


@pytest.mark.parametrize(("p_value", "verdict"), [(0.02, "no difference was shown"), (1e-4, "use it if you have one")])
def test_what_a_stronger_teacher_adds_is_corrected_with_the_rest(
    study: Study, monkeypatch: pytest.MonkeyPatch, p_value: float, verdict: str
) -> None:
    compare = Study.compare

    def compared(self: Study, result: Result, other: Result | None) -> Paired | None:
        found = compare(self, result, other)
        chosen = result.arm.method == "gkd_it" or found is None
        return (
            replace(found, p_value=p_value, difference=2.0)
            if chosen and found
            else found and replace(found, p_value=0.3)
        )

    monkeypatch.setattr(Study, "compare", compared)
    assert f": {verdict}." in answers(study)[0].text


def test_nothing_evaluated(tmp_path: Path) -> None:
    study = build_study(plan(tmp_path))
    assert {claim.outcome for claim in claims(study)} == {"could not be told"}
    assert "at 10k–939k not known yet (cells are missing)" in answers(study)[0].text
    renamed = [
        replace(cell, method={"gkd_sft": "gkd", "gkd_base": "own"}.get(cell.method, cell.method))
        for cell in plan(tmp_path)
    ]
    text = answers(build_study([cell for cell in renamed if cell.size != 939_000]))[0].text
    assert "at 10k–80k not known yet (no method of the study is called gkd_sft or gkd_base or seqkd)" in text
    assert answers(build_study([]))[0].text.startswith("The study has no cells that could be compared")


def test_sizes_and_names() -> None:
    assert [size_text(n) for n in (None, 64, 1000, 1100, 10_000, 939_343)] == ["all", "64", "1k", "1.1k", "10k", "939k"]
    assert (short("meta-llama/Llama-3.2-1B"), short("/a/b/"), short("cut-64m")) == ("Llama-3.2-1B", "b", "cut-64m")
