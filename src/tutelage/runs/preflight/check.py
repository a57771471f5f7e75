"""The checks before the first run: everything that is missing is shown at once, not when a run fails on it hours later.

Only runs that are not done are looked at, and only their inputs: nothing is written, and of a model no weights are
loaded or downloaded. What a stage of the plan makes is not looked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tutelage.common.errors import TutelageError
from tutelage.common.progress import print_note
from tutelage.runs.preflight.problem import Problem
from tutelage.runs.run import Run


def find_problems(
    runs: Sequence[Run],
    root: Path,
    *,
    network: bool = True,
    data: bool = True,
    here: bool = True,
    ranks: int = 1,
    jobs: int = 1,
) -> list[Problem]:
    """The problems of the runs that are not done, each once, and what stays unscored in any. Asks and looks for nothing
    when all runs are done.

    `root`: the folder of all runs. `network`: ask the hub for what is not in its local cache. `data`: look for data
    sections too (False: they have been read already). `here`: the runs use this machine's memory and packages. `ranks`:
    of a training run. `jobs`: runs at the same time.
    """
    from tutelage.runs.preflight.judge import unscored_notes

    notes = list(unscored_notes(runs))
    waiting = [run for run in runs if not run.done]
    if not waiting:
        return notes
    from tutelage.runs.preflight.inputs import input_problems
    from tutelage.runs.preflight.machine import disk_problems, memory_problems

    found = [*input_problems(waiting, network, data, here, ranks), *disk_problems(waiting, root, jobs), *notes]
    if here:
        found += memory_problems(waiting, ranks)
    return list(dict.fromkeys(found))


def refuse_problems(problems: Sequence[Problem]) -> None:
    """Print what does not stop a run as notes. Raises TutelageError, after all problems are printed, if one does."""
    for problem in problems:
        if not problem.stops:
            print_note(problem.text)
    stopping = [problem.text for problem in problems if problem.stops]
    if len(stopping) > 1:
        for text in stopping:
            print(f"problem: {text}", file=sys.stderr, flush=True)
        raise TutelageError(f"{len(stopping)} problems (above), so nothing was started: correct them and try again")
    if stopping:
        raise TutelageError(stopping[0])
