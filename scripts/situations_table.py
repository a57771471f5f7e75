"""The table of situations that ships with the project, from the finished runs of recipes/mini/situations.yaml.

    python scripts/situations_table.py STUDY RUNS [TABLE] [--free]

STUDY is that file or one of recipes/mini/situations/. Rows of TABLE (default: src/tutelage/forecasting/situations.csv)
whose runs are there are written anew; all others are kept. Situations that are not finished are counted. Numbers only:
no text of any data set. `--free` then removes the models of arms, and of teachers that one task alone has, which no run
of STUDY needs any more.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tutelage.common import run_folder
from tutelage.common.errors import TutelageError
from tutelage.evaluation.records import read_records, score_array
from tutelage.evaluation.statistics import Paired, paired_bootstrap
from tutelage.forecasting.price import Prices
from tutelage.forecasting.situations import MOST_PILOTS, SIGNALS, Pilot, Situation, read_situations, situations_csv
from tutelage.runs.run import Run, with_parents
from tutelage.study.grid import plan_study
from tutelage.study.plan import StudyPlan

SOURCE = "recipes/mini/situations.yaml"
TABLE = Path(__file__).parents[1] / "src" / "tutelage" / "forecasting" / "situations.csv"
MADE_OF_ROWS = "same"
OWN = ("sft", "gkd_", "spoiled", "weaker")  # beginnings of the stages whose models no other task uses
GIVEN = {"same": "teacher", "untouched": "teacher"}  # the stage that is there before, where it has another name
Key = tuple[str, str, int | None, str, str]  # task, student, rows, method, measure


class Study:
    """The finished runs of a plan by what they measure, each for one or more seeds."""

    def __init__(self, plan: StudyPlan) -> None:
        self.runs: dict[Key, dict[int, Run]] = {}
        self.planned: dict[Key, dict[int, Run]] = {}
        self.prices = Prices()
        for cell, run in plan.points:
            data = next(config.path for name, config in run.data.items() if name in ("test", "dev"))
            task = Path(str(data)).name.split(".")[0]
            key = (task, cell.student, cell.size, cell.method, cell.task)
            self.planned.setdefault(key, {})[cell.seed] = run
            if run.done:
                self.runs.setdefault(key, {})[cell.seed] = run

    def situations(self) -> tuple[list[Situation], int]:
        """All that are finished, and how many are not."""
        found: list[Situation] = []
        wanted = [key for key in self.planned if key[4] == "test" and key[3].startswith("gkd_")]
        for key in wanted:
            made = self.situation(key)
            found += [made] if made is not None else []
        return found, len(wanted) - len(found)

    def situation(self, key: Key) -> Situation | None:
        """One situation; None where a run of its outcome is missing."""
        task, student, rows, method, _ = key
        kind = method.removeprefix("gkd_")
        assert rows is not None
        score, loss = self._outcome(key, "test"), self._outcome(key, "test_loss")
        if score is None or loss is None:
            return None
        arms = {name: list(self.runs[task, student, rows, name, "test"].values()) for name in ("sft_again", method)}
        metric = arms[method][0].config.headline_metric
        before = self._before(task, student, kind)
        again = np.mean([score_array(read_records(run.folder), metric).mean() for run in arms["sft_again"]])
        shared = {one.fingerprint for run in before for one in with_parents(run.parents)}
        both = [*arms["sft_again"], *arms[method]]
        return Situation(
            name=f"{task}-{student}-{rows}-{kind}",
            source=SOURCE,
            task=task,
            metric=metric,
            teacher=kind,
            student=student,
            rows=float(rows),
            gain=100 * score.difference,
            gain_se=100 * score.stderr,
            loss_gain=-loss.difference,
            loss_gain_se=loss.stderr,
            again=100 * float(again),
            hours_again=_hours(_alone(arms["sft_again"], shared)),
            hours_gkd=_hours(_alone(arms[method], shared)),
            hours_both=_hours(_alone(both, shared)),
            signals=self._signals(task, student, rows, kind),
            pilots=tuple(self._pilots(task, student, rows, kind, before, self.prices.work(_alone(both, shared)))),
        )

    def _outcome(self, key: Key, measure: str) -> Paired | None:
        """GKD − SFT again on all seeds that are planned; None where one is missing."""
        task, student, rows, method, _ = key
        pairs = []
        for name in (method, "sft_again"):
            there = self.runs.get((task, student, rows, name, measure), {})
            if len(there) < len(self.planned[task, student, rows, method, measure]):
                return None
            pairs.append(np.stack([_scores(there[seed]) for seed in sorted(there)]))
        return paired_bootstrap(pairs[0], pairs[1], paired_seeds=len(pairs[0]) > 1)

    def _one(self, task: str, student: str | None, rows: int | None, method: str, measure: str) -> Run | None:
        """The finished run with the first seed. `student` None: of any student, where a teacher is asked; `rows` None:
        of any number of rows, where it makes no difference."""
        for (a, b, c, d, e), runs in self.runs.items():
            if (a, d, e) == (task, method, measure) and student in (None, b) and rows in (None, c):
                return runs[min(runs)]
        return None

    def _before(self, task: str, student: str, kind: str) -> list[Run]:
        """Both models' dev rows before training, and the signals; empty where one is missing."""
        signals = "untouched" if kind == MADE_OF_ROWS else kind
        runs = [
            self._one(task, student, None, "base", "dev"),
            self._one(task, None, None, GIVEN.get(kind, kind), "dev"),
            self._one(task, student, None, "base", f"signals_{signals}"),
        ]
        found = [run for run in runs if run is not None]
        return found if len(found) == len(runs) else []

    def _signals(self, task: str, student: str, rows: int, kind: str) -> dict[str, float]:
        before = self._before(task, student, kind)
        if not before:
            return {}
        result = run_folder.read_json(before[2].folder, run_folder.RESULT)
        found = {name: one["value"] for name, one in result["metrics"].items() if name in SIGNALS}
        found["tokens_per_weight"] = result["response_tokens"] / result["n"] * rows / result["weights"]["model"]
        for name, run in (("student_score", before[0]), ("teacher_score", before[1])):
            found[name] = 100 * float(np.nanmean(_scores(run)))
        return found

    def _part(self, task: str, student: str, rows: int, kind: str) -> list[Run]:
        """The runs of a pilot: SFT again and GKD on dev, their losses, the teacher that the rows make. Empty where one
        is missing."""
        arms = ("sft_again", f"gkd_{kind}")
        runs = [self._one(task, student, rows, name, measure) for measure in ("dev", "dev_loss") for name in arms]
        runs += [self._one(task, None, rows, MADE_OF_ROWS, "dev")] if kind == MADE_OF_ROWS else []
        found = [run for run in runs if run is not None]
        return found if len(found) == len(runs) else []

    def _pilots(
        self, task: str, student: str, rows: int, kind: str, before: Sequence[Run], both: float | None
    ) -> list[Pilot]:
        """The pilots between a 32nd and a quarter of the rows, after the runs `before`. `both`: both arms' work."""
        shared = {one.fingerprint for run in before for one in with_parents(run.parents)}
        sizes = sorted({size for _, _, size, _, measure in self.runs if size is not None and measure == "dev"})
        found, spent = list[Pilot](), [*before]
        for size in (one for one in sizes if rows / 33 <= one <= rows / 4 + 1):
            part = self._part(task, student, size, kind)
            if not part:
                continue
            spent += part
            work = self.prices.work(_alone(spent, shared)) if before else None
            again, gkd, again_loss, gkd_loss, *teacher = [_scores(run) for run in part]
            gain, loss = paired_bootstrap(gkd, again, 2000), paired_bootstrap(again_loss, gkd_loss, 2000)
            found.append(
                Pilot(
                    rows=float(size),
                    gain=100 * gain.difference,
                    gain_se=100 * gain.stderr,
                    loss_gain=loss.difference,
                    loss_gain_se=loss.stderr,
                    again=100 * float(again.mean()),
                    teacher=100 * float(teacher[0].mean()) if teacher else None,
                    hours=_hours(_alone(spent, shared)) if before else None,
                    work_share=work / both if work and both else None,
                )
            )
        return found[:MOST_PILOTS]


def _alone(runs: Sequence[Run], shared: set[str]) -> list[Run]:
    """The runs and what they build on, each once, without those with the fingerprints `shared`."""
    return [one for one in with_parents(runs) if one.fingerprint not in shared]


def _hours(runs: Sequence[Run]) -> float:
    return sum(run_folder.read_json(one.folder, run_folder.RESULT)["seconds"] for one in runs) / 3600


def _scores(run: Run) -> np.ndarray:
    """An evaluation's scores, or its losses, [N]."""
    return score_array(read_records(run.folder), run_folder.read_json(run.folder, run_folder.RESULT)["headline"])


def free(plan: StudyPlan) -> int:
    """Remove the models of finished runs of OWN stages on which no run of the plan waits; returns how many."""
    waited_for = {parent.fingerprint for run in plan.runs if not run.done for parent in run.parents}
    own = [run for run in plan.runs if run.done and run.training and run.stage.startswith(OWN)]
    there = [run.folder / "model" for run in own if run.fingerprint not in waited_for]
    there = [folder for folder in there if folder.is_dir()]
    for folder in there:
        shutil.rmtree(folder)
    return len(there)


def main(study: Path, runs: Path, table: Path = TABLE, freeing: bool = False) -> None:
    plan = plan_study(study, runs, partial=True)
    found, missing = Study(plan).situations()
    kept = read_situations(table.read_text(encoding="utf-8"), str(table)) if table.is_file() else []
    names = {one.name for one in found}
    rows = [*(one for one in kept if one.name not in names), *found]
    rows.sort(key=lambda one: (one.source == SOURCE, one.task, re.sub(r"\d+", lambda m: m[0].zfill(6), one.name)))
    table.write_text(situations_csv(rows), encoding="utf-8")
    tasks = ", ".join(f"{count} of {task}" for task, count in Counter(one.task for one in found).items())
    print(
        f"{table}: {len(found)} situations written ({tasks or 'none'}), {missing} are not finished, {len(rows)} in all"
    )
    if freeing:
        print(f"{free(plan)} models removed")


if __name__ == "__main__":
    paths = [Path(one) for one in sys.argv[1:] if one != "--free"]
    if len(paths) not in (2, 3):
        sys.exit(__doc__)
    try:
        main(*paths, freeing="--free" in sys.argv)
    except TutelageError as error:
        sys.exit(str(error))
