"""What a folder of runs holds by now: each run's state, its curves, its samples, and the reports.

Reads only; a file that is absent, half written or damaged is nothing yet. Links that lead out of the folder are not
followed.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.common import run_folder
from tutelage.common.locks import lives
from tutelage.common.metrics_log import LinesTail, steps_and_eta
from tutelage.common.planned import planned

CURVES = ("loss", "validation_loss", "learning_rate", "sampled_tokens_per_s", "tokens_per_s")
REPORT = "report.html"
MOST_POINTS = 2000  # that one answer sends of a run; more are thinned evenly
MOST_SAMPLES = 3  # that are shown of a run, the latest
LONGEST_TEXT = 4000  # characters of a sample's prompt or answer, or of a reason
FRESH_SECONDS = 1.0  # the folder is looked at no more often, however many pages are open


class Curves:
    """The points and samples of one run, read as they come."""

    def __init__(self, folder: Path) -> None:
        self._metrics = LinesTail(folder / run_folder.METRICS)
        self._samples = LinesTail(folder / run_folder.SAMPLES)
        self.lines: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.begun = 0  # how often the file began anew

    def read(self) -> None:
        replaced, rows = self._metrics.read()
        if replaced:
            self.lines, self.begun = [], self.begun + 1
        self.lines += [_point(row) for row in rows]
        replaced, rows = self._samples.read()
        self.samples = [*([] if replaced else self.samples), *map(_sample, rows)][-MOST_SAMPLES:]

    @property
    def damaged(self) -> int:
        """How many lines are left out because they are not as they were written."""
        return self._metrics.damaged + self._samples.damaged

    def news(self, begun: int, known: int) -> dict[str, Any]:
        """What a page lacks that has `known` points of the file that began for the `begun`th time."""
        first = known if begun == self.begun and 0 <= known <= len(self.lines) else 0
        new = self.lines[first:]
        every = max(1, math.ceil(len(new) / MOST_POINTS))
        kept = new[::-1][::every][::-1]  # the last one always
        out = {name: [line.get(name) for line in kept] for name in ("step", *CURVES)} if new else {}
        out |= {"begun": self.begun, "first": first, "known": len(self.lines)}
        return out | ({"samples": self.samples} if new or not first else {})  # a sample comes with its step's line


class RunsView:
    """The folder `root` of all runs, looked at again and again. Methods may be called from several threads."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.reports: dict[str, Path] = {}  # by the folder's name
        self._runs: dict[str, dict[str, Any]] = {}  # by the folder's name: what the page shows of it
        self._done: dict[str, tuple[int, int]] = {}  # finished runs: time and size of their result, read once
        self._curves: dict[str, Curves] = {}
        self._lock, self._read_at = threading.Lock(), -math.inf

    def news(self, have: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
        """All runs and reports, and the curves of those named in `have`, from the point on that it gives: how often the
        file had begun, and how many points are known. Names that are no runs are ignored."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._look()
                self._read_at = time.monotonic()
            curves: dict[str, Any] = {}
            for name, (begun, known) in have.items():
                if name in self._runs and self._runs[name]["state"] != "queued":
                    if self._runs[name]["state"] != "running":  # else `_look` has read it
                        self._curves_of(name).read()
                    curves[name] = self._curves_of(name).news(begun, known)
            reports = [{"name": name, "changed": _changed(path)} for name, path in sorted(self.reports.items())]
            return {"folder": self.root.name, "runs": list(self._runs.values()), "reports": reports, "curves": curves}

    def report_file(self, name: str, file: str) -> Path | None:
        """The file `file` of the report in the folder `name`; None for anything else."""
        page = self.reports.get(name)
        if page is None:
            return None
        try:
            path = (page.parent / file).resolve()
            return path if path.is_relative_to(page.parent) and path.is_file() else None
        except (OSError, ValueError):
            return None

    def _look(self) -> None:
        self.reports, runs = {}, {}
        for folder in self._folders():
            if (folder / REPORT).is_file():
                self.reports[folder.name] = folder / REPORT
            if (folder / run_folder.CONFIG).is_file() or (folder / run_folder.LOCK).is_file():
                runs[folder.name] = self._run(folder)
        waiting = planned(self.root)
        stuck = [name for name, run in runs.items() if run["state"] in ("failed", "blocked")]
        for row in waiting:
            name = row["folder"]
            if name not in runs or runs[name]["state"] == "stopped":
                parents = row.get("parents")
                because = [one for one in parents if one in stuck] if isinstance(parents, list) else []
                state, reason = (
                    ("blocked", f"builds on a run that failed: {because[0]}") if because else ("queued", None)
                )
                stuck += [name] if because else []
                runs[name] = {"name": name, **_known(row), "state": state, "reason": reason}
        _tell_apart(self.root, runs)
        self._runs = runs

    def _folders(self) -> list[Path]:
        """The folders in `root`, those that are links to elsewhere left out."""
        try:
            with os.scandir(self.root) as entries:
                inside = [entry for entry in entries if not entry.is_symlink() and entry.is_dir()]
        except OSError:
            return []
        return [self.root / name for name in sorted(entry.name for entry in inside) if not name.startswith(".")]

    def _run(self, folder: Path) -> dict[str, Any]:
        """What the page shows of one run."""
        name, result = folder.name, folder / run_folder.RESULT
        mark = _mark(result)
        if mark is not None and self._done.get(name) == mark and name in self._runs:
            return self._runs[name]
        config = _read(folder / run_folder.CONFIG)
        run: dict[str, Any] = {"name": name, **_known(config)}
        if mark is not None:
            self._done[name] = mark
            content = _read(result)
            run |= {"seconds": _number(content.get("seconds")), "score": _score(content)}
            return run | {"state": "done", "ended": result.stat().st_mtime}
        if lives(folder / run_folder.LOCK):
            curves = self._curves_of(name)
            curves.read()
            training = config.get("training")
            kept = training if isinstance(training, dict) else {}
            counts = {key: _number(kept.get(key)) for key in ("max_steps", "epochs")}
            done, total, eta = steps_and_eta(curves.lines, counts)
            return run | {
                "state": "running",
                "step": done,
                "steps": total,
                "eta": _number(eta),
                "damaged": curves.damaged,
            }
        reason = _text(folder / run_folder.ERROR).strip().splitlines()
        return run | ({"state": "failed", "reason": reason[-1][:LONGEST_TEXT]} if reason else {"state": "stopped"})

    def _curves_of(self, name: str) -> Curves:
        return self._curves.setdefault(name, Curves(self.root / name))


def _tell_apart(root: Path, runs: Mapping[str, dict[str, Any]]) -> None:
    """Give runs of one stage and seed, which differ in settings or data, the time at which they ended or were begun."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for run in runs.values():
        run.pop("when", None)
        alike.setdefault(json.dumps([run.get("stage"), run.get("seed")]), []).append(run)
    for run in (run for several in alike.values() if len(several) > 1 for run in several):
        file = run_folder.RESULT if run["state"] == "done" else run_folder.CONFIG
        if (mark := _mark(root / run["name"] / file)) is not None:
            run["when"] = mark[0] / 1e9


def _known(about: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is: texts and whole numbers, since others may not be JSON, and None for anything else."""
    found = {key: about.get(key) for key in ("stage", "kind", "seed")}
    return {key: value if isinstance(value, str | int) else None for key, value in found.items()}


def _point(line: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a line of metrics that are shown or reckoned with."""
    kept = {key: value for key in (*CURVES, "epoch", "seconds") if (value := _number(line.get(key))) is not None}
    step = _number(line.get("step"))
    return kept if step is None else {"step": int(step), **kept}


def _sample(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": _number(line.get("step")),
        "prompt": str(line.get("prompt", ""))[-LONGEST_TEXT:],
        "answer": str(line.get("answer", ""))[:LONGEST_TEXT],
        "cut": line.get("cut") is True,
    }


def _number(value: Any) -> float | None:
    """`value` if it is a finite number: JSON, as browsers read it, has no others."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _score(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The headline score of an evaluation's result, with its standard error."""
    metrics, headline = result.get("metrics"), result.get("headline")
    found = metrics.get(headline) if isinstance(metrics, dict) and isinstance(headline, str) else None
    if not isinstance(found, dict) or _number(found.get("value")) is None:
        return None
    edge = found["value"] in (0, 100) and found.get("stderr") == 0  # where all examples score the same, none is known
    return {"metric": headline, "value": found["value"], "stderr": None if edge else _number(found.get("stderr"))}


def _read(path: Path) -> dict[str, Any]:
    """The object of a JSON file; an empty one where there is none yet."""
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(path: Path) -> str:
    """The text of a regular file, not of a link; empty where there is none."""
    try:
        if path.is_symlink() or not path.is_file():
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _mark(path: Path) -> tuple[int, int] | None:
    """Time of change and size of a regular file; None where there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def parse_have(content: Any) -> dict[str, tuple[int, int]]:
    """What a page says it has: by run, how often its file had begun and how many points are known.

    Raises ValueError for anything else.
    """
    if not isinstance(content, dict):
        raise ValueError("no object")
    out: dict[str, tuple[int, int]] = {}
    for name, pair in content.items():
        whole: Sequence[Any] = pair if isinstance(pair, list) else ()
        if len(whole) != 2 or not all(type(number) is int for number in whole):
            raise ValueError(f"{name}: no pair of whole numbers")
        out[name] = (whole[0], whole[1])
    return out
