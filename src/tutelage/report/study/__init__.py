"""The report of a study."""

from tutelage.report.study.page import write_study_report

__all__ = ["write_study_report"]
