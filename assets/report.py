"""The report: a page that answers the study's question, with figures; and each figure's analysis by itself."""

from pathlib import Path

import dagster as dg

from finephrase_dagster.artifacts.key import ANALYSIS, LEADERBOARD, REPORT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.partitions import asset_key
from finephrase_dagster.results.evidence import read_evidence
from finephrase_dagster.results.figures import figures
from finephrase_dagster.results.leaderboard import record_study
from finephrase_dagster.results.report import chapter, draw, write_figure, write_report
from resources.tracking import Tracking
from resources.warehouse import Warehouse


def build_report(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the assets `results/analysis`, with a partition per figure, and `results/report`."""

    @stage_asset(
        lineage,
        ANALYSIS,
        description="One analysis of the study's scores per partition, such as proxies against scores: what it shows, "
        "its data, and its drawing. `finephrase results` prints the same; the report has them all.",
        kinds={"report"},
        owner="evaluation",
        partitions=figures(),
        deps=[dg.AssetDep(asset_key(LEADERBOARD))],
    )
    def analysis(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        lineage.leaderboard().manifest()
        with warehouse.connect() as connection:
            record_study(lineage, connection)
            drawn = draw(context.partition_key, read_evidence(connection, lineage.study.name))
        question = {"question": figures()[context.partition_key].question}
        if drawn is None:
            return dg.MaterializeResult(metadata={**question, "answer": "the study's scores do not suffice for it"})
        table = markdown_table([*drawn.figure.columns.values()], drawn.shown)
        return dg.MaterializeResult(
            metadata={
                **question,
                "answer": drawn.caption,
                "preview": dg.MetadataValue.md(f"**{drawn.figure.title}.** {drawn.caption}\n\n{table}"),
                "drawing": dg.MetadataValue.path(
                    write_figure(_folder(lineage) / "figures" / lineage.study.name, drawn)
                ),
                "dagster/row_count": len(drawn.rows),
            }
        )

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
        page = write_report(_folder(lineage), [one])
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

    return [analysis, report]


def _folder(lineage: Lineage) -> Path:
    return lineage.paths.data / "reports" / lineage.study.name
