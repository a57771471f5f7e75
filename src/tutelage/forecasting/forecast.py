"""A forecast from beginning to end: signals, pilots of growing parts until the interval decides, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tutelage.common.errors import TutelageError
from tutelage.common.hashing import fingerprint
from tutelage.common.progress import told_once
from tutelage.data.dataset import load_dataset
from tutelage.forecasting.answer import EFFECT, Answer, Finding, chance_score, decide, find_problems, is_decided
from tutelage.forecasting.arms import DEV, Arms, find_arms, part_rows
from tutelage.forecasting.mixture import Mixture
from tutelage.forecasting.pilot import Trials
from tutelage.forecasting.price import MOST, Price, Prices, dear_text
from tutelage.forecasting.prior import Prediction, predict
from tutelage.forecasting.situations import SAME, Situation, recorded_situations, shipped_situations
from tutelage.recipe.recipe import RecipeConfig
from tutelage.runs.run import Run

PilotSize = Literal["none", "short", "full"]
SHARES: dict[PilotSize, tuple[float, ...]] = {"none": (), "short": (1 / 16,), "full": (1 / 16, 1 / 8, 1 / 4)}
FEWEST = 24  # rows of a pilot
BUDGET = MOST  # of the price of both arms; the first pilot is made in any case
OWN_PRICE = "this forecast"
BAND = 25  # numbers of rows for which the band is drawn
ANOTHER = ("different tokenizers", "split text differently")  # in the error of models that cannot be compared


@dataclass(frozen=True)
class Forecast:
    """Everything that the page and the JSON show."""

    recipe: str
    fingerprint: str  # of the recipe, by which its outcome is found again
    arms: Arms
    known: Situation
    score: Prediction
    loss: Prediction
    answer: Answer
    effect: float
    chance: float
    prices: dict[str, Price]  # its own, then those of the arms
    distillation: tuple[float, float] | None  # the pilot's mean loss in its first and in its last quarter
    stopped: str  # why no larger pilot was made
    band: tuple[tuple[float, float, float, float], ...]  # rows, and what the same pilots say of them: mean, low, high
    both: Price  # of both arms, what they share counted once

    def as_json(self) -> dict[str, Any]:
        """The forecast as one JSON object."""
        arms, known = self.arms, asdict(self.known)
        return {
            "recipe": self.recipe,
            "fingerprint": self.fingerprint,
            "answer": self.answer.choice,
            "why": self.answer.why,
            "findings": [asdict(finding) for finding in self.answer.findings],
            "decided": list(self.answer.decided),
            "changes": list(self.answer.changes),
            "metric": self.known.metric,
            "gain": _interval(self.score.gain, self.effect),
            "loss_gain": _interval(self.loss.gain, 0.0),
            "prices": {name: vars(price) for name, price in self.prices.items()},
            "price_of_both_arms": vars(self.both),
            "arms": {"sft": arms.sft, "sft_again": arms.again, "gkd": arms.gkd, "teacher": arms.teacher},
            "dev": {"rows": arms.dev_rows, "from": arms.dev_from, "chance": self.chance},
            "settings": arms.settings,
            "distillation_loss": self.distillation,
            "stopped": self.stopped,
            "informed_by": {"situations": self.score.situations, "with_pilots": self.score.pilots},
            "parts": self.score.parts,
            "band": self.band,
            "known": known,
        }


@told_once()
def make_forecast(
    recipe: RecipeConfig,
    folder: Path,
    root: Path,
    *,
    pilot: PilotSize = "full",
    budget: float = BUDGET,
    effect: float = EFFECT,
    stage: str | None = None,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    debug: bool = False,
) -> Forecast:
    """Forecast what distilling gains over its fair opponent in a recipe whose relative paths start at `folder`.

    `root`: the folder of all runs. `pilot`: none, one part of the rows, or up to three, until the interval decides.
    `budget`: what the forecast may cost at most, as a share of both arms; the first pilot is made in any case.
    `effect`: the gain in points that is worth having. `stage`: the distill stage. `say` is told what happens.

    No test row is read. Raises TutelageError where the recipe has no two arms, or when a run fails.
    """
    arms = find_arms(recipe, folder, stage)
    trials, prices = Trials(arms, folder, root, jobs, debug), Prices()
    others = _others(root, _fingerprint(recipe))
    rows = load_dataset(DEV, arms.recipe.data[DEV], folder).conversations
    chance = chance_score(rows, arms.metric)
    known = Situation(
        name=recipe.name,
        source="",
        task=recipe.name,
        metric=arms.metric,
        teacher=SAME if arms.same_data else "given",
        student=arms.start,
        rows=float(arms.rows),
    )
    stopped, done, distillation, apart = "", list[Run](), None, list[Finding]()
    say(f"before training: {arms.start} and {arms.given_teacher} on {arms.dev_rows} dev rows ({arms.dev_from})")
    try:
        done += trials.before()
        trials.check(done)  # alone: whether the two can be compared decides if there are pilots
        trials.check([*done, *(run for share in shares_of(pilot, arms.rows) for run in trials.part(share))])
        trials.do(done)
        known = replace(known, signals=trials.signals())
    except TutelageError as error:
        if not any(words in str(error) for words in ANOTHER):
            raise
        apart = [_another_tokenizer(error)]
        stopped, done = "teacher and student cannot be compared token by token", []
    prices.timed = trials.alone(done)
    whole = [trials.arm(name) for name in (arms.again, arms.gkd)]
    both = list({run.fingerprint: run for arm in whole for run in arm}.values())
    if not apart:
        for share in shares_of(pilot, arms.rows):
            stopped = _why_not(arms, trials, prices, done, both, share, budget, known)
            if stopped:
                break
            planned = prices.of(trials.alone([*done, *trials.part(share)]))
            if not known.pilots and (dear := dear_text(planned, prices.of(both))):
                say(f"note: {dear}")
            say(f"pilot on {part_rows(arms, share):,} of {arms.rows:,} rows")
            done += trials.part(share)
            trials.do(done)
            prices.timed = trials.alone(done)
            known = replace(known, pilots=(*known.pilots, trials.pilot(share)))
            distillation = trials.distillation_loss(share)
            if is_decided(predict(known, others).gain, effect):
                stopped = "the interval decides"
                break
    score, loss = predict(known, others), predict(known, others, "loss")
    findings = [*apart, *find_problems(known, arms.dev_rows, chance)]
    return Forecast(
        recipe=recipe.name,
        fingerprint=_fingerprint(recipe),
        arms=arms,
        known=known,
        score=score,
        loss=loss,
        answer=decide(known, score, loss, findings, effect),
        effect=effect,
        chance=chance,
        prices={
            OWN_PRICE: prices.spent(trials.alone(done)),
            "SFT, then SFT again": prices.of(whole[0]),
            "SFT, then GKD": prices.of(whole[1]),
        },
        distillation=distillation,
        band=band_of(known, others),
        both=prices.of(both),
        stopped=stopped or _asked(pilot, arms.rows),
    )


def shares_of(pilot: PilotSize, rows: int) -> list[float]:
    """The shares of `rows` rows that pilots take, smallest first, each at least FEWEST rows and at most a quarter."""
    most = SHARES["full"][-1]
    shares = [max(share, FEWEST / rows) for share in SHARES[pilot]]
    return sorted({share for share in shares if share <= most})


def _why_not(
    arms: Arms,
    trials: Trials,
    prices: Prices,
    done: Sequence[Run],
    both: Sequence[Run],
    share: float,
    budget: float,
    known: Situation,
) -> str:
    """Why no pilot of this share is made; empty if one is."""
    if not known.pilots:
        return ""
    wanted = prices.work(trials.alone([*done, *trials.part(share)]))
    whole = prices.work(both)
    if wanted is not None and whole and wanted > budget * whole:
        return f"a pilot on {part_rows(arms, share):,} rows would cost more than {100 * budget:.0f} % of both arms"
    return ""


def _asked(pilot: PilotSize, rows: int) -> str:
    if pilot == "none":
        return "no pilot was asked for"
    if not shares_of(pilot, rows):
        return f"a quarter of {rows:,} rows is too few for a pilot"
    return "every part that was asked for is made"


def band_of(known: Situation, others: Sequence[Situation]) -> tuple[tuple[float, float, float, float], ...]:
    """The forecast for fewer and more rows, from the smallest pilot to four times the rows."""
    first = min([pilot.rows for pilot in known.pilots] or [known.rows / 16])
    found = []
    for rows in np.geomspace(max(1.0, first), 4 * known.rows, BAND):
        gain = predict(replace(known, rows=float(rows)), others).gain
        found.append((float(rows), gain.mean, *gain.interval()))
    return tuple(found)


def _another_tokenizer(error: TutelageError) -> Finding:
    line = str(error).split(". Choose")[0].split(": ", 1)[-1] if ": " in str(error) else str(error)
    return Finding(
        "another_tokenizer",
        f"teacher and student have different tokenizers, so the student cannot match its probabilities ({line})",
        "choose a teacher of the student's family, or a `seqkd` stage, which learns from the teacher's text",
    )


def _others(root: Path, own: str) -> list[Situation]:
    """All situations with a known outcome but the recipe's own."""
    return [*shipped_situations(), *(one for one in recorded_situations(root) if one.source != f"recipe {own}")]


def _fingerprint(recipe: RecipeConfig) -> str:
    return fingerprint(recipe)


def _interval(gain: Mixture, effect: float) -> dict[str, float]:
    low, high = gain.interval()
    return {
        "mean": gain.mean,
        "low": low,
        "high": high,
        "chance_above_0": 1 - gain.below(0.0),
        "chance_above_effect": 1 - gain.below(effect),
    }
