"""Automation conditions: what a new dataset makes possible is launched once, and nothing else is."""

from __future__ import annotations

import datetime
from pathlib import Path

import dagster as dg
import pytest

from daemon_parts import published
from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.graph import Item, items
from finephrase_dagster.definitions import build_defs
from installation import CELL, Installation, install, small_study

FAQ = f"synthetic/{CELL}/faq"


class Automation:
    """Evaluates the conditions of an installation whenever a test asks."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.instance = dg.DagsterInstance.ephemeral()
        self._definitions = build_defs(installation.lineage)
        self._cursor = None
        self._now = datetime.datetime(2030, 1, 1)

    def evaluate(self) -> set[str]:
        """The names of what is launched."""
        self._now += datetime.timedelta(seconds=30)
        result = dg.evaluate_automation_conditions(
            self._definitions, self.instance, cursor=self._cursor, evaluation_time=self._now
        )
        self._cursor = result.cursor
        return {
            "/".join([*key.path, *([partition] if partition else [])])
            for key in self._definitions.resolve_asset_graph().executable_asset_keys
            for partition in result.get_requested_partitions(key)
        }

    def make(self, *names: str, **facts: object) -> None:
        """Publishes artifacts, with no content but facts."""
        graph: dict[str, Item] = {item.name: item for item in items(self.installation.lineage)}
        for name in names:
            graph[name].artifact().materialize(
                lambda folder: Contents(files=[], facts={"sampling": {}, "passed": True, "macro": 0.1, **facts})
            )


@pytest.fixture
def automation(tmp_path: Path) -> Automation:
    made = install(tmp_path / "installation")
    result = Automation(made)
    for stage in ("sources", "generators"):
        published(made, stage)
    assert result.evaluate() == set(), "what was possible before is not launched"
    result.make("tokens/tokenizer")
    return result


@pytest.mark.slow
def test_a_new_dataset_leads_to_a_new_leaderboard(automation: Automation) -> None:
    automation.make(FAQ)
    launched: list[str] = []
    while now := sorted(automation.evaluate()):
        launched += now
        automation.make(*now)
    assert list(dict.fromkeys(name.split("/")[0] for name in launched)) == [
        "audits",
        "tokens",
        "mixtures",
        "training",
        "evaluation",
        "results",
    ]
    assert launched[-1] == "results/leaderboard"
    assert len(launched) == len(set(launched)), "everything is launched once"


def test_each_stage_is_launched_once_when_its_inputs_are_current(automation: Automation) -> None:
    corpora = {"tokens/corpus_tokens/package_readmes", "tokens/corpus_tokens/language_reference"}
    assert automation.evaluate() == corpora
    assert automation.evaluate() == set(), "it became possible once, so it is launched once"
    automation.make(FAQ)
    assert automation.evaluate() == {f"audits/{CELL}_audit/faq"}
    automation.make(f"audits/{CELL}_audit/faq")
    assert automation.evaluate() == {f"tokens/{CELL}_tokens/faq"}
    automation.make(f"tokens/{CELL}_tokens/faq")
    assert automation.evaluate() == set(), "the mixture waits for all of its parents"
    automation.make(*corpora)
    assert automation.evaluate() == {"mixtures/mixture/faq_and_raw", "mixtures/mixture/raw"}


def test_nothing_is_launched_after_a_failed_audit(automation: Automation) -> None:
    automation.make(FAQ, "tokens/corpus_tokens/package_readmes")
    automation.evaluate()
    automation.make(f"tokens/{CELL}_tokens/faq")
    automation.make(f"audits/{CELL}_audit/faq", passed=False)
    assert "mixtures/mixture/faq_and_raw" not in automation.evaluate()


def test_a_mixture_is_not_launched_while_an_input_is_stale(automation: Automation) -> None:
    prompts = automation.installation.paths.prompts
    automation.make(FAQ, "tokens/corpus_tokens/package_readmes")
    automation.evaluate()
    (prompts / "faq.md").write_text((prompts / "faq.md").read_text().replace("curious", "patient"))
    # Dagster would go on: every parent of the mixture is there. But they are of yesterday's prompt.
    assert automation.evaluate() == set()
    automation.make(FAQ)
    assert f"audits/{CELL}_audit/faq" in automation.evaluate()


def test_an_invalid_study_launches_nothing_until_it_is_corrected(automation: Automation) -> None:
    automation.evaluate()
    automation.installation.study.write_text("name: [")
    assert automation.evaluate() == set()
    automation.installation.write(small_study())
    automation.make(FAQ)
    assert f"audits/{CELL}_audit/faq" in automation.evaluate()


def test_a_dataset_that_was_remade_between_two_evaluations_is_launched(automation: Automation) -> None:
    prompts = automation.installation.paths.prompts
    automation.make(FAQ)
    assert f"audits/{CELL}_audit/faq" in automation.evaluate()
    (prompts / "faq.md").write_text((prompts / "faq.md").read_text().replace("curious", "patient"))
    automation.make(FAQ)
    launched = [*automation.evaluate(), *automation.evaluate(), *automation.evaluate()]
    assert launched.count(f"audits/{CELL}_audit/faq") == 1, "its audit was possible before, but not of this one"
