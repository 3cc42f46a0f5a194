"""The report: a page that answers the study's question, with figures."""

import dagster as dg

from finephrase_dagster.artifacts.key import LEADERBOARD, REPORT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.partitions import asset_key
from finephrase_dagster.results.evidence import read_evidence
from finephrase_dagster.results.leaderboard import record_study
from finephrase_dagster.results.report import chapter, write_report
from resources.tracking import Tracking
from resources.warehouse import Warehouse


def build_report(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the asset `results/report`."""

    @stage_asset(
        lineage,
        REPORT,
        description="A page for people who know nothing of the study: the answer, how sure it is and what it cost, "
        "then figures with their data. `finephrase report` writes the same page.",
        kinds={"report"},
        owner="evaluation",
        deps=[dg.AssetDep(asset_key(LEADERBOARD))],
    )
    def report(context: dg.AssetExecutionContext, tracking: Tracking, warehouse: Warehouse) -> dg.MaterializeResult:
        leaderboard = lineage.leaderboard()
        leaderboard.manifest()
        with warehouse.connect() as connection:
            record_study(lineage, connection)
            one = chapter(read_evidence(connection, lineage.study.name))
        page = write_report(lineage.paths.data / "reports" / lineage.study.name, [one])
        text = page.read_text(encoding="utf-8")
        link = tracking.attempt(leaderboard, lambda: tracking.page("report.html", text), warn=context.log.warning)
        return dg.MaterializeResult(
            metadata={
                "answer": one.conclusion.answer,
                "preview": dg.MetadataValue.md(
                    "\n\n".join(
                        (
                            f"**{one.conclusion.answer}**",
                            *one.conclusion.remarks,
                            *(f"**{drawn.figure.title}.** {drawn.caption}" for drawn in one.figures),
                        )
                    )
                ),
                "page": dg.MetadataValue.path(page),
                "figures": len(one.figures),
                **({"mlflow": dg.MetadataValue.url(link)} if link else {}),
            }
        )

    return [report]
