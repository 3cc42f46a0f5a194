"""The names of published runs: their mixture, student and seed, and the components of a mixture."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass

_SEED = re.compile(r"^(?P<arm>.+?)-{1,2}(?:data-seed[-=]?(?P<data>\d+)-{1,2})?seed[-=]?(?P<seed>\d+)$")
_STUDENT = re.compile(r"^(?P<mixture>.+)-(?P<student>\d+(?:\.\d+)?[bm])$")
_ORIGINAL = re.compile(r"^(fw|fineweb|finepdfs|ultra|dclm|essentialweb)(?=[-_\d]|$)")
_SYNTHETIC = re.compile(r"^(cosmopedia|nemotron|rewire|synth)(?=[-_]|$)|.+_(hq|lq|dclm|cosmopedia)$")


@dataclass(frozen=True, kw_only=True)
class ArmName:
    """What the name of a run shows; None where it shows nothing."""

    mixture: str
    student: str | None
    seed: str | None


def read_name(run: str) -> ArmName:
    """Return what the name of a run shows: `faq-0.5b-seed-3`, or `faq--data-seed=2-seed=3`."""
    match = _SEED.match(run)
    arm, seed = (match["arm"], match["seed"]) if match else (run, None)
    if match and match["data"] is not None:
        seed = f"data {match['data']}, model {seed}"
    sized = _STUDENT.match(arm)
    return ArmName(mixture=sized["mixture"] if sized else arm, student=sized["student"] if sized else None, seed=seed)


def components(mixture: str) -> list[tuple[str, float]]:
    """Return the components of a published mixture with their shares, from its name: `mix-0.3-fw_edu_hq-0.7-faq_1b_hq`.

    A mixture without `mix-` is one dataset. Shares are equal unless they stand in the name.
    """
    if not mixture.startswith("mix-"):
        return [(mixture, 1.0)]
    weights: list[tuple[str, float]] = []
    weight = 1.0
    for piece in mixture[len("mix-") :].split("-"):
        if re.fullmatch(r"\d*\.?\d+", piece):
            weight = float(piece)
        elif weights and piece[:1].isdigit():  # a model's name with a hyphen: qwen3-1.7b
            weights[-1] = f"{weights[-1][0]}-{piece}", weights[-1][1]
        else:
            weights.append((piece, weight))
            weight = 1.0
    total: dict[str, float] = defaultdict(float)
    for name, share in weights:
        total[name] += share / math.fsum(share for _, share in weights)
    return list(total.items())


def is_original(component: str) -> bool | None:
    """Return whether a component of a published mixture is original text; None if its name does not show it."""
    if _ORIGINAL.match(component):
        return True
    return False if _SYNTHETIC.match(component) else None
