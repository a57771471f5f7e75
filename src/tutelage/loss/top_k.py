"""Divergences from a teacher of which only the likeliest tokens are known, with all others as one bucket.

Let b map the vocabulary to k + 1 buckets: each of the teacher's k likeliest tokens is its own, all others are the tail.
With T_b, S_b the buckets' probabilities, t and s those of the tails, and T|, S| the distributions within the tails, the
chain rule of the Kullback–Leibler divergence gives, with M = β·T + (1−β)·S and m = β·t + (1−β)·s,

    JSD_β(T, S) = JSD_β(T_b, S_b) + β·t·KL(T| ‖ M|) + (1−β)·s·KL(S| ‖ M|).

So the value over buckets, which is the loss here, is a lower bound. What is missing is bounded: M| is at least
(β·t/m)·T| and ((1−β)·s/m)·S| everywhere, so the two terms are at most β·t·log(m/(β·t)) and (1−β)·s·log(m/((1−β)·s)):

    0 ≤ JSD_β(T, S) − JSD_β(T_b, S_b) ≤ m·H(β·t/m) ≤ m·log 2,   H the entropy of a coin in nats.

Equality holds if the tails do not overlap. For KL(T ‖ S), β = 0, the missing term is t·KL(T| ‖ S|). No token of the
teacher's tail is likelier than its k-th, p_k, so T| is at most c = min(1, p_k/t) everywhere, and with S's least likely
token of the tail, s_min,

    0 ≤ KL(T ‖ S) − KL(T_b ‖ S_b) ≤ t·log(c·s/s_min).

KL(S ‖ T) has no such bound (the teacher may give a token of the tail no probability at all), so it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.common.errors import TutelageError
from tutelage.common.types import TopLogprobs
from tutelage.loss import divergence
from tutelage.loss.objective import CrossEntropy, Divergence, Objective, WeightedSum

_NOWHERE = 1e4  # subtracted from a logit, it leaves no probability, and no infinities that would make NaN


@dataclass(frozen=True)
class Buckets:
    """Logits [n, k+1] of both models over the buckets, and what leads back to the vocabulary."""

    student: Tensor
    teacher: Tensor
    ids: Tensor  # int64 [n, k]: a token of each bucket but the last
    inside: Tensor  # [n, V]: the student's logits of the tail, −∞ elsewhere

    def gradient(self, of_buckets: Tensor) -> Tensor:
        """From the gradient with respect to the buckets' logits [n, k+1] that with respect to the student's [n, V]."""
        tail = (self.inside - self.student[:, -1:]).exp_()  # softmax within the tail, 0 elsewhere
        return tail.mul_(of_buckets[:, -1:]).scatter_add_(-1, self.ids, of_buckets[:, :-1])


def buckets(student_logits: Tensor, top: TopLogprobs) -> Buckets:
    """The buckets of student logits [n, V]. Tokens that the student's head does not have, and absent ones, count to
    nobody: both models give their buckets no probability."""
    known = (top.ids >= 0) & (top.ids < student_logits.shape[-1])
    ids = torch.where(known, top.ids, top.ids[:, :1]).clamp(0, student_logits.shape[-1] - 1)
    inside = student_logits.scatter(-1, ids, -torch.inf)
    own = torch.cat([student_logits.gather(-1, ids), inside.logsumexp(-1, keepdim=True)], -1)
    theirs = torch.cat([top.logprobs, top.tail[:, None]], -1).to(own.dtype)
    everywhere = torch.cat([known, torch.ones_like(known[:, :1])], -1)
    floor = torch.where(everywhere, own, -torch.inf).amax(-1, keepdim=True) - _NOWHERE
    return Buckets(torch.where(everywhere, own, floor), torch.where(everywhere, theirs, -_NOWHERE), ids, inside)


def value_and_gradient(
    objective: Objective, student_logits: Tensor, top: TopLogprobs, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Values [n] of an objective over buckets and their gradients [n, V] with respect to the student's logits.

    Raises TutelageError for an objective without an error bound.
    """
    refuse_unbounded(objective)
    return _value_and_gradient(objective, student_logits, buckets(student_logits, top), labels)


def _value_and_gradient(
    objective: Objective, student_logits: Tensor, both: Buckets, labels: Tensor
) -> tuple[Tensor, Tensor]:
    if isinstance(objective, Divergence):
        values, gradient = objective.value_and_gradient(both.student, both.teacher, labels)
        return values, both.gradient(gradient)
    if isinstance(objective, WeightedSum):
        values, gradient = torch.zeros_like(student_logits[:, 0]), torch.zeros_like(student_logits)
        for weight, part in objective.parts:
            own, slope = _value_and_gradient(part, student_logits, both, labels)
            values.add_(own, alpha=weight)
            gradient.add_(slope, alpha=weight)
        return values, gradient
    return objective.value_and_gradient(student_logits, None, labels)


def error_bound(objective: Objective, both: Buckets) -> Tensor:
    """How much larger than its value over buckets the objective can be, per token [n] in nats."""
    if isinstance(objective, WeightedSum):
        return torch.stack([weight * error_bound(part, both) for weight, part in objective.parts]).sum(0)
    if not isinstance(objective, Divergence):
        return torch.zeros_like(both.student[:, 0])
    student, teacher = both.student.log_softmax(-1), both.teacher.log_softmax(-1)
    log_s, log_t = student[:, -1], teacher[:, -1]
    beta, s, t = objective.beta, log_s.exp(), log_t.exp()
    if beta == 0.0:
        least = torch.where(both.inside.isinf(), torch.inf, both.inside).amin(-1) - both.student.logsumexp(-1)
        likeliest = torch.where(teacher[:, :-1] > -_NOWHERE / 2, teacher[:, :-1], 0.0).amin(-1)
        return t * ((likeliest - log_t).clamp_max(0.0) + log_s - least).clamp_min(0.0)
    part = (beta * t, (1.0 - beta) * s)
    both_tails = part[0] + part[1]
    return sum(torch.xlogy(one, both_tails / one.clamp_min(1e-30)) for one in part)  # type: ignore[return-value]


def statistics(student_logits: Tensor, top: TopLogprobs, labels: Tensor) -> list[Tensor | None]:
    """The six statistics of TokenStats: the divergences over buckets, the teacher's entropy unknown."""
    both = buckets(student_logits, top)
    own = divergence.distributions(student_logits, None)
    coarse = divergence.distributions(both.student, both.teacher)
    norm = own.student_norm.squeeze(-1)
    found = (
        norm - student_logits.gather(-1, labels[:, None]).squeeze(-1),
        divergence.jsd_and_ratio(coarse, 0.0)[0],
        divergence.jsd_and_ratio(coarse, 1.0)[0],
        norm - torch.linalg.vecdot(own.student, student_logits),
        student_logits.argmax(-1) == top.ids[:, 0],
    )
    cross_entropy, forward, reverse, entropy, agreement = (one.float() for one in found)
    return [cross_entropy, forward, reverse, entropy, None, agreement]


def refuse_unbounded(objective: Objective) -> None:
    """Raise TutelageError for an objective that the likeliest tokens alone do not bound."""
    for part in [part for _, part in objective.parts] if isinstance(objective, WeightedSum) else [objective]:
        if isinstance(part, CrossEntropy):
            continue
        if not isinstance(part, Divergence) or part.beta == 1.0 or part.temperature != 1.0:
            raise TutelageError(
                f"{part}: a teacher's likeliest tokens bound KL(T‖S) and JSD with β below 1 alone, at temperature 1: "
                "choose one of those, or a teacher that gives hidden states"
            )
