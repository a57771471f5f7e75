"""The `signals` run: what a teacher knows that a student does not, token by token, before either is trained.

With T and S the two models' distributions of a token after the same text, and y the token that stands there:

    KL(T ‖ S) = KL(T(y), 1 − T(y) ‖ S(y), 1 − S(y)) + (1 − T(y)) · KL(T(· | not y) ‖ S(· | not y))

(the chain rule of KL). On gold responses the first term is about the gold token alone, which a label already says; the
second is what no label says.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tutelage.common.types import MicroBatch, TeacherSignal, TokenSequence
from tutelage.data.batch import make_micro_batches
from tutelage.data.encode_rows import messages_asked
from tutelage.evaluation.records import ExampleRecord, write_records
from tutelage.evaluation.tasks import prompt_text
from tutelage.loss.chunk import chunk_logits
from tutelage.loss.divergence import distributions, entropy, forward_kl
from tutelage.models.language_model import LanguageModel
from tutelage.models.limits import embedding_rows
from tutelage.models.load import LoadedModel, load_model
from tutelage.models.vocabulary import check_vocabularies
from tutelage.recipe.study import SignalsTask
from tutelage.runs.run import Run
from tutelage.runs.stages.encode import encoded, readable_length
from tutelage.sampling.make_sampler import make_sampler
from tutelage.teachers.local import LocalTeacher
from tutelage.training.on_policy import RolloutPlan, write_responses

BINS = 10  # of the calibration error
CHUNK = 128 * 49_152  # elements of the logits that are alive at a time


@dataclass(frozen=True)
class TokenSignals:
    """Per-token values [n] of two models on the same tokens; losses, entropies and divergences in nats."""

    student_loss: Tensor
    teacher_loss: Tensor
    kl: Tensor  # KL(T ‖ S)
    kl_label: Tensor  # its part about the token that stands there
    teacher_entropy: Tensor
    teacher_confidence: Tensor  # the largest probability
    teacher_right: Tensor  # 1.0 where that token is the one that stands there
    agreement: Tensor  # 1.0 where both models' most likely token is the same


def measure_signals(run: Run) -> dict[str, Any]:
    """Measure the signals of the run's teacher (`teacher`) for its student (`model`); returns the content of
    result.json.

    Losses, KL and its two parts, entropy and calibration are means over the response tokens of the first `rows` rows;
    `kl_own` is KL(T ‖ S) on one sample of the student per row. One record per row. Raises TutelageError when the two
    models' tokenizers differ.
    """
    task: SignalsTask = run.config
    kind = torch.bfloat16 if run.device == "cuda" else torch.float32
    student, teacher = (load_model(run.models[role], run.device, kind) for role in ("model", "teacher"))
    check_vocabularies(teacher.tokenizer, student.tokenizer)
    data = encoded(run, task.data, student, task.max_length, teacher)
    gold = [sequence for sequence in data.sequences if sequence.index < task.rows]
    last = list({sequence.index: sequence for sequence in gold}.values())
    longest = readable_length(task.max_length, student, teacher)
    plan = RolloutPlan(1.0, task.sampling, run.seed, longest, embedding_rows(teacher.model), teacher.context)
    own = write_responses(plan, last, 0, 0, make_sampler(student, task.sampling), None)
    frozen = LocalTeacher(teacher, student.template.end_of_turn_id)
    on_gold, on_own = (_by_row(student, frozen, rows, task.tokens_per_micro_batch) for rows in (gold, own))
    records = []
    for sequence in last:
        conversation, values = data.conversations[sequence.index], on_gold[sequence.index]
        means = {name: float(value.mean()) for name, value in asdict(values).items()}
        scores: dict[str, float | None] = {
            name: means[name] for name in ("student_loss", "teacher_loss", "kl", "kl_label")
        }
        scores["kl_own"] = float(on_own[sequence.index].kl.mean())
        asked = messages_asked(conversation, sequence)
        records.append(
            ExampleRecord(
                id=conversation.id,
                prompt=prompt_text(asked),
                response=conversation.messages[len(asked)].content,
                references=(),
                scores=scores,
                answer=None,
                reason="nats per response token, of both models before training",
                finished=True,
                tokens=len(values.kl),
            )
        )
    write_records(run.folder, records)
    return {
        "kind": run.kind,
        "stage": run.stage,
        "task": run.task,
        "model": run.subject,
        "seed": run.seed,
        "n": len(records),
        "unscored": 0,
        "headline": "kl",
        "metrics": _metrics(on_gold, on_own),
        "cut": sum(sequence.cut for sequence in gold),
        "own_cut": sum(sequence.cut for sequence in own),
        "weights": {"model": _weights(student), "teacher": _weights(teacher)},
        "response_tokens": sum(len(one.kl) for one in on_gold.values()),
    }


def token_signals(student: TeacherSignal, teacher: TeacherSignal, labels: Tensor) -> TokenSignals:
    """The signals of tokens `labels` [n], from both models' hidden states at the predicting positions and heads."""
    vocabulary = min(student.head.weight.shape[0], teacher.head.weight.shape[0])
    step = max(1, CHUNK // vocabulary)
    parts = []
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        logits = [chunk_logits(one.hidden[part], one.head)[:, :vocabulary] for one in (student, teacher)]
        parts.append(logit_signals(logits[0], logits[1], labels[part]))
    return _joined(parts)


def logit_signals(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> TokenSignals:
    """The signals of tokens `labels` [n] from both models' logits [n, V]."""
    both = distributions(student_logits, teacher_logits)
    assert both.teacher is not None
    assert both.teacher_norm is not None
    at = labels[:, None]
    student_log = (student_logits.gather(-1, at) - both.student_norm).squeeze(-1)
    teacher_log = (teacher_logits.gather(-1, at) - both.teacher_norm).squeeze(-1)
    kl = forward_kl(student_logits, teacher_logits)
    # 1 − p as the sum of the other probabilities: 1 − p itself is 0 for a sure model
    rest_teacher, rest_student = (_rest(p, at) for p in (both.teacher, both.student))
    label = teacher_log.exp() * (teacher_log - student_log)
    label = label + rest_teacher * (rest_teacher.log() - rest_student.log())
    choice = both.teacher.argmax(-1)
    return TokenSignals(
        student_loss=-student_log,
        teacher_loss=-teacher_log,
        kl=kl,
        kl_label=label.clamp(min=0.0).minimum(kl),
        teacher_entropy=entropy(teacher_logits),
        teacher_confidence=both.teacher.max(-1).values,
        teacher_right=(choice == labels).float(),
        agreement=(choice == both.student.argmax(-1)).float(),
    )


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> float:
    """The expected calibration error: Σ over `bins` equal bins of confidence of share · |mean right − mean confidence|
    (Guo et al. 2017, eq. 3). 0 is perfect."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place.cpu(), (right - confidence).double().cpu())
    return float(gaps.abs().sum() / max(1, len(confidence)))


@torch.no_grad()
def _by_row(
    student: LoadedModel, teacher: LocalTeacher, sequences: list[TokenSequence], budget: int
) -> dict[int, TokenSignals]:
    """The signals of each row's response tokens, by row, in float32 on the CPU."""
    module, device = LanguageModel(student.model).eval(), next(student.model.parameters()).device
    pad, parts = student.tokenizer.pad_token_id or 0, dict[int, list[TokenSignals]]()
    for made in make_micro_batches(sequences, [1.0] * len(sequences), budget, not student.packed, pad):
        batch: MicroBatch = made.to(device)
        found = token_signals(module(batch), teacher.signal(batch), batch.labels)
        for place, index in enumerate(batch.indices):
            mine = batch.rows == place
            values = {name: value[mine].float().cpu() for name, value in vars(found).items()}
            parts.setdefault(index, []).append(TokenSignals(**values))
    return {index: _joined(own) for index, own in parts.items()}


def _joined(parts: list[TokenSignals]) -> TokenSignals:
    return TokenSignals(**{name: torch.cat([getattr(one, name) for one in parts]) for name in vars(parts[0])})


def _rest(probabilities: Tensor, at: Tensor) -> Tensor:
    """Σ of the probabilities of all other tokens, at least the smallest number that has a logarithm."""
    others = probabilities.scatter(-1, at, 0.0).sum(-1)
    return others.clamp(min=torch.finfo(others.dtype).tiny)


def _metrics(gold: dict[int, TokenSignals], own: dict[int, TokenSignals]) -> dict[str, dict[str, float | None]]:
    """Each signal with its standard error over rows; ends: the share of the teacher's lead in loss that is on the first
    and the last response token, which are of form more than of content."""
    metrics = {
        name: _token_mean([getattr(one, name) for one in gold.values()]) for name in vars(next(iter(gold.values())))
    }
    metrics["kl_rest"] = _token_mean([one.kl - one.kl_label for one in gold.values()])
    metrics["kl_own"] = _token_mean([one.kl for one in own.values()])
    whole = _joined(list(gold.values()))
    error = calibration_error(whole.teacher_confidence, whole.teacher_right)
    metrics["teacher_ece"] = {"value": error, "stderr": None}
    leads = [one.student_loss - one.teacher_loss for one in gold.values()]
    ends, total = (
        sum(float(one[0] + one[-1]) if len(one) > 1 else float(one[0]) for one in leads),
        sum(map(_total, leads)),
    )
    metrics["lead_ends"] = {"value": ends / total if abs(total) > 1e-9 else 0.0, "stderr": None}
    return metrics


def _total(values: Tensor) -> float:
    return float(values.double().sum())


def _token_mean(rows: list[Tensor]) -> dict[str, float | None]:
    """Mean over all tokens and its standard error over rows (of a ratio of means)."""
    tokens, n = sum(map(len, rows)), len(rows)
    mean = sum(map(_total, rows)) / tokens
    spread = sum((_total(row) - len(row) * mean) ** 2 for row in rows)
    return {"value": mean, "stderr": math.sqrt(spread * n / (n - 1)) / tokens if n > 1 else None}


def _weights(loaded: LoadedModel) -> int:
    return sum(parameter.numel() for parameter in loaded.model.parameters())
