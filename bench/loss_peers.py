"""The loss in every implementation: a function of β (None: cross-entropy) returns a function of the problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.loss_problem import Problem

NEEDS = {"liger": "liger_kernel", "liger-jsd": "liger_kernel", "trl": "trl"}


def tutelage(
    beta: float | None, implementation: str, statistics: bool = False, **sizes: Any
) -> Callable[[Problem], Any]:
    import torch

    from tutelage.common.types import Head, TeacherSignal
    from tutelage.loss.fused_linear import linear_objective
    from tutelage.loss.objective import CrossEntropy, Divergence

    objective = CrossEntropy() if beta is None else Divergence(beta)

    def loss(p: Problem) -> Any:
        teacher = None if beta is None else TeacherSignal(p.teacher_hidden, Head(p.teacher_weight))
        weights = torch.full(p.labels.shape, 1.0 / len(p.labels), device=p.labels.device)
        options: Any = {"statistics": statistics, "implementation": implementation, **sizes}
        return linear_objective(objective, p.hidden, Head(p.weight), teacher, p.labels, weights, **options)[0]

    return loss


def liger(beta: float | None, device: str) -> Callable[[Problem], Any]:
    """Liger's chunked loss in torch (compiled on CUDA); its fused kernel for cross-entropy."""
    if beta is None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        hard = LigerFusedLinearCrossEntropyLoss()
        return lambda p: hard(p.weight, p.hidden, p.labels)
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    soft = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=device == "cuda")
    return lambda p: soft(p.hidden, p.weight, p.teacher_hidden, p.teacher_weight, p.labels)


def liger_jsd(beta: float | None, device: str) -> Callable[[Problem], Any]:
    """Liger's Triton kernel for the divergence."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    if beta is None:
        raise ValueError("it has no cross-entropy")
    soft = LigerFusedLinearJSD(jsd_beta=beta)
    return lambda p: soft(p.hidden, p.weight, p.teacher_hidden, p.teacher_weight, None)


def trl(beta: float | None, device: str) -> Callable[[Problem], Any]:
    """The kernel of TRL's DistillationTrainer."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    if beta is None:
        raise ValueError("it has no cross-entropy")

    def loss(p: Problem) -> Any:
        values = ChunkedDivergenceFunction.apply(
            p.hidden, p.weight, None, p.teacher_hidden, p.teacher_weight, None, beta
        )
        return values[0].mean()

    return loss


IMPLEMENTATIONS: dict[str, Callable[[float | None, str], Callable[[Problem], Any]]] = {
    "tutelage": lambda beta, device: tutelage(beta, "triton"),
    "tutelage-statistics": lambda beta, device: tutelage(beta, "triton", statistics=True),
    "tutelage-torch": lambda beta, device: tutelage(beta, "torch"),
    "liger": liger,
    "liger-jsd": liger_jsd,
    "trl": trl,
}
