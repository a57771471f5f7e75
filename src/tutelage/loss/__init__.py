"""Divergences, training objectives, and the fused linear map + loss that never holds full logits.

`linear_objective` is the one interface; the implementation is chosen by device. The torch path is the reference.
"""

from tutelage.loss.divergence import forward_kl, generalized_jsd, reverse_kl
from tutelage.loss.fused_linear import label_logprobs, linear_objective
from tutelage.loss.objective import CrossEntropy, Divergence

__all__ = [
    "CrossEntropy",
    "Divergence",
    "forward_kl",
    "generalized_jsd",
    "label_logprobs",
    "linear_objective",
    "reverse_kl",
]
