"""Verdicts: each mixture against the study's baseline, as rows of the warehouse."""

import dagster as dg

from finephrase_dagster.artifacts.key import LEADERBOARD, VERDICTS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.partitions import asset_key
from finephrase_dagster.results.analysis import verdict_words
from finephrase_dagster.results.checks import ArmCheck
from finephrase_dagster.results.evidence import read_evidence
from finephrase_dagster.results.leaderboard import record_study
from finephrase_dagster.results.verdict import Verdict
from finephrase_dagster.results.warehouse import record_verdicts
from resources.warehouse import Warehouse

HEADER = ("mixture", "verdict", "difference", "95 % interval", "p", "seeds", "not comparable because of")


def build_verdicts(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `results/verdicts`."""

    @stage_asset(
        lineage,
        VERDICTS,
        description="Whether each mixture beats the baseline of original text, loses to it, ties with it, or what is "
        "undecided; and what A/A pairs and negative controls show. `finephrase results compare` names other baselines.",
        kinds={"duckdb", "report"},
        owner="evaluation",
        deps=[dg.AssetDep(asset_key(LEADERBOARD))],
    )
    def verdicts(warehouse: Warehouse) -> dg.MaterializeResult:
        lineage.leaderboard().manifest()
        with warehouse.connect() as connection:
            record_study(lineage, connection)
            evidence = read_evidence(connection, lineage.study.name)
            rows = [verdict.as_json() for verdict in evidence.verdicts]
            rows += [check.as_json() for check in evidence.checks]
            record_verdicts(connection, lineage.study.name, rows)
        words = [one.verdict for one in evidence.verdicts if not one.mismatches]
        return dg.MaterializeResult(
            metadata={
                "baseline": evidence.baseline.mixture,
                "student": evidence.student,
                **{word: words.count(word) for word in ("beats", "loses", "ties", "undecided")},
                "preview": dg.MetadataValue.md(_markdown(evidence.verdicts, evidence.checks)),
            }
        )

    return [verdicts]


def _markdown(verdicts: tuple[Verdict, ...], checks: tuple[ArmCheck, ...]) -> str:
    """Return verdicts as a table, and what the study's checks show as a list."""
    table = markdown_table(HEADER, map(_cells, verdicts))
    return "\n".join([table, "", *(f"- {check.text}" for check in checks)])


def _cells(verdict: Verdict) -> list[str]:
    low, high = verdict.interval or (None, None)
    return [
        verdict.arm.mixture,
        verdict_words(verdict.as_json()),
        "-" if verdict.difference is None else f"{verdict.difference:+.4f}",
        "-" if low is None else f"{low:+.4f} to {high:+.4f}",
        "-" if verdict.p_value is None else f"{verdict.p_value:.3f}",
        f"{len(verdict.arm.runs)} and {len(verdict.baseline.runs)}",
        "; ".join(verdict.mismatches),
    ]
