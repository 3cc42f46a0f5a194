"""The pages of assets: descriptions, links, costs and tables."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets import descriptions
from assets.costs import of_dataset, of_training
from assets.evaluation import best_rows
from assets.previews import records
from assets.synthetic import _result
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.key import CORPUS, DATASET, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.corpora.kinds.hub import HubSource
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.events import LINE, materialized, observed, prompt_text
from finephrase_dagster.orchestration.partitions import cell_tags
from finephrase_dagster.results.leaderboard import compose_leaderboard
from finephrase_dagster.study.paths import REPOSITORY, Paths
from test_verdict import arm


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    """Return the published study without any artifacts."""
    paths = Paths(data=tmp_path_factory.mktemp("data"), study=REPOSITORY / "studies" / "finephrase.yaml")
    return read_lineage(paths)


def test_corpora_and_models_of_the_hub_are_linked_and_others_are_not(published: Lineage, lineage: Lineage) -> None:
    cell = published.study.cell("gemma_3_1b__fineweb_edu_hq")
    text = descriptions.of_cell(published, cell)
    assert "(https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu)" in text
    assert "(https://huggingface.co/google/gemma-3-1b-it)" in text
    for embedded in (descriptions.of_cell(lineage, lineage.study.cells[0]), descriptions.of_generators(lineage)):
        assert "https://" not in embedded


def test_a_local_folder_of_a_hub_dataset_has_no_page(tmp_path: Path) -> None:
    assert HubSource(kind="hub", dataset=str(tmp_path), revision="main").page is None


def test_a_description_begins_with_a_sentence_for_the_catalogue(published: Lineage) -> None:
    for text in (descriptions.of_sources(published), descriptions.of_prompts(published)):
        assert text.splitlines()[0].count("|") == 0


def test_the_description_names_every_filter_of_a_source(published: Lineage) -> None:
    assert "int_score from 4 to 5; 9.88 % of them" in descriptions.of_sources(published)


def test_a_cell_is_found_by_its_generator_source_formats_and_families(published: Lineage) -> None:
    tags = cell_tags(published, published.study.cell("gemma_3_1b__dclm"))
    assert tags["finephrase/generator"] == "gemma_3_1b"
    assert tags["finephrase/source"] == "dclm"
    assert {"format/word_problem", "format/faq", "family/own"} <= set(tags)


@pytest.mark.parametrize(
    ("selection", "asset"),
    [
        ('tag:"format/word_problem"', "synthetic/rephraser__package_readmes"),
        ('tag:"finephrase/source"="package_readmes"', "tokens/rephraser__package_readmes_tokens"),
        ('kind:"mlflow"', "training/checkpoint"),
        ('owner:"team:generation"', "audits/rephraser__package_readmes_audit"),
        ('+key:"mixtures/mixture"', "tokens/corpus_tokens"),
    ],
)
def test_the_selections_in_the_documentation_work(lineage: Lineage, selection: str, asset: str) -> None:
    graph = build_defs(lineage).resolve_asset_graph()
    keys = dg.AssetSelection.from_string(selection).resolve(graph)
    assert dg.AssetKey(asset.split("/")) in keys


def test_a_dataset_has_a_share_of_the_cost_in_proportion_to_its_tokens() -> None:
    bill = {"completion_tokens": 400, "tokens_per_second": 80.0, "gpu_hours": 2.0, "dollars": 5.0}
    of = {"completion_tokens": 100, "run": bill, "discarded": {"completion_tokens": 0}}
    assert of_dataset(of) == {"tokens_per_second": 80.0, "gpu_hours": 0.5, "dollars": 1.25}


def test_the_page_of_a_dataset_shows_the_sampling_that_it_was_made_with(lineage: Lineage, tmp_path: Path) -> None:
    cell = lineage.study.cells[0]
    key = ItemKey(kind=DATASET, generator=cell.generator, source=cell.source, prompt="faq")
    sampling = {"temperature": 0.125, "top_p": 1.0, "top_k": -1, "seed": 5}
    artifact = Artifact(key=key, recipe={"sampling": sampling}, root=tmp_path)
    counts = dict.fromkeys(("rows_in", "completed", "skipped", "failed", "documents_cut"), 0)
    tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    facts = {
        **counts,
        **tokens,
        "discarded": {"rollouts": 0, **tokens},
        "run": {"completion_tokens": 0, "tokens_per_second": 0.0, "prompts": []},
    }
    artifact.materialize(lambda folder: Contents(files=[], facts=facts))
    page = _result(lineage, cell, "faq", artifact).metadata
    assert page is not None
    assert page["sampling"] == "temperature 0.125, top_p 1.0, top_k -1, seed 5"
    assert "sampling of new datasets" in descriptions.of_cell(lineage, cell)


def test_an_unknown_cost_is_left_out() -> None:
    bill = {"completion_tokens": 0, "tokens_per_second": 0.0, "gpu_hours": None, "dollars": None}
    of = {"completion_tokens": 100, "run": bill, "discarded": {"completion_tokens": 0}}
    assert of_dataset(of) == {"tokens_per_second": 0.0}
    assert of_training({"gpus": 0, "seconds": 60.0}, gpu_hour_dollars=2.5) == {}
    assert of_training({"gpus": 8, "seconds": 900.0}, gpu_hour_dollars=None) == {"gpu_hours": 2.0}
    assert of_training({"gpus": 8, "seconds": 900.0}, gpu_hour_dollars=2.5) == {"gpu_hours": 2.0, "dollars": 5.0}


def test_durations_and_sizes_are_shown_as_people_read_them(tmp_path: Path) -> None:
    artifact = Artifact(key=ItemKey(kind=CORPUS, source="web"), recipe={}, root=tmp_path)
    artifact.materialize(lambda folder: Contents(files=[_written(folder, 2_500_000)], facts={}))
    page = materialized(artifact, seconds=5400.0, gpu_hours=0.004, kept_seconds=600, tokens_per_second=3.0).metadata
    assert page is not None
    assert page["times"] == "GPU 14 s, duration 1.5 h, kept 10 min"
    assert page["size"] == "2.5 MB"
    assert page["seconds"] == 5400.0
    assert "times" not in (materialized(artifact, tokens=3).metadata or {})


def _written(folder: Path, size: int) -> Path:
    file = folder / "data.parquet"
    file.write_bytes(bytes(size))
    return file


def test_a_table_keeps_the_columns_that_only_some_rows_have() -> None:
    table = records([{"name": "a", "score": 0.123456}, {"name": "b", "score": None, "note": "x"}])
    assert [(column.name, column.type) for column in table.schema.columns] == [
        ("name", "string"),
        ("score", "float"),
        ("note", "string"),
    ]
    assert dict(table.records[0].data) == {"name": "a", "score": 0.1235, "note": None}


def test_the_leaderboards_page_shows_the_best_rows_in_place_with_their_important_columns() -> None:
    runs = [run for number in range(20) for run in arm(f"mixture_{number:02}", [0.1 + number / 1e3, 0.1001])]
    shown = best_rows(compose_leaderboard(runs).rows)
    header, _, first, *others = shown.splitlines()
    assert header == "| mixture | macro | ± sd | original | best | seeds | micro | epochs |"
    assert first == "| mixture_19 | 0.1096 | 0.0134 | – | best | 2 | – | 1 |"
    assert len(others) == 7
    assert len(shown) < 1000, "longer Markdown is behind a link"


def test_the_leaderboards_page_has_no_verdict_on_mixtures_that_cannot_be_compared() -> None:
    raw = arm("raw", [0.10, 0.11], mix_in={"web": 1.0}, original=True)
    shown = best_rows(compose_leaderboard([*raw, *arm("faq", [0.12, 0.13], epochs=9.0)]).rows)
    assert "| faq | 0.1250 | 0.0071 | not comparable |" in shown


def test_the_text_of_a_prompt_is_wrapped_without_loss(lineage: Lineage) -> None:
    for prompt in lineage.prompts.values():
        lines = str(prompt_text(prompt).value).splitlines()[1:-1]
        assert max(map(len, lines)) <= LINE
        assert "".join("".join(lines).split()) == "".join(prompt.template.split())


def test_the_observation_of_a_prompt_shows_its_description_and_text(lineage: Lineage) -> None:
    observation = observed(lineage.prompts["faq"], Path("/prompts/faq.md"))
    assert observation.metadata["format"].value == "faq"
    assert observation.metadata["file"].value == "/prompts/faq.md"
    assert "Turn the text above" in str(observation.metadata["text"].value)


def test_a_markdown_table_aligns_figures_to_the_right_and_escapes_bars() -> None:
    table = markdown_table(("name", "rows"), [("a|b\nc", "1,000"), ("d", "-")])
    assert table == "| name | rows |\n| --- | ---: |\n| a\\|b c | 1,000 |\n| d | - |"
    assert markdown_table(("empty",), []) == "| empty |\n| --- |"
