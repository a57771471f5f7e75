"""Divergences, training objectives, and the fused linear map + loss, which never holds a batch's full logits.

`linear_objective` is the interface; the device decides the implementation, and the torch path is the reference.
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
