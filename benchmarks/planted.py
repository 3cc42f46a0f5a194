"""Defects planted into sound text: with which precision and recall each gate of the audit finds its own, per row.

Sound completions (`planted_texts.py`) get each defect in several ways (`planted_defects.py`), in a stated share of the
rows of a dataset of its own; a gate is right about a row if it fails exactly the planted ones. The seed decides
everything.

    python benchmarks/planted.py [--rows 1000] [--seed 0] [--gate loops]
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from planted_defects import COLLAPSED, PLANTS, sum_of
from planted_texts import FORMS, sound_row

from finephrase_dagster.audit.gate import AuditedDataset
from finephrase_dagster.audit.gates import gates

WANTED = 0.95
CHECKS: Mapping[str, Sequence[str]] = {"form": ("faq", "math", "table", "tutorial"), "arithmetic": ("math",)}
WITHOUT_MATH = (
    "invented_quantities",
    "faithfulness",
    "near_duplicates",
)  # its numbers are invented, and its problems are alike


def main() -> None:
    """Print precision and recall per gate as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gate", choices=sorted(PLANTS))
    parser.add_argument("--examples", type=int, default=3, help="mistakes that are printed per gate and kind")
    arguments = parser.parse_args()
    chosen = [arguments.gate] if arguments.gate else list(PLANTS)
    figures = {name: measure(name, arguments.rows, arguments.seed) for name in chosen}
    for name, figure in figures.items():
        print(f"{name}: precision {figure['precision']:.3f}, recall {figure['recall']:.3f}")
        for kind in ("missed", "false_alarms"):
            examples = figure.pop(kind)
            if kind == "missed":
                figure["missed_by_way"] = dict(sorted(Counter(one.partition(":")[0] for one in examples).items()))
            for example in examples[: arguments.examples]:
                print(f"    {kind}: {example}")
    reached = all(min(figure["precision"], figure["recall"]) >= WANTED for figure in figures.values())
    print(
        json.dumps(
            {"rows": arguments.rows, "seed": arguments.seed, "wanted": WANTED, "reached": reached, "gates": figures}
        )
    )


def measure(gate: str, rows: int, seed: int, share: float = 0.1) -> dict[str, Any]:
    """Plant one defect into a share of sound rows, and return with which precision and recall its gate finds them."""
    draw = random.Random(f"{gate} {seed}")
    checks: Sequence[str | None] = CHECKS.get(gate, (None,))
    planted, failing, hits = 0, 0, 0
    missed: list[str] = []
    alarms: list[str] = []
    for check in checks:
        forms = (check,) if check else FORMS[1:] if gate in WITHOUT_MATH else FORMS
        count = rows // len(checks)
        sound = [sound_row(draw, f"r{number}", draw.choice(forms), gate) for number in range(count)]
        chosen = set(draw.sample(range(count), max(round(count * (COLLAPSED if gate == "collapse" else share)), 3)))
        ways = PLANTS[gate]
        if gate == "arithmetic":
            sound = [sum_of(wrong=False)(draw, row) if draw.random() < 0.5 else row for row in sound]
        texts = [ways[number % len(ways)](draw, row) if number in chosen else row for number, row in enumerate(sound)]
        one = gates()[gate]
        measured = one.measure(
            AuditedDataset(files=[], check=check), {**one.defaults, **one.forms.get(check or "", {})}
        )
        measured.add(texts)
        measured.result()
        flaws = {number: flaw for number, row in enumerate(texts) if (flaw := measured.flaw(row)) is not None}
        planted, failing, hits = planted + len(chosen), failing + len(flaws), hits + len(chosen & set(flaws))
        missed += [
            f"way {number % len(ways)}: {texts[number].text[:100]!r} ... {texts[number].text[-160:]!r}"
            for number in sorted(chosen - set(flaws))
        ]
        alarms += [f"{flaws[number]} | {texts[number].text[:120]!r}" for number in sorted(set(flaws) - chosen)]
    return {
        "planted": planted,
        "failing": failing,
        "precision": hits / failing if failing else 0.0,
        "recall": hits / planted,
        "missed": missed,
        "false_alarms": alarms,
    }


if __name__ == "__main__":
    main()
