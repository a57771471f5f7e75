"""Fused linear + objective: hidden states and heads in, weighted loss out, full logits never held.

`linear_objective` is the one interface; the implementation is chosen by device. The torch path is the reference.
"""

from tutelage.kernels.chunked import label_logprobs, linear_objective

__all__ = ["label_logprobs", "linear_objective"]
