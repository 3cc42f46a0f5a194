"""Muon: torch's own, in a precision that may be chosen."""

from __future__ import annotations

import pytest
import torch

from finephrase_dagster.generators.muon import Muon, orthogonal

SHAPES = [(24, 24), (40, 16), (16, 40)]


def trained(kind: str, steps: int = 6) -> list[torch.Tensor]:
    """Matrices after a few steps towards others, their learning rate falling as a schedule has it."""
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    targets = [torch.randn(shape) for shape in SHAPES]
    optimizer: torch.optim.Optimizer
    if kind == "torch":
        optimizer = torch.optim.Muon(weights, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    else:
        optimizer = Muon(weights, lr=0.02, weight_decay=0.1, momentum=0.95, precision=getattr(torch, kind))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    for _ in range(steps):
        loss = sum((weight - target).square().sum() for weight, target in zip(weights, targets, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return [weight.detach() for weight in weights]


def test_in_bfloat16_it_is_the_optimizer_of_torch_to_the_last_bit() -> None:
    for ours, theirs in zip(trained("bfloat16"), trained("torch"), strict=True):
        assert torch.equal(ours, theirs)


def test_in_float32_it_differs_from_it_by_rounding_alone() -> None:
    for ours, theirs in zip(trained("float32"), trained("torch"), strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_made_orthogonal_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    kept = matrix.clone()
    values = torch.linalg.svdvals(orthogonal(matrix, torch.float32))
    assert values.max() < 1.3
    assert values.median() > 0.5
    assert torch.equal(matrix, kept)
