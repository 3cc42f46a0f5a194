"""The throughput sweep on real engines: it survives being killed, repeats nothing, and its result is used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
import yaml

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.garbage import unneeded
from finephrase_dagster.artifacts.key import SWEEP, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processor import device_name
from finephrase_dagster.artifacts.sweep import running_generator, sweep_artifact, swept_settings
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.generators.product import make_generator
from finephrase_dagster.plan.plan import plan
from finephrase_dagster.rephrase.job import build_job
from finephrase_dagster.rephrase.model_source import engine_spec
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.throughput.machine import NothingToSweep
from finephrase_dagster.throughput.summary import COLUMNS, conclusions, table_rows, tier_markdown
from finephrase_dagster.throughput.sweep import SweepFailed, sweep
from finephrase_dagster.throughput.sweep_file import SweepSpec
from installation import small_study
from rephrase_parts import write_corpus
from resources.rephraser import IN_FLIGHT, Rephraser

GENERATOR = "rephraser"
SPEC: dict[str, Any] = {
    "documents": 100,
    "warmup_documents": 2,
    "seconds": 1.0,
    "replicates": [1, 2],
    "concurrency": [8],
    # One block of the cache holds 32 tokens, which is too few for a request.
    "tiers": [
        {"num_gpu_blocks_override": [1]},
        {"gpu_memory_utilization": [0.9], "speculation": ["none", "suffix_32"]},
    ],
}


def installed(root: Path, **engine: Any) -> Lineage:
    """Return a study of one generator on one corpus, whose model is ready."""
    fields = {name: value for name, value in small_study().items() if name in ("prompts", "generators", "cells")}
    fields["generators"][GENERATOR]["engine"] |= engine
    fields |= {
        "name": "swept",
        "description": "a test's",
        "sources": {"package_readmes": {"kind": "embedded", "corpus": "package_readmes"}},
    }
    fields["sources"]["package_readmes"]["limit"] = 102
    (root / "study.yaml").write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return read_lineage(Paths(data=root / "data", study=root / "study.yaml"))


def command(root: Path, *arguments: str) -> list[str]:
    main = [sys.executable, "-m", "finephrase_dagster.commands.main", "sweep", "--study", str(root / "study.yaml")]
    return [*main, "--generator", GENERATOR, "--sweep", str(root / "sweep.yaml"), *arguments]


@pytest.mark.slow
def test_a_killed_sweep_repeats_no_measurement_and_its_result_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(REPOSITORY)
    lineage = installed(tmp_path)
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SPEC))
    measurements = "artifacts/throughput/*/measurements/*.json"

    first = subprocess.Popen(command(tmp_path), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "data").glob(measurements)) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").glob(measurements)}
    assert kept
    assert not list((tmp_path / "data").glob("artifacts/throughput/*/__meta__/manifest.json"))
    fingerprints = [lineage.dataset(lineage.study.cells[0], prompt).fingerprint for prompt in lineage.study.prompts]

    second = subprocess.run(command(tmp_path, "--json"), capture_output=True, text=True, timeout=400)
    assert second.returncode == 0, second.stderr
    result = json.loads(second.stdout)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "measured before" in second.stderr
    begun = second.stderr.index("tier 0")
    for value in ("gpu_memory_utilization 0.9", "speculation suffix_32"):
        assert 0 < second.stderr.index(f"not applicable: {value}") < begun, "named before anything starts"

    rows = {row["name"]: row for row in result["tiers"][0]["settings"]}
    default, failed = rows["default, concurrency 8"], rows["num_gpu_blocks_override 1, concurrency 8"]
    assert (default["runs"], default["failure"]) == (2, None)
    assert default["tokens_per_second"] > 0 < default["start_seconds"]
    assert default["low"] < default["tokens_per_second"] < default["high"]
    assert default["prefix_cache_hit_rate"] > 0
    assert (failed["runs"], failed["failure"]["kind"]) == (1, "out of memory")
    assert result["best"]["name"] == "default, concurrency 8"
    assert result["cost"]["spent"]["measurements"] == 3

    third = subprocess.run(command(tmp_path, "--json"), capture_output=True, text=True, timeout=60)
    assert json.loads(third.stdout) == result, "a complete sweep starts nothing"
    assert fingerprints == [
        lineage.dataset(lineage.study.cells[0], prompt).fingerprint for prompt in lineage.study.prompts
    ], "a sweep is no identity"
    bases = [line for item in plan(lineage).as_json()["items"] for line in item["basis"] if "throughput:" in line]
    assert bases
    assert all("throughput sweep here: default, concurrency 8, 2 runs" in line for line in bases)


def swept(root: Path, best: dict[str, Any], **engine: Any) -> tuple[Lineage, Artifact]:
    """Return a study with a complete sweep that chose certain settings."""
    lineage = installed(root, **engine)
    name, cell = GENERATOR, lineage.study.cells[0]
    lineage.generator(name).materialize(lambda folder: make_generator(lineage.study.generators[name], folder))
    corpus = lineage.source(cell.source)
    corpus.folder.mkdir(parents=True)
    write_corpus(corpus.folder, [[(str(number), f"Text {number}. " * 9) for number in range(102)]])
    corpus.publish(corpus.folder.glob("*.parquet"), {"rows": 102, "text_bytes": 9_000})
    artifact = sweep_artifact(lineage, cell, SPEC)
    artifact.folder.mkdir(parents=True)
    figures = {"name": "max_num_seqs 8, concurrency 16", "tokens_per_second": 300.0, "low": 270.0, "high": 330.0}
    artifact.publish([], {"best": {**figures, "concurrency": 16, "runs": 4, "gpus": 0, **best}})
    artifact.label()
    return lineage, artifact


def test_the_swept_settings_are_those_of_the_next_run_and_of_the_plan(tmp_path: Path) -> None:
    chosen = {"dtype": "float32", "max_num_seqs": 8}
    lineage, artifact = swept(tmp_path, {"engine": chosen})
    cell = lineage.study.cells[0]
    own = lineage.study.generators[GENERATOR]
    assert engine_spec(lineage, GENERATOR, own).generator.engine == chosen
    assert running_generator(lineage, GENERATOR).engine == chosen
    datasets = {prompt: lineage.dataset(cell, prompt) for prompt in lineage.study.prompts}
    assert Rephraser()._job(lineage, cell, datasets).concurrency == 16
    assert Rephraser(concurrency=5)._job(lineage, cell, datasets).concurrency == 5, "what a person sets comes first"
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "Copper conducts electricity."}\n')
    for wanted, concurrency in ((None, 16), (5, 5)):
        job = build_job(
            [str(tmp_path / "in.jsonl")],
            prompts=["faq"],
            output=str(tmp_path / "out"),
            generator=GENERATOR,
            paths=lineage.paths,
            concurrency=wanted,
        )
        assert job.engine is not None
        assert (job.concurrency, job.engine.generator.engine) == (concurrency, chosen)
    (basis,) = {
        line for item in plan(lineage).as_json()["items"] for line in item["basis"] if line.startswith("throughput:")
    }
    assert basis == "throughput: throughput sweep here: max_num_seqs 8, concurrency 16, 4 runs, 10 % either way"
    assert artifact.folder.resolve() not in {one.folder.resolve() for one in unneeded(tmp_path / "data", [lineage])}


@pytest.mark.parametrize("changed", ["flags", "completions", "device", "nothing"])
def test_settings_of_another_engine_or_device_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    engine = {"dtype": "bfloat16" if changed == "completions" else "float32", "max_num_seqs": 8}
    lineage, _ = swept(tmp_path, {"engine": engine})
    if changed == "flags":
        lineage = installed(tmp_path, max_num_seqs=32)
    if changed == "device":
        monkeypatch.setattr("finephrase_dagster.artifacts.sweep.device_name", lambda: "1 core of another processor")
    applies = swept_settings(lineage, GENERATOR) is not None
    assert applies == (changed == "nothing")
    cell = lineage.study.cells[0]
    datasets = {prompt: lineage.dataset(cell, prompt) for prompt in lineage.study.prompts}
    assert Rephraser()._job(lineage, cell, datasets).concurrency == (16 if applies else IN_FLIGHT)


def test_the_device_is_named() -> None:
    assert f"{len(os.sched_getaffinity(0))} cores of" in (device_name() or "")


@pytest.mark.parametrize(
    ("generator", "endpoints", "message"),
    [
        ("rephrasr", (), "--generator rephrasr: there is no 'rephrasr'; did you mean rephraser"),
        (GENERATOR, ("http://127.0.0.1:1",), "FINEPHRASE_ENDPOINTS is set"),
        ("other", (), "no cell of the study uses it"),
    ],
)
def test_what_cannot_be_swept_is_refused(
    tmp_path: Path, generator: str, endpoints: tuple[str, ...], message: str
) -> None:
    installed(tmp_path)
    fields = yaml.safe_load((tmp_path / "study.yaml").read_text())
    fields["generators"]["other"] = fields["generators"][GENERATOR]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))
    paths = Paths(data=tmp_path / "data", study=tmp_path / "study.yaml", endpoints=endpoints)
    with pytest.raises(NothingToSweep, match=message):
        sweep(read_lineage(paths), generator, SweepSpec.model_validate(SPEC), devices=["cpu"])


@pytest.mark.slow
def test_an_engine_that_does_not_start_in_time_is_stopped_and_counted_as_a_time_out(tmp_path: Path) -> None:
    lineage, _ = swept(tmp_path, {"engine": {}})
    spec = SweepSpec.model_validate({**SPEC, "start_seconds": 0.3, "tiers": [{"speculation": ["none"]}]})
    lines: list[str] = []
    with pytest.raises(SweepFailed, match=r"every setting failed \(1 x time-out\)"):
        sweep(lineage, GENERATOR, spec, devices=["cpu"], log=lines.append)
    assert any("run 1, default, concurrency 8: time-out" in line for line in lines)
    assert not [one for one in psutil.Process().children(recursive=True) if "guard.py" in " ".join(one.cmdline())]


class Table:
    """The speeds that a test gives to settings in place of engines, whose speed no test can know."""

    def __init__(self, speeds: dict[str, float]) -> None:
        self.speeds, self.asked = speeds, list[str]()

    def __call__(self, flags: dict[str, Any], concurrency: int, log: Path) -> dict[str, Any]:
        name = f"{flags.get('max_num_seqs')} {json.loads(flags.get('speculative_config', '{}')).get('method')}"
        self.asked.append(f"{name} {concurrency}")
        speed = self.speeds[self.asked[-1]]
        if not speed:
            return {"seconds": 1.0, "failure": {"kind": "time-out", "line": "too slow"}}
        shares = {"prefix_cache_hit_rate": 0.5, "speculation_acceptance": None}
        steady = {"seconds": 5.0, "tokens_per_second": speed * (1 + len(self.asked) % 3 / 1000), **shares}
        times = {"start_seconds": 1.0, "warmup_seconds": 1.0, "measured_seconds": 6.0}
        return {**times, "seconds": 8.0, "steady": steady}


TWO_TIERS: dict[str, Any] = {
    **SPEC,
    "concurrency": [4, 32],
    "tiers": [{"max_num_seqs": [8, 16]}, {"speculation": ["none", "ngram_6"]}],
}


def test_a_tier_starts_from_the_winner_of_the_one_before_and_speculation_is_tried_at_each_concurrency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"None None 32": 100.0, "8 None 32": 150.0, "16 None 32": 0.0, "8 ngram 32": 140.0}
    measure = Table({**speeds, "8 None 4": 50.0, "8 ngram 4": 90.0})
    monkeypatch.setattr("finephrase_dagster.throughput.measurement.Bench.measure", measure)
    lineage, _ = swept(tmp_path, {"engine": {}})
    spec, lines = SweepSpec.model_validate(TWO_TIERS), list[str]()
    manifest = sweep(lineage, GENERATOR, spec, devices=["cpu"], log=lines.append).manifest()
    assert manifest["best"]["name"] == "max_num_seqs 8, concurrency 32"
    assert manifest["best"]["engine"] == {"dtype": "float32", "max_num_seqs": 8}
    assert [tier["chosen"] for tier in manifest["tiers"]] == ["max_num_seqs 8, concurrency 32"] * 2
    crossed = {(row["changes"].get("speculation"), row["concurrency"]) for row in manifest["tiers"][1]["settings"]}
    assert crossed == {(None, 4), (None, 32), ("ngram_6", 4), ("ngram_6", 32)}
    assert measure.asked.count("16 None 32") == 1
    assert measure.asked.count("8 None 32") == 2, "the second tier knows it already"
    assert manifest["speedup"] == pytest.approx(1.5, rel=0.01)
    assert swept_settings(lineage, GENERATOR) is not None

    tier = manifest["tiers"][0]
    table = table_rows(tier)
    assert [row[0] for row in table] == [
        *("> max_num_seqs 8, concurrency 32", "default, concurrency 32", "max_num_seqs 16, concurrency 32")
    ]
    assert all(len(row) == len(COLUMNS) for row in table)
    assert table[-1][1] == "time-out"
    assert "█" * 40 in tier_markdown(tier)
    text = "\n".join(conclusions(manifest))
    assert "failed (time-out): max_num_seqs 16, concurrency 32: too slow" in text
    assert "halving saved" in text


def test_the_page_of_a_sweep_shows_its_choice_a_chart_and_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"16 None 32": 100.0, "8 None 32": 150.0, "8 ngram 32": 140.0, "8 None 4": 50.0, "8 ngram 4": 90.0}
    measure = Table(speeds)
    monkeypatch.setattr("finephrase_dagster.throughput.measurement.Bench.measure", measure)
    lineage, _ = swept(tmp_path, {"engine": {}}, **{"max-num-seqs": 16})  # so 16 is the default
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(TWO_TIERS))
    with dg.DagsterInstance.ephemeral() as instance:
        run = (
            build_defs(lineage)
            .resolve_job_def("make__throughput__sweep")
            .execute_in_process(
                instance=instance,
                partition_key=GENERATOR,
                run_config={"ops": {"throughput__sweep": {"config": {"file": str(tmp_path / "sweep.yaml")}}}},
            )
        )
        (event,) = run.asset_materializations_for_node("throughput__sweep")
    page = {name: entry.value for name, entry in event.metadata.items()}
    assert page["best"] == "max_num_seqs 8, concurrency 32"
    assert page["tokens_per_second"] == pytest.approx(150, rel=0.01)
    assert page["low"] < page["tokens_per_second"] < page["high"]
    assert page["measurements"] == len(measure.asked)
    assert "█" in page["preview"]
    assert "| > max_num_seqs 8, concurrency 32 |" in page["preview"]
    assert "halving saved" in page["conclusions"]


def test_a_sweep_in_which_everything_fails_is_an_error_that_names_the_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Table(dict.fromkeys(("None None 32", "8 None 32", "16 None 32"), 0.0))
    monkeypatch.setattr("finephrase_dagster.throughput.measurement.Bench.measure", measure)
    lineage, _ = swept(tmp_path, {"engine": {}})
    spec = SweepSpec.model_validate(TWO_TIERS)
    for _ in range(2):
        with pytest.raises(SweepFailed, match=r"every setting failed \(3 x time-out\).*logs.*delete .*measurements"):
            sweep(lineage, GENERATOR, spec, devices=["cpu"])
    assert len(measure.asked) == 3
    assert not (lineage.labels / ItemKey(kind=SWEEP, generator=GENERATOR).name / "measurements").exists()
