"""The `results propose` command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.commands.figures import NameOption
from finephrase_dagster.commands.options import JsonOption, OptionWrong, StudyOption, paths_of
from finephrase_dagster.commands.terminal import print_json, print_table, print_text

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage
    from finephrase_dagster.results.proposals import Proposal
    from finephrase_dagster.results.surrogate import Weights


def propose(
    name: NameOption = None,
    student: Annotated[
        str | None, typer.Option(metavar="NAME", help="Propose for this student. Default: the one with most mixtures.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=20, metavar="N", help="Number of mixtures.")] = 3,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file with the mixtures to choose from, as `name: {component: share}`."),
    ] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print which mixtures to train next.

    Each comes with what it may gain, and whether the study's seeds would show the gain.

    A Gaussian process learns from the scores of all mixtures at all steps. The last lines printed are YAML for the
    section `mixtures` of a study file.

    \b
    Examples:
      finephrase results propose
      finephrase results propose --name playbook --student 1.7b --count 5 --json
    """
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.plan.seeds import seed_cost
    from finephrase_dagster.results.evidence import read_evidence
    from finephrase_dagster.results.proposals import propose as propose_mixtures
    from finephrase_dagster.results.warehouse import reading

    paths = paths_of(study)
    lineage: Lineage | None = None if name else read_lineage(paths).snapshot()
    with reading(paths.warehouse) as connection:
        evidence = read_evidence(connection, name or lineage.study.name, student=student)  # type: ignore[union-attr]
    if lineage is None and not evidence.external and (own := read_lineage(paths)).study.name == evidence.study:
        lineage = own.snapshot()
    result = propose_mixtures(
        evidence,
        count=count,
        candidates=read_candidates(candidates) if candidates else None,
        taken=lineage.study.mixtures if lineage else (),
    )
    with reading(paths.warehouse) as connection:
        cost = seed_cost(evidence.entry(result.best).runs[:1], lineage, connection)
    cost_of_one = cost.times(result.seeds) if cost else None
    planned = lineage.study.mixtures.get(result.best) if lineage else None
    snippet = result.as_yaml(planned.tokens if planned else evidence.tokens)
    if as_json:
        facts = {"study": evidence.study, "student": evidence.student, "cost_of_one_mixture": cost_of_one}
        print_json({**facts, **result.as_json(), "yaml": snippet})
        return
    print_table(
        ["mixture", "expected score", "95 % interval", "gain", "better", "visible"], map(_cells, result.proposals)
    )
    each = f"{result.seeds} seed{'s' * (result.seeds > 1)} each"
    print_text(
        f"best so far: {result.best}, {result.best_score:.4f} without the noise of its seeds. gain: expected gain over "
        "it if the better of the two is kept; better: the chance of being better; visible: the chance that the verdict "
        f"is then `beats`, with {each}. Noise of one seed: {result.noise:.4f}, {result.noise_source}."
    )
    typer.echo(f"cost of one mixture with its seeds: {price(cost_of_one) if cost_of_one else 'unknown'}")
    typer.echo(f"\nFor the section `mixtures` of the study file:\n\n{snippet}", nl=False)


def _cells(one: Proposal) -> list[str]:
    weights = " + ".join(f"{share:.0%} {name}" for name, share in one.weights.items())
    interval = f"{one.interval[0]:.4f} to {one.interval[1]:.4f}"
    chances = f"{one.chance_better:.0%}", f"{one.chance_visible:.0%}"
    return [f"{one.name}: {weights}", f"{one.score:.4f}", interval, f"{one.expected_gain:.4f}", *chances]


def price(cost: Mapping[str, float]) -> str:
    """Return a cost in words."""
    if cost["gpu_hours"]:
        return f"{cost['gpu_hours']:,.1f} GPU-hours, {cost['dollars']:,.0f} dollars"
    return f"{60 * cost['hours']:,.1f} minutes of this machine"


def read_candidates(path: Path) -> dict[str, Weights]:
    """Read mixtures from a YAML file.

    Raises:
        OptionWrong: the file cannot be read, or is no mapping of names to shares of components.
    """
    from finephrase_dagster.study.loader import InvalidYaml, load_yaml, read_bounded

    try:
        content: Any = load_yaml(read_bounded(path))
    except (OSError, ValueError, InvalidYaml) as error:
        raise OptionWrong(f"--candidates {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content:
        raise OptionWrong(f"--candidates {path} is empty or no mapping; write lines like: mix: {{raw: 0.4, faq: 0.6}}")
    for name, weights in content.items():
        shares = weights.values() if isinstance(weights, dict) else ()
        if not shares or not all(isinstance(share, int | float) and 0 < share < 1e9 for share in shares):
            raise OptionWrong(
                f"--candidates {path}: {name} must list components with positive shares, such as {{raw: 1}}"
            )
    return content
