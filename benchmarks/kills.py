"""Resuming a complete study: `finephrase materialize` is ended again and again at random moments, then runs to its end.

Most of the times its process group is killed (SIGKILL); once it gets Ctrl-C (SIGINT), and once its terminal closes
(SIGHUP). Each moment is some seconds after a random one of the study's steps has begun. After each end, no process may
be left, and all that was finished is noted: manifests, and the completions in the journals of unfinished datasets. At
the end, every manifest must still have the same bytes, every noted completion must be in its dataset, and nothing may
be left to do. With `--reference`, the data folder of an uninterrupted run of the same study, the fingerprints of
sources, generators and datasets must be the same as there.

    python benchmarks/kills.py [--study studies/demo.yaml] [--kills 6] [--steps 50] [--seed 0] [--begin data]
        [--reference data]

`--begin` copies what a data folder has of sources and generators first, which saves half a minute of unpacking.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from finephrase_dagster.rephrase.outcome import Completed, read_journal
from finephrase_dagster.study.paths import REPOSITORY

MARK = "FINEPHRASE_KILLS"
LONGEST = 12.0  # seconds from the beginning of a step to the end of the run
ENDING = 30.0  # seconds within which all its processes must have ended
COMMAND = [sys.executable, "-m", "finephrase_dagster.commands.main"]
REPRODUCIBLE = ("sources", "generators", "synthetic")


@dataclass
class Finished:
    """What has been paid for: manifests by path, and completions by dataset and id."""

    manifests: dict[Path, bytes] = field(default_factory=dict)
    completions: dict[tuple[Path, str], str] = field(default_factory=dict)

    def note(self, data: Path) -> None:
        """Note what exists in a data folder.

        Raises:
            RuntimeError: something that was noted before is no longer there.
        """
        self.check_manifests()
        for manifest in data.glob("artifacts/*/*/__meta__/manifest.json"):
            self.manifests.setdefault(manifest, manifest.read_bytes())
        for journal in data.glob("artifacts/synthetic/*/__meta__/journals/part-*"):
            for _, outcome in read_journal(journal.read_bytes()):
                if isinstance(outcome, Completed):
                    self.completions[journal.parents[2], outcome.id] = outcome.text

    def check_manifests(self) -> None:
        """Raise RuntimeError if a noted manifest has changed."""
        changed = [str(path) for path, content in self.manifests.items() if path.read_bytes() != content]
        if changed:
            raise RuntimeError(f"made a second time: {', '.join(changed)}")

    def check_completions(self) -> None:
        """Raise RuntimeError if a noted completion is not in its dataset."""
        texts = {
            (folder, row["id"]): row["text"]
            for folder in {folder for folder, _ in self.completions}
            for file in folder.glob("part-*.parquet")
            for row in pq.read_table(file, columns=["id", "text"]).to_pylist()
        }
        lost = [f"{folder}: {id}" for (folder, id), text in self.completions.items() if texts.get((folder, id)) != text]
        if lost:
            raise RuntimeError(f"{len(lost)} completions are lost: {lost[0]}")


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=REPOSITORY / "studies" / "demo.yaml")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50, help="steps of the study, roughly")
    parser.add_argument("--begin", type=Path, metavar="DATA")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=Path, metavar="DATA")
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    signals = [*[signal.SIGKILL] * arguments.kills, signal.SIGINT, signal.SIGHUP]
    chance.shuffle(signals)
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        data, home = Path(name) / "data", Path(name) / "dagster_home"
        home.mkdir()
        shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
        environment = {**os.environ, "FINEPHRASE_DATA": str(data), "DAGSTER_HOME": str(home), MARK: name}
        line = [*COMMAND, "materialize", "--study", str(arguments.study)]
        if arguments.begin:
            for kind in REPRODUCIBLE[:2]:
                shutil.copytree(arguments.begin / "artifacts" / kind, data / "artifacts" / kind)
        finished, ends, last = Finished(), [], 0
        steps = sorted(chance.randrange(arguments.steps) for _ in signals)
        for sent, step in zip(signals, steps, strict=True):
            moment = Moment(steps=1 + step - last, seconds=chance.uniform(0, LONGEST))
            ends.append({"signal": sent.name, **end_at(moment, sent, line, environment)})
            last = step
            finished.note(data)
            ends[-1] |= {"manifests": len(finished.manifests), "journaled": len(finished.completions)}
            print(json.dumps(ends[-1]), flush=True)
        began = time.monotonic()
        subprocess.run(line, env=environment, check=True)
        seconds = time.monotonic() - began
        finished.check_manifests()
        finished.check_completions()
        plan = subprocess.run(
            [*COMMAND, "plan", "--study", str(arguments.study), "--json"],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
        total = json.loads(plan.stdout)["total"]
        if left := total["missing"] + total["stale"]:
            raise RuntimeError(f"{left} partitions are left to do")
        same = arguments.reference and same_fingerprints(data, arguments.reference)
    figures = {"ends": ends, "last_run_seconds": round(seconds, 1), "complete": True, "same_fingerprints": same}
    kept = {"manifests_kept": len(finished.manifests), "journaled_completions_kept": len(finished.completions)}
    print(json.dumps({**figures, **kept, "seed": arguments.seed, "cores": os.cpu_count()}))


@dataclass(frozen=True)
class Moment:
    """Some seconds after the last of so many steps has begun; a short step may be over by then."""

    steps: int
    seconds: float


def end_at(moment: Moment, sent: signal.Signals, line: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command up to a moment, end it by a signal, and return where it was and how soon all was gone.

    Raises:
        RuntimeError: it ended before, or a process is left.
    """
    process = subprocess.Popen(
        line,
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )
    assert process.stderr is not None
    begun, said = 0, ""
    for said in process.stderr:
        begun += said.endswith(" ...\n") and said.startswith("[")
        if begun == moment.steps:
            break
    else:
        raise RuntimeError(f"it ended by itself with status {process.wait()}: {said}")
    time.sleep(moment.seconds)
    os.killpg(process.pid, sent)
    began = time.monotonic()
    _, rest = process.communicate(timeout=ENDING)
    while left := marked(environment[MARK]):
        if time.monotonic() - began > ENDING:
            raise RuntimeError(f"still running after {sent.name}: {[one.cmdline() for one in left]}")
        time.sleep(0.1)
    if "Traceback" in rest:
        raise RuntimeError(f"{sent.name} leaves a stack trace: {rest[-1000:]}")
    return {
        "seconds_after_step_began": round(moment.seconds, 1),
        "step": said.strip(),
        "status": process.returncode,
        "all_gone_seconds": round(time.monotonic() - began, 2),
    }


def marked(mark: str) -> list[psutil.Process]:
    """Return the running processes with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def same_fingerprints(data: Path, reference: Path) -> bool:
    """Return whether two data folders hold the same sources, generators and datasets.

    Raises:
        RuntimeError: they do not.
    """
    for kind in REPRODUCIBLE:
        ours, theirs = (
            {folder.parents[1].name for folder in one.glob(f"artifacts/{kind}/*/__meta__/manifest.json")}
            for one in (data, reference)
        )
        if ours - theirs:
            raise RuntimeError(f"{kind} with other fingerprints than in {reference}: {sorted(ours - theirs)}")
    return True


if __name__ == "__main__":
    main()
