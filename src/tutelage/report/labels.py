"""Names of methods, tasks, metrics and kinds of stages in tables and figures."""

from __future__ import annotations

from tutelage.evaluation.page import metric_label as metric_label

AVERAGE = "average"
METHOD_LABELS = {
    "sft": "SFT",
    "sft_again": "SFT again",
    "sft_long": "SFT, as long",
    "gkd_sft": "GKD (SFT-S)",
    "gkd_base": "GKD (Base-S)",
    "gkd_it": "GKD-IT",
    "seqkd": "SeqKD",
    "mix": "Mix",
    "two_stage": "Two-stage",
    "teacher": "Teacher",
    "base": "Untrained",
}
TASK_LABELS = {
    "bbh": "BBH",
    "gpqa": "GPQA",
    "ifeval": "IFEval",
    "infobench": "InFoBench",
    "mmlu_pro": "MMLU-Pro",
    "flores": "Translation",
    "dialogsum": "Summarization",
    "arc_challenge": "ARC-Challenge",
    "arc": "ARC-Challenge",
    AVERAGE: "Average",
}
JUDGED_METRICS = ("drfr",)  # answers of a judge
TRAINED = ("distill", "method", "sft", "seqkd")
KIND_NAMES = {
    "distill": "distilling",
    "method": "another method",
    "sft": "fine-tuning",
    "seqkd": "fine-tuning on the teacher's samples",
}


def short(name: str) -> str:
    """A model's name without the account or the folders before it."""
    return name.rstrip("/").rsplit("/", 1)[-1] or name


def method_name(method: str) -> str:
    """The name of a study's method, such as "GKD (SFT-S)"; an unknown one without underscores."""
    return METHOD_LABELS.get(method, method.replace("_", " "))


def task_label(task: str) -> str:
    """The name of a task or benchmark; an unknown one without underscores."""
    return TASK_LABELS.get(task, task.replace("_", " "))


def size_text(size: int | None) -> str:
    """10000 as 10k, 1100 as 1.1k, 939343 as 939k."""
    if size is None:
        return "all"
    if size < 1000:
        return str(size)
    thousands = size / 1000
    return f"{thousands:.0f}k" if thousands >= 100 or thousands == int(thousands) else f"{thousands:.3g}k"
