"""What a forecast runs: ordinary runs of the recipe's own stages, on dev rows and on small parts of the training rows.

They are planned by the planner of recipes, so equal ones are done once, whoever asks for them, and a forecast that was
stopped goes on. The student before training is made as the recipe makes it, and `tutelage run` finds it done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from tutelage.common import run_folder
from tutelage.common.metrics_log import read_metrics
from tutelage.evaluation.records import read_records, score_array
from tutelage.evaluation.statistics import paired_bootstrap
from tutelage.forecasting.arms import DEV, Arms, part_of, part_rows
from tutelage.forecasting.situations import SIGNALS, Pilot
from tutelage.recipe.recipe import RecipeConfig
from tutelage.recipe.stages import DistillStage
from tutelage.recipe.study import HeldOutTask, SignalsTask
from tutelage.runs.fingerprints import InputFingerprints
from tutelage.runs.planner import Planner
from tutelage.runs.preflight import find_problems, refuse_problems
from tutelage.runs.run import Run, with_parents
from tutelage.runs.scheduler import Resources, Scheduler
from tutelage.runs.worker import make_runs_folder

SIGNAL_ROWS = 32
DRAWS = 2000  # of a bootstrap


class Trials:
    """The runs of a forecast in the folder `root` of all runs. `jobs`: runs at the same time."""

    def __init__(self, arms: Arms, folder: Path, root: Path, jobs: int = 1, debug: bool = False) -> None:
        self.arms, self.folder, self.root, self.jobs, self.debug = arms, folder, root, jobs, debug
        self.inputs, self.known = InputFingerprints(), dict[str, Run]()
        self.whole = self._planner(arms.recipe)
        seed = arms.recipe.seeds[0]
        self._start = self.whole.evaluation(arms.start, DEV, seed)
        self._teacher = self.whole.evaluation(arms.given_teacher, DEV, seed)
        # What both arms need in any case: the student as it starts, and a teacher that the rows do not make.
        self.shared = {one.fingerprint for run in (self._start, self._teacher) for one in with_parents(run.parents)}

    def check(self, runs: Sequence[Run]) -> None:
        """Raise TutelageError where something that the runs, or what they build on, need is missing here."""
        make_runs_folder(self.root)
        refuse_problems(find_problems(with_parents(runs), self.root, data=False, jobs=self.jobs))

    def do(self, runs: Sequence[Run]) -> None:
        """Do the runs and what they build on. Raises TutelageError when one fails."""
        self.check(runs)
        with Scheduler(Resources(self.jobs), self.debug) as scheduler:
            scheduler.execute(runs)

    def alone(self, runs: Sequence[Run]) -> list[Run]:
        """Of the runs and what they build on, those that both arms would not need in any case."""
        return [run for run in with_parents(runs) if run.fingerprint not in self.shared]

    def before(self) -> list[Run]:
        """Both models' answers to the dev rows before training, and their `signals` run."""
        arms = self.arms
        stage = next(one for one in arms.recipe.stages if one.name == arms.gkd)
        assert isinstance(stage, DistillStage)
        rows = min(SIGNAL_ROWS, arms.dev_rows)
        length = self.whole.training(arms.gkd, {}).max_length
        task = SignalsTask(
            kind="signals", data=DEV, teacher=arms.given_teacher, rows=rows, sampling=stage.sampling, max_length=length
        )
        roles = {"model": arms.start, "teacher": arms.given_teacher}
        signals = self.whole.measurement(arms.start, "signals", "signals", task, roles, arms.recipe.seeds[0])
        return [self._start, self._teacher, signals]

    def signals(self) -> dict[str, float]:
        """The signals before training, once `before` is done."""
        start, teacher, run = self.before()
        result = run_folder.read_json(run.folder, run_folder.RESULT)
        found = {name: one["value"] for name, one in result["metrics"].items() if name in SIGNALS}
        found["tokens_per_weight"] = (
            result["response_tokens"] / result["n"] * self.arms.rows / max(1, result["weights"]["model"])
        )
        for name, evaluation in (("student_score", start), ("teacher_score", teacher)):
            found[name] = float(np.nanmean(self._scores(evaluation)))
        return {name: float(value) for name, value in found.items() if value is not None and not math.isnan(value)}

    def part(self, share: float) -> list[Run]:
        """SFT again and GKD on `share` of the rows, and the teacher where the rows make it, each asked the dev rows;
        and the held-out loss of both arms."""
        arms, seed = self.arms, self.arms.recipe.seeds[0]
        planner = self._planner(part_of(arms, share))
        asked = [planner.evaluation(name, DEV, seed) for name in (arms.again, arms.gkd)]
        task = HeldOutTask(data=DEV, max_length=planner.training(arms.gkd, planner.settings(arms.gkd)).max_length)
        losses = [
            planner.measurement(name, "loss", "held_out", task, {"model": name}, seed)
            for name in (arms.again, arms.gkd)
        ]
        teacher = [planner.evaluation(arms.teacher, DEV, seed)] if arms.same_data else []
        return [*asked, *losses, *teacher]

    def pilot(self, share: float) -> Pilot:
        """What a part showed, once its runs are done."""
        again, gkd, again_loss, gkd_loss, *teacher = self.part(share)
        again_scores = self._scores(again)
        gain = paired_bootstrap(self._scores(gkd), again_scores, DRAWS)
        loss_gain = paired_bootstrap(_losses(again_loss), _losses(gkd_loss), DRAWS)
        return Pilot(
            rows=float(part_rows(self.arms, share)),
            gain=gain.difference,
            gain_se=_known(gain.stderr, 5.0),
            loss_gain=loss_gain.difference,
            loss_gain_se=_known(loss_gain.stderr, 0.5),
            again=float(np.nanmean(again_scores)),
            teacher=float(np.nanmean(self._scores(teacher[0]))) if teacher else None,
        )

    def distillation_loss(self, share: float) -> tuple[float, float]:
        """The mean loss of the first and of the last quarter of a part's GKD steps."""
        lines = read_metrics(self.part(share)[1].parents[0].folder / run_folder.METRICS)
        values = [line["loss"] for line in lines]
        quarter = max(1, len(values) // 4)
        return float(np.mean(values[:quarter])), float(np.mean(values[-quarter:]))

    def arm(self, name: str) -> list[Run]:
        """The runs of a whole arm, for every seed and with the trials of its search, without what both arms need in any
        case. Of the evaluations there is one per model, of dev rows, since test rows are not read."""
        seeds, search = self.arms.recipe.seeds, self.arms.recipe.search
        runs = with_parents([self.whole.evaluation(name, DEV, seed) for seed in seeds])
        tried = {run.stage for run in runs} & set(self.arms.settings)
        for stage, point in product(sorted(tried), product(*search.grid.values()) if search else ()):
            settings = dict(zip(search.grid, point, strict=True)) if search else {}
            runs.append(self.whole.evaluation(stage, DEV, seeds[0], settings))
        return self.alone(runs)

    def _planner(self, recipe: RecipeConfig) -> Planner:
        planner = Planner(recipe, self.folder, self.root, known=self.known, inputs=self.inputs)
        planner.choices |= self.arms.settings
        return planner

    def _scores(self, run: Run) -> np.ndarray:
        return 100 * score_array(read_records(run.folder), self.arms.metric)


def _losses(run: Run) -> np.ndarray:
    return score_array(read_records(run.folder), "loss")


def _known(error: float, otherwise: float) -> float:
    return otherwise if math.isnan(error) else error
