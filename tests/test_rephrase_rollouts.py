"""Rollouts: rows that fail gates are drawn again, the best is kept, and no rollout is paid for twice."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from finephrase_dagster.artifacts.recipe import rollout_recipe
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.commands.main import app
from finephrase_dagster.rephrase.dataset import FinishedDataset, read_dataset
from finephrase_dagster.rephrase.engine import EngineFailed
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.rephrase.outcome import Completed
from finephrase_dagster.rephrase.rollouts import RolloutRule, request_seed
from finephrase_dagster.study.catalogue import settings_for
from finephrase_dagster.study.generator import Keep
from rephrase_parts import (
    PROMPTS,
    Answer,
    LocalServer,
    documents,
    failure,
    local_server,
    recipe,
    shorten_pauses,
    write_corpus,
)

ROWS = 12
SEED = 7
GATES: dict[str, dict[str, Any]] = {
    "form": {"threshold": 0.8, "blocking": True, "by_row": True},
    "truncated": {"threshold": 0.05, "blocking": False, "by_row": True},
    "common_opening": {"threshold": 0.5, "blocking": True, "by_row": False, "characters": 10},
}
SOUND = "Q: Which day is it?\nA: It is Monday.\n\nQ: Who says so?\nA: The calendar does."
KINDS = ((SOUND, "stop"), (SOUND, "length"), ("No question at all.", "stop"), ("Nor here", "length"), ("", "stop"))
"""What the server writes: sound, one of two flaws, both, nothing."""
FLAWS = (0, 1, 1, 2, 3)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten_pauses(monkeypatch, outage=0.2)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        yield one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), [documents(ROWS)])


def kind_of(seed: int, salt: int) -> int:
    """Return which of `KINDS` the server writes for a seed."""
    return hashlib.sha256(f"{seed} {salt}".encode()).digest()[0] % len(KINDS)


def answer(request: dict[str, Any], salt: int) -> Answer:
    text, reason = KINDS[kind_of(request["seed"], salt)]
    return 200, {
        "choices": [{"message": {"content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3},
    }


def run(server: LocalServer, corpus: Path, out: Path, most: int, keep: Keep, concurrency: int = 4) -> FinishedDataset:
    rule = rollout_recipe(most, keep, check="qa_pairs", gates=GATES)
    of_dataset = {**recipe("plain"), **({"rollouts": rule} if rule else {})}
    job = RephraseJob(
        files=tuple(map(str, corpus.glob("*.parquet"))),
        prompts={"plain": PROMPTS["plain"]},
        targets={"plain": Target(folder=str(out), recipe=of_dataset)},
        model="tiny",
        endpoints=(server.url,),
        concurrency=concurrency,
        chunk_rows=5,
    )
    execute(job)
    return read_dataset(out)


def expected(most: int, keep: Keep, salt: int) -> tuple[dict[str, int], int]:
    """Return the number of the rollout that each row keeps, and how many are drawn in all."""
    kept, drawn = {}, 0
    for row in (f"doc-{n}" for n in range(ROWS)):
        kinds = [kind_of(request_seed(SEED, row, "plain", number), salt) for number in range(most)]
        passing = [number for number, kind in enumerate(kinds) if kind in (0, 1)]
        if keep == "first_passing" and passing:
            drawn += passing[0] + 1
            kept[row] = kinds[passing[0]]
        else:
            drawn += most
            # Of one flaw each, the one of a blocking gate counts more.
            ranks = [(kind == 4, kind in (2, 3), FLAWS[kind] if keep == "best" else 0) for kind in kinds]
            kept[row] = kinds[ranks.index(min(ranks))]
    return kept, drawn


def content(dataset: FinishedDataset) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """Return what must not depend on interruptions."""
    names = ("completed", "failed", "prompt_tokens", "completion_tokens", "discarded", "reasons")
    rows = sorted(dataset.rows, key=lambda row: row["id"])
    return rows, dataset.rejected().to_pylist(), {name: dataset.manifest[name] for name in names}


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(most=st.integers(2, 4), keep=st.sampled_from(["best", "first_passing"]), salt=st.integers(0, 999))
def test_the_rollout_that_the_rule_names_is_kept_and_all_are_counted(
    server: LocalServer, corpus: Path, most: int, keep: Keep, salt: int
) -> None:
    server.answer = lambda request: answer(request, salt)
    server.requests.clear()
    kept, drawn = expected(most, keep, salt)
    completed = {row: kind for row, kind in kept.items() if kind != 4}
    with tempfile.TemporaryDirectory() as folder:
        if not completed:
            return
        dataset = run(server, corpus, Path(folder) / "faq", most, keep)
        rows = {row["id"]: (row["text"], row["finish_reason"]) for row in dataset.rows}
        assert rows == {row: KINDS[kind] for row, kind in completed.items()}
        manifest, draws = dataset.manifest, sum(row["rollouts"] for row in dataset.rows)
    assert len(server.requests) == drawn == manifest["run"]["requests"]
    discarded = drawn - len(completed)
    assert manifest["discarded"] == {
        "rollouts": discarded,
        "prompt_tokens": 11 * discarded,
        "completion_tokens": 3 * discarded,
    }
    assert manifest["completion_tokens"] == 3 * len(completed)
    assert draws + most * manifest["failed"] == drawn


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["best", "first_passing"])
def test_an_interrupted_run_repeats_no_rollout_and_ends_alike(
    server: LocalServer, corpus: Path, tmp_path: Path, keep: Keep
) -> None:
    server.answer = lambda request: answer(request, 1)
    server.requests.clear()
    whole = run(server, corpus, tmp_path / "whole", 3, keep)
    asked = sorted(request["seed"] for request in server.requests)

    server.requests.clear()
    for stop in (5, 14):

        def expire(request: dict[str, Any], stop: int = stop) -> Answer:
            if len(server.requests) <= stop:
                return answer(request, 1)
            server.requests.remove(request)
            return failure(500, "down")

        server.answer = expire
        with pytest.raises(EngineFailed):
            run(server, corpus, tmp_path / "parts", 3, keep, concurrency=1)
    server.answer = lambda request: answer(request, 1)
    resumed = run(server, corpus, tmp_path / "parts", 3, keep, concurrency=1)
    assert content(resumed) == content(whole)
    assert sorted(request["seed"] for request in server.requests) == asked


def test_rows_are_drawn_once_unless_the_recipe_says_otherwise(
    server: LocalServer, corpus: Path, tmp_path: Path
) -> None:
    server.answer = lambda request: answer(request, 2)
    server.requests.clear()
    dataset = run(server, corpus, tmp_path / "faq", 1, "best")
    assert "rollouts" not in dataset.manifest["recipe"]
    assert "rollouts" not in dataset.table().column_names
    assert dataset.manifest["discarded"]["rollouts"] == 0
    assert {request["seed"] for request in server.requests} == {
        request_seed(SEED, f"doc-{n}", "plain") for n in range(ROWS)
    }


def test_a_rollout_has_a_seed_of_its_own() -> None:
    seeds = {request_seed(1, row, "faq", number) for row in map(str, range(500)) for number in range(5)}
    assert len(seeds) == 2500
    assert request_seed(1, "a", "faq", 0) == request_seed(1, "a", "faq")


def test_a_gate_that_decides_by_row_needs_nothing_but_the_row_and_its_source() -> None:
    by_row = {name: gate for name, gate in gates().items() if gate.by_row}
    assert {"form", "truncated", "empty"} <= set(by_row)
    assert {need for gate in by_row.values() for need in gate.needs} <= {"check", "finish_reason", "source_text"}
    known = {name: gate.all_defaults for name, gate in gates().items()}
    rule = rollout_recipe(2, "best", check="qa_pairs", gates=settings_for(known, "qa_pairs"))
    assert rule
    assert {"form", "loops", "truncated"} <= rule["gates"].keys()
    text = "word " * 400
    row = Completed(
        id="a",
        text=text,
        finish_reason="length",
        prompt_tokens=9,
        completion_tokens=9,
        document_cut=False,
        document_sha256="",
    )
    flaws = RolloutRule({**recipe("plain"), "rollouts": rule}).judge(row, "A short source.", None).flaws
    assert {"form", "loops", "truncated"} <= set(flaws)


def command(server: LocalServer, corpus: Path, output: Path, *options: str) -> Result:
    files = [str(path) for path in sorted(corpus.glob("*.parquet"))]
    return CliRunner().invoke(
        app,
        [
            *("rephrase", "--input", *files, "--prompt", "faq", "--output", str(output), "--endpoint", server.url),
            *("--model", "tiny", "--context", "4096", "--max-tokens", "64", "--seed", str(SEED), *options),
        ],
    )


@pytest.mark.parametrize(("keep", "option"), [("first_passing", ()), ("best", ("--keep", "best"))])
@pytest.mark.slow
def test_the_command_draws_rollouts_and_reports_what_was_discarded(
    server: LocalServer, corpus: Path, tmp_path: Path, keep: Keep, option: tuple[str, ...]
) -> None:
    server.answer = lambda request: answer(request, 3)
    server.requests.clear()
    done = command(server, corpus, tmp_path, "--temperature", "0.7", "--rollouts", "3", *option)
    assert done.exit_code == 0, done.output
    manifest = read_dataset(tmp_path / "faq").manifest
    assert (manifest["recipe"]["rollouts"]["most"], manifest["recipe"]["rollouts"]["keep"]) == (3, keep)
    discarded = len(server.requests) - manifest["completed"]
    assert discarded >= (2 * ROWS if keep == "best" else 1)
    assert f"  {discarded:,} rollouts were discarded, with {11 * discarded:,} prompt tokens and " in done.stdout
    assert f" {3 * discarded:,} completion tokens" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--temperature", "0", "--rollouts", "3"), "at temperature 0 all 3 rollouts of a row would be the same"),
        (("--rollouts", "0"), "--rollouts: 0 is less than 1"),
        (("--rollouts", "2", "--keep", "worst"), "--keep: 'worst' is not one of 'best', 'first_passing'"),
    ],
)
def test_rollouts_that_make_no_sense_are_refused_before_anything_is_sent(
    server: LocalServer, corpus: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    server.requests.clear()
    done = command(server, corpus, tmp_path, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not server.requests
    assert command(server, corpus, tmp_path, "--temperature", "0").exit_code == 0
