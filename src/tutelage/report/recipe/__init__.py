"""The report of a recipe."""

from tutelage.report.recipe.page import build_report

__all__ = ["build_report"]
