"""The paper's map: sizes × students × methods, planned, run and watched."""

from tutelage.study.grid import plan_study
from tutelage.study.run_study import run_study
from tutelage.study.status import study_status

__all__ = ["plan_study", "run_study", "study_status"]
