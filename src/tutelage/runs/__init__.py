"""Recipes into runs, runs into results."""

from tutelage.runs.do_run import do_run
from tutelage.runs.planner import Planner
from tutelage.runs.run import Run
from tutelage.runs.run_recipe import run_recipe

__all__ = ["Planner", "Run", "do_run", "run_recipe"]
