"""Distil a large language model into a small one in post-training, and know whether it helped.

From Python: `distill` does all of it with names or rows, `run` a recipe, `plan` says what a recipe would do, `forecast`
whether distilling will help; `evaluate` scores a model, `compare` two evaluations; `Trainer` trains a model of one's
own. docs/python.md has an example of each.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers; at run time a name is imported on first use
    from tutelage.api.distilling import distill
    from tutelage.api.evaluating import compare, evaluate
    from tutelage.api.forecasting import forecast
    from tutelage.api.own_training import Trainer
    from tutelage.api.results import Comparison, Evaluation, Forecast, Model, Plan, RunResult, TrainingResult
    from tutelage.api.running import load_recipe, plan, run
    from tutelage.common.errors import TutelageError

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Evaluation",
    "Forecast",
    "Model",
    "Plan",
    "RunResult",
    "Trainer",
    "TrainingResult",
    "TutelageError",
    "compare",
    "distill",
    "evaluate",
    "forecast",
    "load_recipe",
    "plan",
    "run",
]
_MODULES = {
    "api.distilling": ("distill",),
    "api.evaluating": ("compare", "evaluate"),
    "api.forecasting": ("forecast",),
    "api.own_training": ("Trainer",),
    "api.results": ("Comparison", "Evaluation", "Forecast", "Model", "Plan", "RunResult", "TrainingResult"),
    "api.running": ("load_recipe", "plan", "run"),
    "common.errors": ("TutelageError",),
}


if not TYPE_CHECKING:  # which would take every name for one that this function gives

    def __getattr__(name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                found = getattr(import_module(f"tutelage.{module}"), name)
                globals()[name] = found
                return found
        raise AttributeError(f"module `tutelage` has no attribute `{name}`; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "__doc__", "__name__", "__all__", "__file__", "__path__"]
