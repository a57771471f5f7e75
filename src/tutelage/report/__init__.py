"""What people look at: the pages, tables and figures of recipes and studies."""

from tutelage.report.recipe.page import build_report
from tutelage.report.study.page import write_study_report

__all__ = ["build_report", "write_study_report"]
