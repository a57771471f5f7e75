"""Advice and claims do not move their yardstick: one reference, one correction for all that was chosen among, and three
outcomes with the data that would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import TEACHER
from hypothesis import given
from hypothesis import strategies as st

from tutelage.evaluation.records import ExampleRecord, read_result, summarise, write_records, write_result
from tutelage.evaluation.statistics import holm
from tutelage.report.labels import AVERAGE
from tutelage.report.study.answers import answers, endless, gaps, left_out, yardstick
from tutelage.report.study.claims import Claim, claims
from tutelage.report.study.figures import build_figures
from tutelage.report.study.read import build_study
from tutelage.report.study.results import Study
from tutelage.study.plan import Cell

NOISE = np.resize([-1.0, 1.0], 100) / 10  # of a difference: standard error 0.01


@given(st.lists(st.floats(0.0, 1.0), max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_method_rejects(p_values: list[float], level: float) -> None:
    rejected: set[int] = set()
    for index in sorted(range(len(p_values)), key=p_values.__getitem__):
        if p_values[index] * (len(p_values) - len(rejected)) > level:
            break
        rejected.add(index)
    assert {n for n, p in enumerate(holm(p_values)) if p <= level} == rejected


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_could_not_be_compared_does_not_count_for_holm(place: int) -> None:
    p_values = [0.04, 0.001]
    p_values.insert(place, math.nan)
    corrected = holm(p_values)
    assert math.isnan(corrected.pop(place))
    assert corrected == [0.04, 0.002]


def made(
    root: Path,
    gains: Mapping[tuple[str, Any], float],
    task: str = "dialogsum",
    name: str = "s",
    steps: Mapping[str, int] | None = None,
    noise: Mapping[str, float] | None = None,
) -> Study:
    """One seed; each (method, size) scores 0.5 + its gain ± NOISE per example, in the share of the whole. `steps`: of a
    method's training; `noise`: factors of NOISE."""
    found = []
    for number, ((method, size), gain) in enumerate(gains.items()):
        teacher, trained = None if method.startswith("sft") else TEACHER, (steps or {}).get(method)
        cell = Cell(size, name, method, teacher, 0, task, root / f"{number}", trained)
        steady = method in ("sft", "sft_again")
        scores = 0.5 + gain + (0 if steady else (noise or {}).get(method, 1)) * NOISE
        records = [ExampleRecord(f"{n}", "", "", (), {"m": float(s)}, "", "", True, 1) for n, s in enumerate(scores)]
        write_records(cell.folder, records)
        write_result(cell.folder, summarise(records, ["m"], "m", task=task, model=method, seed=0))
        found.append(cell)
    return build_study(found)


SIZES = (10, 20, 30)


def test_advice_is_corrected_for_the_arms_and_sizes_that_it_chose_among(tmp_path: Path) -> None:
    """A gain of 2.2 standard errors has p = 0.03: shown where it is the only comparison, not as the best of six."""
    alone = made(tmp_path / "one", {("sft", 10): 0.0, ("gkd_sft", 10): 0.022}, "bbh")
    assert "use GKD (SFT-S)" in answers(alone)[0].text
    gains = {(method, size): 0.0 for size in SIZES for method in ("sft", "gkd_sft", "gkd_base")}
    six = made(tmp_path / "six", gains | {("gkd_sft", 20): 0.022}, "bbh")
    (advice,) = answers(six)
    assert advice.text.startswith("s: at 10–30 use SFT, the cheapest to train, nothing was shown to beat it: ")
    assert advice.text.endswith("(Holm's correction for 6 comparisons.)")
    assert "beat it: GKD (SFT-S) +2.2 (0.2 to 4.2) at 20. (Holm" in advice.text  # the largest difference
    assert advice.tone == "unclear"
    more = made(tmp_path / "more", gains | {("gkd_sft", 20): 0.04}, "bbh")
    assert "at 20 use GKD (SFT-S): " in answers(more)[0].text


def test_all_were_worse_where_each_was_shown_to_be(tmp_path: Path) -> None:
    """GKD from the base loses more than GKD from SFT, which was shown to lose, but with far more noise."""
    gains = {("sft", 10): 0.0, ("gkd_sft", 10): -0.04, ("gkd_base", 10): -0.06}
    both = made(tmp_path / "both", gains, "bbh")
    assert "use SFT, the cheapest to train, the rest was shown to be worse: " in answers(both)[0].text
    one = made(tmp_path / "one", gains, "bbh", noise={"gkd_base": 9})
    assert "use SFT, the cheapest to train, nothing was shown to beat it: " in answers(one)[0].text


def test_a_domain_tasks_advice_is_corrected_too(tmp_path: Path) -> None:
    gains: dict[tuple[str, int | None], float] = {("sft", None): 0.0, ("gkd_sft", None): 0.0}
    gains |= {(method, size): 0.0 for size in SIZES for method in ("mix", "two_stage")}
    few = made(tmp_path / "few", gains | {("mix", 20): 0.022})
    assert answers(few)[0].text.startswith(
        "Summarization: use SFT, the cheapest to train, nothing was shown to beat it: "
    )
    many = made(tmp_path / "many", gains | {("mix", 20): 0.04})
    assert answers(many)[0].text.startswith("Summarization: use Mix: ")


def test_sft_again_is_the_reference_wherever_it_is(tmp_path: Path) -> None:
    """GKD is above SFT, and level with as much SFT again."""
    gains = {("sft", 10): 0.0, ("sft_again", 10): 0.05, ("gkd_sft", 10): 0.05, ("gkd_base", 10): 0.0}
    study = made(tmp_path / "with", gains, "bbh")
    assert "use SFT again, nothing was shown to beat it" in answers(study)[0].text
    level = made(tmp_path / "level", gains | {("sft_again", 10): -0.001, ("gkd_sft", 10): 0.0}, "bbh")
    assert "use SFT, the cheapest to train, nothing was shown to beat it" in answers(level)[0].text  # SFT costs least
    assert yardstick(study).text == (
        "Every arm is compared with SFT again of the same student on the same data: SFT, then as much SFT again with a "
        "fresh schedule. So no gain is that of more steps."
    )
    longer = made(tmp_path / "longer", gains | {("seqkd", 10): 0.0}, "bbh")
    assert yardstick(longer).text.endswith("So no gain is that of more steps; but SeqKD may train for more.")
    steps = {"sft": 10, "sft_again": 20, "gkd_sft": 30, "gkd_base": 10, "seqkd": 20}
    counted = made(tmp_path / "counted", gains | {("seqkd", 10): 0.0}, "bbh", steps=steps)
    assert yardstick(counted).text.endswith("So no gain is that of more steps; but GKD (SFT-S) may train for more.")
    first = claims(study)[0]
    assert first.evidence[0].text.startswith("s at 10, GKD against SFT again: 0.00 ")
    again = study.find("s", "sft_again", 10, "bbh")
    assert again is not None
    assert study.versus(again) is not None  # with SFT
    without = made(tmp_path / "without", {key: gain for key, gain in gains.items() if key[0] != "sft_again"}, "bbh")
    assert "use GKD (SFT-S)" in answers(without)[0].text
    assert "The control is missing (SFT, then as much SFT again" in yardstick(without).text
    assert "compared with SFT of the same student" in yardstick(without).text


def test_the_gap_is_to_the_same_method_at_both_sizes(tmp_path: Path) -> None:
    """SFT again at the smallest size only, and better there than GKD: the gap that closes is that to SFT."""
    gains = {("sft", 10): 0.0, ("sft_again", 10): 0.3, ("gkd_sft", 10): 0.2, ("sft", 20): 0.0, ("gkd_sft", 20): 0.0}
    study = made(tmp_path, gains, "bbh")
    gap = by_text(study)["The gap closes as data grow"]
    assert gap.evidence[0].text.startswith("s, gap to SFT at 10 minus gap at 20: +20.0 ")
    assert "for s at 20" in yardstick(study).text


def test_without_sft_two_stages_are_compared_with_gkd(tmp_path: Path) -> None:
    study = made(tmp_path, {("gkd_sft", None): 0.0, ("two_stage", 10): 0.1})
    assert answers(study)[0].text.startswith("Summarization: use Two-stage: s 60.0 (+10.0")
    assert "compared with GKD (SFT-S)" in yardstick(study).text
    assert by_text(study)["Synthetic data add to distilling"].outcome == "held"


def by_text(study: Study) -> dict[str, Claim]:
    return {claim.text.split(" (by")[0].split(" (within")[0]: claim for claim in claims(study)}


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [
        (0.05, "held"),
        (0.021, "held"),
        (0.0, "could not be told"),
        (-0.02, "did not hold"),
        (-0.005, "could not be told"),
    ],
)
def test_a_claim_held_did_not_or_could_not_be_told(tmp_path: Path, gain: float, outcome: str) -> None:
    """A point is one standard error: an interval of ± 2 around the gain."""
    study = made(tmp_path, {("sft", 10): 0.0, ("gkd_sft", 10): gain}, "bbh")
    claim = by_text(study)["Distilling beats SFT with little data"]
    assert claim.outcome == outcome
    told = "; an effect of 1 point of these two training runs could be told with 7.9 × the test rows (793)."
    assert claim.evidence[0].text.endswith(told) == (outcome == "could not be told")


def test_an_effect_too_small_to_count_refutes_a_claim(tmp_path: Path) -> None:
    """Data enough to leave out a point."""
    names = {("sft", 10): 0.0, ("gkd_sft", 10): 0.0}
    global NOISE
    kept, NOISE = NOISE, NOISE / 4
    try:
        study = made(tmp_path, names, "bbh")
    finally:
        NOISE = kept
    assert by_text(study)["Distilling beats SFT with little data"].outcome == "did not hold"


def test_one_counterexample_refutes_and_counts_are_told(tmp_path: Path) -> None:
    """Three students: GKD helps one, hurts one, and one cannot be told."""
    cells: list[Cell] = []
    for student, gain in (("a", 0.1), ("b", -0.1), ("c", 0.0)):
        part = made(tmp_path / student, {("sft", 10): 0.0, ("gkd_sft", 10): gain}, "bbh", student)
        cells += part.cells
    claim = by_text(build_study(cells))["Distilling beats SFT with little data"]
    assert claim.outcome == "did not hold"
    assert claim.counts == "held at 1, did not hold at 1, could not be told at 1 of 3 places"


def test_margins_of_no_worse_and_equal(tmp_path: Path) -> None:
    wide = {("sft", 10): 0.0, ("gkd_sft", 10): 0.0, ("gkd_base", 10): 0.0, ("seqkd", 10): 0.0}
    found = by_text(made(tmp_path / "a", wide | {("gkd_base", 10): 0.03, ("seqkd", 10): 0.005}, "bbh"))
    # both differ from GKD by a constant, so their intervals are points: 3 points worse, half a point apart
    assert found["Starting from the SFT student is no worse than from the base"].outcome == "did not hold"
    assert found["SeqKD equals GKD at full size"].outcome == "held"


def test_unscored_tasks_are_left_out(tmp_path: Path) -> None:
    """InFoBench without a judge: the advice is from the other task."""
    cells: list[Cell] = []
    for task in ("bbh", "infobench"):
        cells += made(tmp_path / task, {("sft", 10): 0.0, ("gkd_sft", 10): 0.05}, task).cells
    for cell in cells:
        if cell.task == "infobench":
            records = [ExampleRecord(f"{n}", "", "", (), {"m": None}, "", "", True, 1) for n in range(100)]
            write_records(cell.folder, records)
            write_result(cell.folder, summarise(records, ["m"], "m", task="infobench", model="", seed=0))
    study = build_study(cells)
    assert [one.text for one in left_out(study)] == ["Left out for s: InFoBench (unscored)."]
    assert answers(study)[0].text.startswith("s by BBH: at 10 use GKD (SFT-S): ")
    assert by_text(study)["Distilling beats SFT with little data"].outcome == "held"


def test_a_task_is_not_kept_because_one_of_many_models_guessed_well(tmp_path: Path) -> None:
    """35 of 100 where guessing gives 25 has p = 0.016: alone above guessing, not as the best of ten."""
    assert not left_out(guessed(tmp_path / "one", [35]))
    assert left_out(guessed(tmp_path / "ten", [35, *9 * [25]]))


def guessed(root: Path, rights: Sequence[int]) -> Study:
    cells = [Cell(10 + n, "s", "sft", None, 0, "gpqa", root / f"{n}") for n in range(len(rights))]
    for cell, right in zip(cells, rights, strict=True):
        records = [ExampleRecord(f"{n}", "", "", (), {"m": float(n < right)}, "", "", True, 1) for n in range(100)]
        write_records(cell.folder, records)
        write_result(cell.folder, summarise(records, ["m"], "m", task="gpqa", model="", seed=0) | {"chance": 25.0})
    return build_study(cells)


def test_a_students_average_lacks_what_is_unscored_and_what_is_at_chance(tmp_path: Path) -> None:
    """Student a is at chance on GPQA, InFoBench is unscored for both: a's average is of two tasks, b's of three, as in
    the tables."""
    cells: list[Cell] = []
    for student in ("a", "b"):
        for task in ("bbh", "mmlu_pro", "gpqa", "infobench"):
            level = -0.25 if (student, task) == ("a", "gpqa") else 0.0
            gains = {("sft", 10): level, ("gkd_sft", 10): level + (0.0 if level else 0.05)}
            made_cells = made(tmp_path / f"{student}-{task}", gains, task, student).cells
            cells += made_cells
            for cell in made_cells:
                if task == "infobench":
                    records = [ExampleRecord(f"{n}", "", "", (), {"drfr": None}, "", "", True, 1) for n in range(100)]
                    write_records(cell.folder, records)
                    write_result(cell.folder, summarise(records, ["drfr"], "drfr", task=task, model="", seed=0))
                elif task == "gpqa":
                    write_result(cell.folder, read_result(cell.folder) | {"chance": 25.0})
    study = build_study(cells)
    assert study.averaged == ("bbh", "mmlu_pro", "gpqa")
    assert [study.headline(one) for one in "ab"] == ["average of BBH, MMLU-Pro", AVERAGE]
    assert [one.text for one in left_out(study)] == [
        "Left out for a: GPQA (none of its models was shown to do better than guessing, 25.0); InFoBench (unscored).",
        "Left out for b: InFoBench (unscored).",
    ]
    own, of_all = (study.find("a", "gkd_sft", 10, task) for task in (study.headline("a"), AVERAGE))
    assert own is not None
    assert of_all is not None
    assert (own.value, of_all.value) == (pytest.approx(55.0), pytest.approx((2 * 55.0 + 25.0) / 3))
    first, second = answers(study)
    assert first.text.startswith("a by average of BBH, MMLU-Pro: at 10 use GKD (SFT-S): 55.0 against SFT's 50.0")
    assert second.text.startswith("b by average without InFoBench: at 10 use GKD (SFT-S): ")
    claim = by_text(study)["Distilling beats SFT with little data"]
    assert (claim.outcome, claim.evidence[-1].text) == ("held", "InFoBench is unscored: name a judge.")
    labels = [getattr(panel, "y_label", "") for panel in build_figures(study)[0].panels]
    assert labels == ["average of 2 tasks − SFT", "average without InFoBench − SFT"]


def test_a_recipes_own_task_is_at_chance_where_the_commonest_answer_explains_it(tmp_path: Path) -> None:
    """Of 100 gold answers 55 are "yes": a student with 52 of 100 right says nothing, one with 80 does. Scores other
    than matches have no such level."""
    gold = ["yes"] * 55 + ["no "] * 45

    def study_of(right: int, metric: str) -> Study:
        cell = Cell(10, "s", "sft", None, 0, "creak", tmp_path / f"{right}{metric}")
        scores = [{metric: float(n < right)} for n in range(100)]
        records = [
            ExampleRecord(f"{n}", "", "", (g,), s, "", "", True, 1)
            for n, (g, s) in enumerate(zip(gold, scores, strict=True))
        ]
        write_records(cell.folder, records)
        write_result(cell.folder, summarise(records, [metric], metric, task="creak", model="", seed=0))
        return build_study([cell])

    reason = "none of its models was shown to do better than guessing, 55.0"
    assert study_of(52, "final_answer").left_out("s") == {"creak": reason}
    assert study_of(52, "exact_match").left_out("s") == {"creak": reason}
    assert study_of(80, "final_answer").left_out("s") == {}
    assert study_of(52, "rouge_l").left_out("s") == {}


def test_evaluations_whose_replies_hardly_end_are_named(tmp_path: Path) -> None:
    study = made(tmp_path, {("sft", 10): 0.0, ("gkd_sft", 10): 0.1})
    assert endless(study) == []
    folder = study.cells[1].folder
    write_result(folder, read_result(folder) | {"cut": 50})
    assert endless(study) == []  # half of them is not most
    write_result(folder, read_result(folder) | {"cut": 51})
    (sentence,) = endless(study)
    assert sentence.startswith("Most replies ran to their limit and were scored as they were cut")
    assert sentence.endswith("larger limit): s, GKD (SFT-S) at 10 on Summarization, seed 0 (51 of 100).")


def test_a_missing_seed_makes_no_pooled_claim_surer(tmp_path: Path) -> None:
    """Seeds differ by far more than examples: a claim over four arms is made of the seeds that all of them have."""
    gains = {("sft", 10): (0.0, 0.0, 0.0), ("gkd_sft", 10): (0.3, 0.02, 0.1), ("gkd_base", 10): (0.0, 0.2, 0.1)}
    gains |= {(method, 20): (0.0, 0.0, 0.0) for method in ("sft", "gkd_sft", "gkd_base")}
    cells: dict[tuple[str, int, int], Cell] = {}
    for (method, size), by_seed in gains.items():
        for seed, gain in enumerate(by_seed):
            one = made(tmp_path / f"{method}-{size}-{seed}", {(method, size): gain}, "bbh").cells[0]
            cells[method, size, seed] = replace(one, seed=seed)
    whole = build_study(list(cells.values()))
    assert gaps(whole) == []
    folders = [cells["gkd_sft", 10, seed].folder / "result.json" for seed in (1, 2)]
    kept = [folder.read_bytes() for folder in folders]
    for folder in folders:
        folder.unlink()
    assert gaps(build_study(list(cells.values()))) == [
        "One training run so far: s, GKD (SFT-S) at 10 on BBH. What is said of these does not cover other seeds."
    ]
    for folder, content in zip(folders, kept, strict=True):
        folder.write_bytes(content)
    for missing in ((), ("gkd_sft", 20, 2), ("gkd_base", 10, 1)):
        study = build_study([cell for key, cell in cells.items() if key != missing])
        for text in ("The gap closes as data grow", "Starting from the SFT student is no worse than from the base"):
            claim = by_text(study)[text]
            assert claim.outcome == "could not be told"
            whole = not missing or (missing[0] == "gkd_base" and "gap" in text)
            assert ("(2 of 3 seeds, those that all arms have)" in claim.evidence[0].text) is not whole
