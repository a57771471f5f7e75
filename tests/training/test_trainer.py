"""The training step against explicit formulas, however its batch is split."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import jobs
import pytest
import tiny
import torch

from tutelage.common.errors import TutelageError
from tutelage.common.metrics_log import read_metrics
from tutelage.loss.divergence import generalized_jsd
from tutelage.loss.objective import CrossEntropy
from tutelage.training.job import Job
from tutelage.training.on_policy import write_responses
from tutelage.training.trainer import Trainer

LENGTHS = (9, 6, 60, 7, 30, 5, 12)
ALL = {"batch_size": 7, "max_grad_norm": None}


def gradient(job: Job) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The gradients of the first step, and its metrics."""
    trainer = Trainer(job)
    trainer.optimizer.zero_grad = lambda **_: None  # keep the gradients of the step
    metrics = trainer.step(0)
    return {n: p.grad.clone() for n, p in job.student.model.named_parameters() if p.grad is not None}, metrics


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return math.sqrt(sum(float((a[n] - b[n]).double().square().sum()) for n in a))


def size(a: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in a.values()))


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
@pytest.mark.parametrize("on_policy", [0.5, 1.0])
@pytest.mark.slow
def test_splitting_a_batch_does_not_change_the_gradient(tmp_path: Path, reduction: str, on_policy: float):
    options = {**ALL, "reduction": reduction}
    whole, metrics = gradient(jobs.gkd(tmp_path, on_policy, LENGTHS, **options, tokens_per_micro_batch=10**6))
    scale = max(1.0, size(whole))  # a sum over tokens is about a hundred times a mean
    for budget in (1, 70):
        parts, _ = gradient(
            jobs.gkd(tmp_path / str(budget), on_policy, LENGTHS, **options, tokens_per_micro_batch=budget)
        )
        assert distance(whole, parts) <= 1e-5 * scale
    assert size(whole) == pytest.approx(metrics["grad_norm"], rel=1e-5)
    assert size(whole) > 1e-2


def test_splitting_a_padded_batch_does_not_change_the_gradient(tmp_path: Path):
    whole, _ = gradient(jobs.gkd(tmp_path, 0.5, LENGTHS, packed=False, **ALL))
    parts, _ = gradient(jobs.gkd(tmp_path / "x", 0.5, LENGTHS, packed=False, **ALL, tokens_per_micro_batch=1))
    assert distance(whole, parts) <= 1e-5
    assert size(whole) > 1e-3


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
def test_reductions_equal_their_formulas(tmp_path: Path, reduction: str):
    """Full logits of one sequence at a time through plain transformers models, and autograd."""
    eight = {**ALL, "batch_size": 8}  # seven sequences, one of which counts twice
    job = jobs.gkd(tmp_path, 0.5, LENGTHS, **eight, reduction=reduction)
    doubled = [dataclasses.replace(s, weight=2.0 if s.index == 3 else 1.0) for s in job.examples]
    job = dataclasses.replace(job, examples=doubled)
    assert job.rollouts is not None
    responses = write_responses(job.rollouts, doubled, 0, 0, job.sampler, None)
    assert {s.author for s in responses} == {"data", "student"}
    assert max(s.response_tokens for s in responses) >= 10 * min(s.response_tokens for s in responses)

    student, teacher = tiny.llama(packed=False), tiny.llama(layers=3, hidden=48, seed=1, packed=False)
    terms = []  # per sequence: copies, sum over its tokens, number of its tokens
    for s in responses:
        with torch.no_grad():
            target = teacher(s.ids[None]).logits[0, :-1]
        per_token = generalized_jsd(student(s.ids[None]).logits[0, :-1], target, 0.5)
        terms.append((s.weight, per_token[s.loss_mask[1:]].sum(), int(s.loss_mask[1:].sum())))
    loss = of_reduction(reduction, terms)
    loss.backward()
    expected = {n: p.grad for n, p in student.named_parameters()}

    got, metrics = gradient(job)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["response_tokens"] == sum(n for _, _, n in terms)
    assert distance(got, expected) <= 1e-5 * max(1.0, size(expected))


def of_reduction(reduction: str, terms: list[tuple[float, torch.Tensor, int]]) -> torch.Tensor:
    """Each sequence's (copies, sum over tokens, response tokens) as one loss, divided by all of the batch."""
    if reduction == "token":
        return sum(w * t for w, t, _ in terms) / sum(w * n for w, _, n in terms)
    if reduction == "sequence":
        return sum(w * t / n for w, t, n in terms) / sum(w for w, _, _ in terms)
    return sum(w * t for w, t, _ in terms)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 1.0), (0.9, 2.0)])
@pytest.mark.slow
def test_cross_entropy_beside_the_divergence_is_the_formula_in_float64(
    tmp_path: Path, reduction: str, alpha: float, temperature: float
):
    """α · CE on the data's responses + (1 − α) · KD on all; nothing here is shared with the code under test."""
    options = {**ALL, "reduction": reduction, "ce_weight": alpha, "temperature": temperature}
    job = jobs.gkd(tmp_path, 0.5, LENGTHS, **options)
    assert job.rollouts is not None
    responses = write_responses(job.rollouts, job.examples, 0, 0, job.sampler, None)
    assert {s.author for s in responses} == {"data", "student"}
    student = tiny.llama(packed=False).double()
    teacher = tiny.llama(layers=3, hidden=48, seed=1, packed=False).double()
    hard, soft = [], []
    for s in responses:
        with torch.no_grad():
            t = (teacher(s.ids[None]).logits[0, :-1] / temperature).softmax(-1)
        logits = student(s.ids[None]).logits[0, :-1]
        q = (logits / temperature).softmax(-1)
        m = 0.5 * t + 0.5 * q
        jsd = 0.5 * (t * (t / m).log()).sum(-1) + 0.5 * (q * (q / m).log()).sum(-1)
        ce = -logits.log_softmax(-1).gather(-1, s.ids[1:, None])[:, 0]
        mask, own = s.loss_mask[1:], s.author == "student"
        soft.append((1.0, jsd[mask].sum(), int(mask.sum())))
        hard.append((1.0, ce[mask].sum() * (0.0 if own else 1.0), int(mask.sum())))
    ce_loss, kd_loss = of_reduction(reduction, hard), of_reduction(reduction, soft)
    loss = alpha * ce_loss + (1 - alpha) * kd_loss
    loss.backward()
    expected = {n: p.grad for n, p in student.named_parameters()}

    got, metrics = gradient(job)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["ce_loss"] == pytest.approx(ce_loss.item(), rel=1e-5)
    assert metrics["kd_loss"] == pytest.approx(kd_loss.item(), rel=1e-4)
    assert distance(got, expected) <= 2e-5 * max(1.0, size(expected))
    parts, _ = gradient(jobs.gkd(tmp_path / "cut", 0.5, LENGTHS, **options, tokens_per_micro_batch=40))
    assert distance(got, parts) <= 1e-5 * max(1.0, size(got))


def test_without_ce_weight_a_step_is_as_before(tmp_path: Path):
    _, metrics = gradient(jobs.gkd(tmp_path, 0.5, LENGTHS, **ALL))
    assert "ce_loss" not in metrics


def test_held_out_data_is_measured_with_both_terms(tmp_path: Path):
    job = jobs.gkd(tmp_path, 0.5, LENGTHS, **ALL, ce_weight=0.25)
    job = dataclasses.replace(job, validation=tiny.sequences((20, 9), seed=5))
    found = Trainer(job).validate()
    assert found["validation_ce_loss"] == pytest.approx(found["validation_cross_entropy"], rel=1e-6)
    both = 0.25 * found["validation_ce_loss"] + 0.75 * found["validation_kd_loss"]
    assert found["validation_loss"] == pytest.approx(both, rel=1e-6)
    plain = Trainer(dataclasses.replace(job, ce_weight=0.0)).validate()
    assert found["validation_kd_loss"] == pytest.approx(plain["validation_loss"], rel=1e-4)


def test_sft_value_is_the_mean_over_response_tokens(tmp_path: Path):
    job = jobs.sft(tmp_path, LENGTHS, **ALL)
    model, nats, tokens = tiny.llama(packed=False), 0.0, 0
    with torch.no_grad():
        for s in job.examples:
            logp = model(s.ids[None]).logits[0, :-1].log_softmax(-1)
            nats -= float(logp.gather(-1, s.ids[1:, None])[s.loss_mask[1:]].sum())
            tokens += len(s.ids) - 4
    metrics = Trainer(job).step(0)
    assert metrics["loss"] == pytest.approx(nats / tokens, rel=1e-5) == metrics["cross_entropy"]
    assert (metrics["response_tokens"], metrics["tokens"]) == (tokens, sum(LENGTHS))


def test_a_teacher_equal_to_the_student_teaches_nothing(tmp_path: Path):
    got, metrics = gradient(jobs.gkd(tmp_path, 0.5, LENGTHS, **ALL, teacher=tiny.llama()))
    assert abs(metrics["loss"]) < 1e-9
    assert abs(metrics["forward_kl"]) < 1e-9
    assert metrics["agreement"] == 1.0
    assert size(got) < 1e-6


# --- ten steps, recorded when the formulas above held ---------------------------------------------------------------

GOLDEN_SFT = [4.653636, 4.629361, 4.647300, 4.576409, 4.517196, 4.374371, 4.223180, 4.320140, 4.117736, 4.317817]
GOLDEN_GKD = [0.030358, 0.029274, 0.023766, 0.026213, 0.020684, 0.029025, 0.020856, 0.021707, 0.020793, 0.017312]


@pytest.mark.parametrize(("make", "expected"), [(jobs.sft, GOLDEN_SFT), (jobs.gkd, GOLDEN_GKD)], ids=["sft", "gkd"])
@pytest.mark.slow
def test_golden_losses(tmp_path: Path, make, expected: list[float]):
    Trainer(make(tmp_path, lengths=LENGTHS * 3, max_steps=10, epochs=2, learning_rate=5e-3)).run()
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == pytest.approx(
        expected, abs=1e-4 if make is jobs.sft else 1e-5
    )


@pytest.mark.slow
def test_overfits_four_sequences(tmp_path: Path):
    job = jobs.sft(tmp_path, (9, 12, 14, 16), max_steps=30, epochs=30, learning_rate=2e-2, schedule="constant")
    last = Trainer(job).run()
    first = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert first["loss"] > math.log(97) - 1
    assert last["loss"] < 0.1 * first["loss"]


def test_every_example_is_seen_once_per_epoch_in_a_new_order(tmp_path: Path):
    trainer = Trainer(jobs.sft(tmp_path, LENGTHS, batch_size=3, epochs=2))
    order = [[s.index for s in trainer._examples(step)] for step in range(trainer.total_steps)]
    assert [len(batch) for batch in order] == [3, 3, 1, 3, 3, 1]
    first, second = ([i for batch in part for i in batch] for part in (order[:3], order[3:]))
    assert sorted(first) == sorted(second) == list(range(7))
    assert first != second


# --- what goes wrong -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class BrokenAfter(CrossEntropy):
    """Cross-entropy whose values are NaN after `calls` calls."""

    calls: list[int] = dataclasses.field(default_factory=lambda: [2])

    def value_and_gradient(self, student_logits, teacher_logits, labels, known=None):
        values, slope = super().value_and_gradient(student_logits, teacher_logits, labels, known)
        self.calls[0] -= 1
        return (values, slope) if self.calls[0] >= 0 else (values * math.nan, slope)


def test_a_nan_loss_stops_training_with_the_weights_before_it(tmp_path: Path):
    good = jobs.sft(tmp_path / "good", LENGTHS, batch_size=3, max_steps=3)
    (tmp_path / "good").mkdir()
    trainer = Trainer(good)
    trainer.step(0), trainer.step(1)
    bad = jobs.sft(tmp_path, LENGTHS, batch_size=3, max_steps=3, checkpoint_every=1)
    with pytest.raises(TutelageError, match=r"loss nan.*at step 3 \(data rows \[\d\].*learning_rate") as caught:
        Trainer(dataclasses.replace(bad, objective=BrokenAfter())).run()
    assert "\n" not in str(caught.value)
    row = trainer._examples(2)[0].index
    assert f"rows [{row}]" in str(caught.value)
    for a, b in zip(good.student.model.parameters(), bad.student.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert (tmp_path / "checkpoints" / "checkpoint-00000002").is_dir()


def test_a_gradient_that_is_not_finite_stops_training(tmp_path: Path):
    job = jobs.sft(tmp_path)
    with torch.no_grad():
        job.student.model.model.norm.weight[0] = math.inf
    with pytest.raises(TutelageError, match=r"gradient norm nan at step 1.*The student `the model` itself") as caught:
        Trainer(job).step(0)
    assert "learning_rate" not in str(caught.value)  # no step was made with it


@pytest.mark.parametrize("packed", [True, False])
def test_a_teacher_of_nan_is_blamed_by_name(tmp_path: Path, packed: bool):
    job = jobs.gkd(tmp_path, 0.0, packed=packed)
    assert job.teacher is not None
    with torch.no_grad():
        job.teacher.loaded.model.model.norm.weight[0] = math.nan
    message = r"^the teacher `the model` gives numbers that are not finite \(step 1,"
    with pytest.raises(TutelageError, match=message) as caught:
        Trainer(job).step(0)
    assert "learning_rate" not in str(caught.value)


def test_a_batch_without_response_tokens_is_a_one_line_error(tmp_path: Path):
    job = jobs.sft(tmp_path, LENGTHS)
    silent = [dataclasses.replace(s, loss_mask=torch.zeros_like(s.loss_mask)) for s in job.examples]
    with pytest.raises(TutelageError, match=r"no response token in a whole batch \(rows \[.*max_length") as caught:
        Trainer(dataclasses.replace(job, examples=silent)).run()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reduction", ["token", "sequence", "sum"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_one_example_without_response_tokens_changes_nothing(tmp_path: Path, reduction: str, precision: str):
    """Even alone in its micro-batch. With `sequence` it counts as one more sequence, of loss 0."""
    options = {"batch_size": 3, "max_grad_norm": None, "reduction": reduction, "precision": precision}
    job = jobs.sft(tmp_path, (9, 6, 7), **options, tokens_per_micro_batch=1)
    silent = dataclasses.replace(job.examples[1], loss_mask=torch.zeros(6, dtype=torch.bool))
    got, _ = gradient(dataclasses.replace(job, examples=[job.examples[0], silent, job.examples[2]]))
    other = jobs.sft(tmp_path, (9, 6, 7), **options)
    rest, _ = gradient(dataclasses.replace(other, examples=[other.examples[0], other.examples[2]]))
    share = 2 / 3 if reduction == "sequence" else 1.0
    difference = distance(got, {n: share * g for n, g in rest.items()})
    assert difference <= (1e-5 if precision == "float32" else 1e-2) * max(1.0, size(rest))


# --- precision, validation, trackers ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_float32_masters_under_bfloat16_compute(tmp_path: Path):
    seen: list[torch.dtype] = []
    job = jobs.gkd(tmp_path, 0.5, LENGTHS, max_steps=4, epochs=4, precision="bfloat16", learning_rate=1e-6)
    job.student.model.model.layers[0].mlp.register_forward_hook(
        lambda m, _, out: seen.append(out.dtype) if m.training else None
    )
    before = [p.detach().clone() for p in job.student.model.parameters()]
    last = Trainer(job).run()
    assert set(seen) == {torch.bfloat16}
    for old, new in zip(before, job.student.model.parameters(), strict=True):
        assert new.dtype == torch.float32
        moved = (new.detach() - old).abs()
        # A step of 1e-6 is far below bfloat16's resolution of these weights, and is not rounded away.
        assert 0 < float(moved.max()) < 1e-5
    other = tmp_path / "float32"
    other.mkdir()
    exact = Trainer(jobs.gkd(other, 0.5, LENGTHS, max_steps=4, epochs=4, learning_rate=1e-6)).run()
    assert last["loss"] == pytest.approx(exact["loss"], rel=0.05)


def test_pure_bfloat16_only_on_request(tmp_path: Path):
    job = jobs.sft(tmp_path, LENGTHS, max_steps=1, precision="pure_bfloat16")
    Trainer(job).run()
    assert {p.dtype for p in job.student.model.parameters()} == {torch.bfloat16}


def test_validation_is_the_mean_over_held_out_response_tokens(tmp_path: Path):
    job = jobs.sft(tmp_path, LENGTHS, max_steps=2, evaluate_every=2, learning_rate=1e-12, tokens_per_micro_batch=8)
    held_out = tiny.sequences((8, 25, 11), seed=9)
    metrics = Trainer(dataclasses.replace(job, validation=held_out)).run()
    all_at_once = jobs.sft(tmp_path, batch_size=3)
    expected = Trainer(dataclasses.replace(all_at_once, examples=held_out)).step(0)
    assert metrics["validation_loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert metrics["validation_response_tokens"] == 4 + 21 + 7
    assert job.student.model.training
    assert "validation_loss" not in read_metrics(tmp_path / "metrics.jsonl")[0]


def test_metrics_are_plain_json_with_the_keys_of_reports(tmp_path: Path):
    Trainer(jobs.gkd(tmp_path, 1.0, LENGTHS)).run()
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert (line["step"], line["epoch"], line["on_policy"]) == (1, 0.5, 1.0)
    assert 1 <= line["sampled_length"] <= 40
    assert 0 <= line["sampled_cut"] <= 1
    assert line["sampled_tokens_per_s"] > 0
