"""Muon, whose matrix products are taken in a precision that the processor has.

`torch.optim.Muon` takes them in bfloat16. A processor that has to emulate it needs a hundred times as long as for
float32 there, and a step of the optimizer ten times as long as all else of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of torch's own: of the quintic iteration of Newton and Schulz
ITERATIONS = 5
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is made orthogonal, for weights that are matrices.

    As `torch.optim.Muon` with Nesterov's momentum and `adjust_lr_fn="match_rms_adamw"`: in bfloat16 the same, in
    float32 but for rounding (https://kellerjordan.github.io/posts/muon, arXiv:2502.16982).
    """

    def __init__(
        self,
        weights: Iterable[torch.Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        precision: torch.dtype,
    ) -> None:
        """Takes matrices of shape (rows, columns); `precision` is that of the products."""
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Takes one step along the weights' gradients."""
        assert closure is None, "it is not called again for another loss"
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                state = self.state[weight]
                mean = state["mean"] if state else state.setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - momentum)
                direction = orthogonal(weight.grad.lerp(mean, momentum), self._precision)
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(direction, alpha=-lr * 0.2 * math.sqrt(max(weight.shape)))


def orthogonal(matrix: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """About the orthogonal matrix nearest to a matrix: its singular values become .7 to 1.2, most of them."""
    a, b, c = COEFFICIENTS
    tall = matrix.size(0) > matrix.size(1)
    found = matrix.to(precision, copy=True)
    found = found.T if tall else found
    found.div_(found.norm().clamp(min=EPSILON))
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
