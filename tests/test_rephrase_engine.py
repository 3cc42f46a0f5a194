"""The engine: a real vLLM server that answers, reports why it does not start, and never outlives its driver."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.artifacts.sampling import GenerationConfigError, read_sampling, resolve_sampling
from finephrase_dagster.artifacts.versions import TRUNCATION_BYTES, TRUNCATION_ENDPOINT
from finephrase_dagster.rephrase import engine as engines
from finephrase_dagster.rephrase import guard
from finephrase_dagster.rephrase.dataset import read_dataset
from finephrase_dagster.rephrase.engine import Engine, EngineFailed, EngineFlagRefused, arguments, last_errors
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.rephrase.rollouts import request_seed
from finephrase_dagster.study.generator import Sampling, Throughput
from rephrase_parts import (
    PROMPTS,
    datasets,
    documents,
    generator,
    recipe,
    rejected_of,
    rephrase_corpus,
    rows_of,
    write_corpus,
    write_model,
)
from test_identity_experiments import documented

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    log = tmp_path_factory.mktemp("engine") / "engine.log"
    with Engine.of(generator(), model=model, name="tiny", log=log) as one:
        yield one


@pytest.mark.slow
def test_a_real_engine_counts_the_tokens_of_documents(engine: Engine, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [[("long", "A sentence of some words. " * 60), ("short", "Short.")]])
    bytes_recipe = {**recipe("plain"), "truncation": TRUNCATION_BYTES}
    job = RephraseJob(
        files=(str(corpus / "shard-00000.parquet"),),
        prompts={"plain": PROMPTS["plain"]},
        targets={"plain": Target(folder=str(tmp_path / "plain"), recipe=bytes_recipe)},
        model="tiny",
        endpoints=(engine.url,),
    )
    assert execute(job)["plain"]["recipe"]["truncation"] == TRUNCATION_ENDPOINT
    rows = {row["id"]: row for row in read_dataset(tmp_path / "plain").rows}
    assert [rows["long"]["document_cut"], rows["short"]["document_cut"]] == [True, False]
    room = bytes_recipe["context"] - bytes_recipe["max_tokens"]
    assert 0.98 * room <= rows["long"]["prompt_tokens"] <= room


def is_alive(pid: int) -> bool:
    """Return whether a process runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def happens(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
def test_an_engine_and_its_processes_listen_on_localhost_only(engine: Engine) -> None:
    started = psutil.Process().children(recursive=True)
    listening = [
        one.laddr for process in started for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN
    ]
    assert engine.url in {f"http://{ip}:{port}" for ip, port in listening}
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_a_real_engine_completes_the_datasets_of_two_prompts(tmp_path: Path, model: Path, engine: Engine) -> None:
    rows = [*documents(14), ("long", "All of this is far too long. " * 400), ("none", None)]
    corpus = write_corpus(tmp_path / "corpus", [rows[:9], rows[9:]])
    wanted = datasets(tmp_path / "data")
    manifests = rephrase_corpus(corpus, wanted, model=model, engine=engine.start, concurrency=16)
    for name, artifact in wanted.items():
        manifest = manifests[name]
        assert [manifest[key] for key in ("rows_in", "completed", "skipped", "failed")] == [16, 15, 1, 0]
        written = rows_of(artifact)
        assert [row["id"] for row in written] == [name for name, text in rows if text]
        assert sum(row["completion_tokens"] for row in written) == manifest["completion_tokens"] > 0
        assert {row["finish_reason"] for row in written} <= {"stop", "length"}
        assert [row["id"] for row in written if row["document_cut"]] == ["long"]
        # The long document fills the context except for the completion, up to a character and two token boundaries.
        longest = next(row["prompt_tokens"] for row in written if row["id"] == "long")
        assert 512 - 24 - 12 < longest <= 512 - 24
        assert [row["reason"] for row in rejected_of(artifact)] == ["text is missing"]
        assert manifest["run"]["prefix_cache_hit_rate"] is not None
        account = manifest["goodput"]
        assert 0 < account["prefill_seconds"] < account["parts"]["kept"], "vLLM measures both"
        assert account["prefill_seconds"] + account["decode_seconds"] == pytest.approx(account["parts"]["kept"])
        for file in manifest["files"]:
            assert sha256_file(artifact.folder / file["path"]) == file["sha256"]


@pytest.mark.slow
def test_a_request_with_the_same_seed_has_the_same_completion(engine: Engine) -> None:
    def drawn(seed: int) -> str:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Say a word."}], "max_tokens": 20}
        request = urllib.request.Request(
            f"{engine.start().url}/v1/chat/completions",
            json.dumps({**body, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "seed": seed}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]

    assert drawn(request_seed(1, "row", "faq")) == drawn(request_seed(1, "row", "faq"))
    assert drawn(request_seed(1, "row", "faq")) != drawn(request_seed(1, "row", "table"))


GENERATION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "`concurrency`": ({}, {"concurrency": 1}),
    "`chunk_rows`": ({}, {"chunk_rows": 2}),
    "`gpus`, `gpu_hour_dollars`, `log_seconds`": ({}, {"gpus": 3, "gpu_hour_dollars": 2.0, "log_seconds": 1.0}),
    "`parameters`, `license`, `throughput`": (
        {"parameters": 3.0, "license": "other", "throughput": Throughput(tokens_per_second=1, basis="a guess")},
        {},
    ),
    "`temperature`": ({"sampling": Sampling(seed=7, temperature=0.5)}, {}),
    "`top_p`": ({"sampling": Sampling(seed=7, top_p=0.5)}, {}),
    "`top_k`": ({"sampling": Sampling(seed=7, top_k=2)}, {}),
    "`seed`": ({"sampling": Sampling(seed=8)}, {}),
    "`max_tokens`": ({"max_tokens": 12}, {}),
    "`context`": ({"context": 256}, {}),
    "`guided`": ({"guided": True}, {}),
    "`keep_raw`": ({"keep_raw": True}, {}),
    "`date`, of a template without one": ({"date": "2030-01-01"}, {}),
}
"""By row of the table in docs/architecture.md: the changed fields of a generator, and of a job's execution."""


@pytest.mark.slow
def test_a_setting_of_the_generation_is_in_the_recipe_exactly_if_it_may_change_completions(
    engine: Engine, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(8, words=150)])
    endpoints = (engine.start().url,)

    def completed(name: str, fields: dict[str, Any], execution: dict[str, Any]) -> tuple[dict[str, str], str]:
        target = Target(folder=str(tmp_path / name), recipe=recipe("plain", generator(**fields)))
        job = RephraseJob(
            files=(str(corpus / "shard-00000.parquet"),),
            prompts={"plain": PROMPTS["plain"]},
            targets={"plain": target},
            model="tiny",
            endpoints=endpoints,
            **execution,
        )
        manifest = execute(job)["plain"]
        return {row["id"]: row["text"] for row in read_dataset(tmp_path / name).rows}, manifest["fingerprint"]

    texts, fingerprint = completed("unchanged", {}, {})
    rows = {setting: row for (stage, setting), row in documented().items() if stage == "dataset"}
    assert rows.keys() == GENERATION.keys()
    for number, (setting, (fields, execution)) in enumerate(GENERATION.items()):
        others, changed = completed(str(number), fields, execution)
        equal = sum(texts[name] == others[name] for name in texts)
        # Requests that share a batch are summed in another order, which now and then draws another token.
        outcome = "rounding" if equal >= len(texts) - 1 else "other"
        outcome = "another column" if setting == "`keep_raw`" and outcome == "rounding" else outcome
        assert (setting, outcome, "yes" if changed != fingerprint else "no") == (setting, *rows[setting])


@pytest.mark.slow
def test_an_engine_that_cannot_start_shows_its_own_error(tmp_path: Path, model: Path) -> None:
    one = Engine.of(generator(context=4096), model=model, name="tiny", log=tmp_path / "engine.log")
    with pytest.raises(EngineFailed, match=r"(?s)max_model_len \(4096\).*engine\.log"):
        one.start()
    assert not one.running


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from rephrase_parts import datasets, generator, rephrase_corpus
from finephrase_dagster.rephrase.engine import Engine

root, model = Path(sys.argv[1]), Path(sys.argv[3])
spec = generator(max_tokens=80)
with Engine.of(spec, model=model, name="tiny", log=root / "engine.log") as engine:
    (root / "engine.url").write_text(engine.url)
    rephrase_corpus(root / "corpus", datasets(root / "data", spec=spec), model=model, engine=engine.start,
                    chunk_rows=5)
"""


def drive(root: Path, model: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", DRIVER, str(root), str(TESTS), str(model)])


def listens(url: str) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def group_of(url: str) -> set[int]:
    """Return the process groups in which a command line contains the engine's port."""
    port, groups = url.rpartition(":")[2], {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_alive(int(folder.name)):
            try:
                line, group = (folder / "cmdline").read_bytes().decode().split("\0"), os.getpgid(int(folder.name))
            except (OSError, ProcessLookupError):
                continue
            groups.setdefault(group, []).append((int(folder.name), port in line))
    return {pid for members in groups.values() if any(of for _, of in members) for pid, _ in members}


@pytest.mark.slow
def test_a_killed_driver_takes_its_engine_along_and_the_next_run_resumes(
    tmp_path: Path, model: Path, engine: Engine
) -> None:
    write_corpus(tmp_path / "corpus", [documents(60), documents(20, start=60)])
    data, summaries = tmp_path / "data", "artifacts/synthetic/*/__meta__/chunks/part-*.parquet"
    driver = drive(tmp_path, model)
    assert happens(lambda: len(list(data.glob(summaries))) >= 3 or driver.poll() is not None, 120)
    url = (tmp_path / "engine.url").read_text()
    processes = group_of(url)
    assert len(processes) >= 3, "a guard, a server and its engine"
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert happens(lambda: not any(is_alive(pid) for pid in processes)), "the engine outlived its driver"
    assert not listens(url)
    assert not list(data.rglob("manifest.json"))
    # A chunk is finished when its summary is written, after its data file.
    finished = [path.parents[2] / path.name for path in data.glob(summaries)]
    kept = {path: path.stat().st_mtime_ns for path in finished}
    assert 3 <= len(kept) < 32

    wanted = datasets(data, spec=generator(max_tokens=80))
    rephrase_corpus(tmp_path / "corpus", wanted, model=model, engine=engine.start, chunk_rows=5)
    for artifact in wanted.values():
        assert artifact.manifest()["completed"] == 80
        assert sorted(row["id"] for row in rows_of(artifact)) == sorted(f"doc-{number}" for number in range(80))
    for path, written in kept.items():
        assert path.stat().st_mtime_ns == written, "a finished chunk was done again"
    assert not list(data.rglob("*.partial"))


@pytest.mark.slow
def test_an_engine_that_is_killed_is_restarted_and_the_run_continues(
    tmp_path: Path, model: Path, engine: Engine
) -> None:
    corpus = write_corpus(tmp_path / "corpus", [documents(20)])
    wanted = datasets(tmp_path / "data", spec=generator(max_tokens=100))
    engine.start()
    guard_process = engine._guard
    assert guard_process is not None

    def kill_once_some_are_done() -> None:
        journals = wanted["plain"].folder / "__meta__" / "journals"
        assert happens(lambda: any(path.stat().st_size for path in journals.glob("part-*")), 120)
        os.killpg(guard_process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_once_some_are_done)
    killer.start()
    lines: list[str] = []
    manifests = rephrase_corpus(
        corpus,
        wanted,
        model=model,
        engine=engine.start,
        concurrency=4,
        chunk_rows=10,
        log=lines.append,
    )
    killer.join()
    assert [manifests[name]["completed"] for name in wanted] == [20, 20]
    assert manifests["plain"]["run"]["engine_restarts"] == 1
    assert any("engine tiny has ended: it was killed" in line and "is restarted" in line for line in lines)
    for artifact in wanted.values():
        assert [row["id"] for row in rows_of(artifact)] == [f"doc-{number}" for number in range(20)]


def test_a_guard_ends_the_complete_group_when_its_caller_closes_the_pipe(tmp_path: Path) -> None:
    script = f"sleep 600 & echo $! > {tmp_path}/child; trap '' TERM; wait"
    process = subprocess.Popen(
        [sys.executable, guard.__file__, str(os.getpid()), "sh", "-c", script],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert happens(lambda: (tmp_path / "child").exists() and bool((tmp_path / "child").read_text()))
    child = int((tmp_path / "child").read_text())
    assert is_alive(child)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(guard.GRACE_SECONDS + 5) == -signal.SIGKILL
    assert happens(lambda: not is_alive(child))


CALLER = """
import os, subprocess, sys, time
guard, pids = sys.argv[1:]
command = [sys.executable, guard, str(os.getpid()), "sleep", "600"]
process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
forked = os.fork()  # holds the pipe open after this process is gone
if forked:
    open(pids, "w").write(f"{process.pid} {forked}")
time.sleep(600)
"""


def test_a_guard_ends_its_command_when_its_caller_is_killed_while_the_pipe_stays_open(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    caller = subprocess.Popen([sys.executable, "-c", CALLER, guard.__file__, str(pids)])
    assert happens(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    guarding, forked = map(int, pids.read_text().split())
    assert is_alive(guarding)
    caller.kill()
    caller.wait()
    try:
        assert happens(lambda: not is_alive(guarding))
    finally:
        os.kill(forked, signal.SIGKILL)


def test_a_guard_that_is_killed_takes_its_command_along(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/command.new; mv {tmp_path}/command.new {tmp_path}/command; exec sleep 600"
    process = subprocess.Popen(
        [sys.executable, guard.__file__, str(os.getpid()), "sh", "-c", script],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert happens(lambda: (tmp_path / "command").exists())
    command = int((tmp_path / "command").read_text())
    process.kill()
    process.communicate()
    assert happens(lambda: not is_alive(command))


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("kill -KILL $$", "guard: error: killed by SIGKILL; most likely the memory ran out, see `dmesg`\n"),
        ("kill -SEGV $$", "guard: error: killed by SIGSEGV\n"),
        ("exit 3", "guard: ended with status 3\n"),
    ],
)
def test_the_last_words_of_a_guarded_command_state_how_it_ended(script: str, line: str) -> None:
    command = [sys.executable, guard.__file__, str(os.getpid()), "sh", "-c", script]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read() == line


def test_flags_are_turned_into_options_and_switches() -> None:
    line = arguments({"max_num_seqs": 8, "enforce_eager": True, "enable_chunked_prefill": False})
    assert line == ["--max-num-seqs", "8", "--enforce-eager", "--no-enable-chunked-prefill"]


def test_the_study_overrides_the_defaults_of_a_machine_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "on_cpu", lambda: True)
    spec = generator(context=8192, engine={"max-num-seqs": 7})
    line = Engine.of(spec, model=tmp_path, name="tiny", log=tmp_path / "log")._arguments
    assert line[line.index("--max-num-seqs") + 1] == "7"
    assert line.count("--max-num-seqs") == 1
    # Without chunked prefill one step must hold the longest prompt.
    assert line[line.index("--max-num-batched-tokens") + 1] == "8192"
    monkeypatch.setattr(engines, "on_cpu", lambda: False)
    assert "--enforce-eager" not in Engine.of(spec, model=tmp_path, name="tiny", log=tmp_path / "log")._arguments


@pytest.mark.parametrize("flag", ["port", "max-model-len", "quantization", "chat_template"])
def test_flags_that_the_run_or_the_recipe_sets_are_refused(tmp_path: Path, flag: str) -> None:
    with pytest.raises(EngineFlagRefused, match=flag):
        Engine.of(generator(engine={flag: "x"}), model=tmp_path, name="tiny", log=tmp_path / "log")


def test_the_server_is_offline_and_reports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    variables = engines.environment()
    assert (variables["HF_HUB_OFFLINE"], variables["VLLM_NO_USAGE_STATS"]) == ("1", "1")
    assert "PYTHONDONTWRITEBYTECODE" not in variables


def test_the_last_errors_of_a_log_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ValueError: of an earlier start\n")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("INFO all is well\n(EngineCore pid=7) ERROR 11-21 00:44:21 [core.py:1] RuntimeError: no memory\n")
        file.write("INFO bye\n" * 50)
    assert last_errors(log, start).strip() == "RuntimeError: no memory"
    log.write_text("only this\n")
    assert last_errors(log).strip() == "only this"


def test_sampling_comes_from_the_study_then_the_model_then_the_defaults(tmp_path: Path) -> None:
    def resolved(sampling: Sampling) -> dict[str, float | int]:
        return resolve_sampling(sampling, read_sampling(tmp_path))

    assert resolved(Sampling(seed=7)) == {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "seed": 7}
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20, "top_p": null}')
    assert resolved(Sampling(seed=7)) == {"temperature": 0.6, "top_p": 1.0, "top_k": 20, "seed": 7}
    explicit = Sampling(temperature=0.0, top_k=0, seed=1)
    assert resolved(explicit) == {"temperature": 0.0, "top_p": 1.0, "top_k": -1, "seed": 1}


@pytest.mark.parametrize("content", ["{", "[1]", '{"top_p": "high"}'])
def test_an_invalid_generation_config_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(GenerationConfigError, match=r"generation_config\.json"):
        read_sampling(tmp_path)


def test_each_row_and_prompt_has_a_seed_of_its_own() -> None:
    seeds = {request_seed(s, row, p) for s in (0, 1) for row in map(str, range(2000)) for p in ("faq", "table")}
    assert len(seeds) == 8000
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert request_seed(0, "1", "faq") == request_seed(0, "1", "faq")
