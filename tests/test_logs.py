"""Logs for machines: every line is one JSON object that names what it is about."""

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from finephrase_dagster.orchestration.jobs import build_job
from finephrase_dagster.orchestration.logs import JsonLines
from finephrase_dagster.orchestration.progress import progress
from rephrase_parts import documents, local_server


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def check_time(line: dict[str, Any]) -> None:
    moment = datetime.fromisoformat(line["time"])
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


def test_a_stages_message_names_its_study_asset_partition_and_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FINEPHRASE_LOG_FORMAT", "json")
    monkeypatch.setenv("FINEPHRASE_STUDY", "studies/production.yaml")

    @dg.asset(key=["synthetic", "big__web"], partitions_def=dg.StaticPartitionsDefinition(["faq", "table"]))
    def cell(context: dg.AssetExecutionContext) -> None:
        context.log.info('12 "requests"\ndone')
        context.log.warning("slow")

    job = build_job(cell.key)
    definitions = dg.Definitions(assets=[cell], jobs=[job], loggers={"progress": progress})
    result = definitions.resolve_job_def(job.name).execute_in_process(
        partition_key="faq", run_config={"loggers": {"progress": {}}}
    )
    first, second = lines(capsys.readouterr().err)
    check_time(first)
    del first["time"]
    assert first == {
        "level": "info",
        "message": '12 "requests"\ndone',
        "study": "production",
        "asset": "synthetic/big__web",
        "partition": "faq",
        "run_id": result.run_id,
    }
    assert (second["level"], second["message"]) == ("warning", "slow")


def test_a_record_with_an_exception_is_one_line_with_its_traceback() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "it %s", ("failed",), sys.exc_info())
    (line,) = lines(JsonLines().format(record))
    assert line["message"].startswith("it failed\nTraceback")
    assert line["message"].endswith("ValueError: broken")
    assert "asset" not in line


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "status", "level"), [("faq", 0, "info"), ("poem", 2, "error")])
def test_every_line_of_the_command_is_json(tmp_path: Path, prompt: str, status: int, level: str) -> None:
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in documents(5)))
    with local_server() as server:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "finephrase_dagster.commands.main", "rephrase", "--input", str(rows), "--json"),
                *("--prompt", prompt, "--output", str(tmp_path / "out"), "--endpoint", server.url, "--model", "tiny"),
                *("--context", "4096"),
            ],
            env={**os.environ, "FINEPHRASE_LOG_FORMAT": "json"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == status, done.stderr
    printed = lines(done.stderr)
    assert {line["level"] for line in printed} == {level}
    assert {line["study"] for line in printed} == {"demo"}
    for line in printed:
        check_time(line)
