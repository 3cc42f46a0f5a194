"""Pairs of arms: mixtures with the text of two generators, or mixtures of one name in two studies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING

from finephrase_dagster.results.arms import Arm, mismatches
from finephrase_dagster.results.evidence import read_components, read_datasets
from finephrase_dagster.results.noise import is_same_size
from finephrase_dagster.results.verdict import NotComparable

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Arms to compare, each pair with the arm of the first side first.

    Attributes:
        without: the study and the name of each mixture that has no counterpart.
    """

    pairs: tuple[tuple[Arm, Arm], ...] = ()
    without: tuple[tuple[str, str], ...] = ()


def study_pairs(every: Sequence[Arm], studies: tuple[str, str]) -> Pairs:
    """Return the mixtures of one name in two studies, for each student that both have.

    Raises:
        NotComparable: they have no such mixture.
    """
    sides = {study: [arm for arm in every if arm.first.study == study and arm.origin is None] for study in studies}
    pairs = _paired(sides, lambda arm: arm.mixture)
    if not pairs.pairs:
        names = " and ".join(studies)
        raise NotComparable(f"{names} have no mixture of one name with students of one size. {_named(sides)}")
    return pairs


def generator_pairs(
    every: Sequence[Arm], connection: duckdb.DuckDBPyConnection, study: str, generators: tuple[str, str]
) -> Pairs:
    """Return the mixtures of a study with the same prompts and sources, one with the text of each generator.

    Raises:
        NotComparable: the study has no such mixtures.
    """
    components = read_components(connection, study)
    datasets = {dataset.component: dataset for dataset in read_datasets(connection, study, components)}
    sides: dict[str, list[Arm]] = {generator: [] for generator in generators}
    contents: dict[Arm, object] = {}
    for arm in (arm for arm in every if arm.origin is None):
        shares = components.get(arm.mixture, {})
        theirs = {name: datasets[name] for name in shares if name in datasets and datasets[name].generator in sides}
        used = {dataset.generator for dataset in theirs.values()}
        if len(used) == 1:
            sides[used.pop()].append(arm)
            contents[arm] = _content(arm, shares, {name: (one.source, one.prompt) for name, one in theirs.items()})
    pairs = _paired(sides, contents.__getitem__)
    if not pairs.pairs:
        known = sorted({dataset.generator for dataset in datasets.values() if dataset.mixtures})
        raise NotComparable(
            f"the study {study} has no two mixtures with scores that have the same prompts and sources, and differ in "
            f"the generator. {_named(sides)}. Generators of mixtures: {', '.join(known) or 'none'}"
        )
    return pairs


def _content(arm: Arm, shares: Mapping[str, float], theirs: Mapping[str, tuple[str, str]]) -> object:
    """Return the synthetic part of a mixture, with the source and prompt of each dataset of the compared generators."""
    synthetic = {name: share for name, share in shares.items() if name not in (arm.first.mix_in or {})}
    total = math.fsum(synthetic.values())
    return frozenset((theirs.get(name, name), round(share / total, 4)) for name, share in synthetic.items())


def _paired(sides: Mapping[str, Sequence[Arm]], content: Callable[[Arm], object]) -> Pairs:
    """Return the pairs of equal content; of several, those that differ in nothing else, if there are any."""
    groups: dict[object, list[tuple[Arm, Arm]]] = {}
    for one, other in product(*sides.values()):
        key = content(one), one.student, one.first.decay_from
        if key[0] == content(other) and key[2] == other.first.decay_from and _alike(one, other):
            groups.setdefault(key, []).append((one, other))
    pairs = [pair for group in groups.values() for pair in [p for p in group if not mismatches(*p)] or group]
    every, paired = ({(arm.first.study, arm.mixture) for arm in chain(*some)} for some in (sides.values(), pairs))
    return Pairs(pairs=tuple(pairs), without=tuple(sorted(every - paired)))


def _alike(one: Arm, other: Arm) -> bool:
    """Return whether two arms have the same student; students of two studies may have two names for it."""
    if one.student == other.student or one.first.study == other.first.study:
        return one.student == other.student
    return is_same_size(one.first.parameters, other.first.parameters)


def _named(sides: Mapping[str, Sequence[Arm]]) -> str:
    """Return the mixtures and students of each side, for a message."""
    names = {side: sorted({f"{arm.mixture} ({arm.student})" for arm in of_side}) for side, of_side in sides.items()}
    return "; ".join(f"{side}: {', '.join(some[:5]) or 'none'}" for side, some in names.items())
