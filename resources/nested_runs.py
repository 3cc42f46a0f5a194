"""The runs of a study in MLflow: one parent run per arm, and nested in it one run per seed.

An arm is a mixture with a student. A student's run is found by its name and its artifact's fingerprint. What describes
a finished run is hashed into one of its tags, so recording it again changes nothing, and recording it after a change
completes the same run. A run that another one replaces stays, marked as superseded; the parent's figures are those of
the current runs. Everything that looks for a run and then creates it holds the lock of the installation, because MLflow
has no unique names of runs.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.artifacts.processes import is_running, this_machine, this_process
from finephrase_dagster.orchestration.mlflow_links import FINGERPRINT_TAG, PAGE_TAG, SUPERSEDED_TAG
from resources.student_record import Point, RunDescription, StudentRecord, UsedDataset, as_json, digest_of, run_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND_TAG, ARM, STUDENT = "finephrase.kind", "arm", "student"
PROCESS_TAG, MACHINE_TAG = "finephrase.process", "finephrase.machine"
PARENT_TAG = "mlflow.parentRunId"
SUPERSEDED = " (superseded)"
DESCRIBED_TAG = "finephrase.described"
CURVES = ("loss", "learning_rate")
OF_SEEDS = ("data_seed", "model_seed", "dagster.asset", "dagster.partition")
"""The parameters and tags in which the runs of an arm differ."""
SPREAD = ("macro", "micro")
"""The scores of which an arm also has the standard deviation over its seeds."""
VALUE_LIMIT, TAG_LIMIT = 500, 5_000  # characters that MLflow's stores keep
METRICS_PER_BATCH = 1_000  # MLflow's limit
STATUSES = ("RUNNING", "FAILED", "KILLED", "FINISHED")
"""The status of an arm is the first of these that one of its runs has."""


class NestedRuns:
    """The runs of one experiment. Only one process at a time may call its methods: see `Tracking.runs`."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client, self._experiment = client, experiment

    def begin(self, artifact: Artifact, about: RunDescription) -> str:
        """Return the id of the run of a training that begins: its interrupted run, or a new one."""
        run, others = self._find(artifact, about)
        if run is not None and run.info.status == "FINISHED":  # its files were deleted, so it is trained again
            others, run = [*others, run], None
        run_id, parent = self._open(artifact, about, run, others)
        self.summarise(parent)
        return run_id

    def complete(self, records: Sequence[StudentRecord]) -> list[str]:
        """Complete or create the runs of finished students of one arm; return their ids."""
        changed, parents, ids = [], set(), []
        for record in records:
            run, others = self._find(record.artifact, record.about)
            if run and not others and is_complete(run, record):
                ids.append(run.info.run_id)
                continue
            run_id, parent = self._open(record.artifact, record.about, run, others, seconds=record.seconds)
            self._log(run_id, record.points, run)
            self._describe(run_id, record.about.datasets, record.files, record.digest)
            done = run is not None and run.info.status == "FINISHED"
            self._client.set_terminated(run_id, "FINISHED", end_time=run.info.end_time if run and done else None)
            ids.append(run_id)
            parents.add(parent)
            changed.append((parent, record))
        for parent, record in dict(changed).items():
            self._describe_arm(parent, record)
        for parent in parents:
            self.summarise(parent)
        return ids

    def end(self, artifact: Artifact, status: str) -> None:
        """End the run of a training that failed or was interrupted."""
        for run in self._search(_is(FINGERPRINT_TAG, artifact.fingerprint))[:1]:
            self._client.set_terminated(run.info.run_id, status)
            self.summarise(run.data.tags.get(PARENT_TAG))

    def end_orphans(self) -> list[str]:
        """Mark as killed the runs of processes of this machine that have ended; return their names."""
        ended = []
        for run in self._search("attributes.status = 'RUNNING'"):
            machine, process = run.data.tags.get(MACHINE_TAG), run.data.tags.get(PROCESS_TAG)
            if machine and process and _has_ended(machine, process):
                self._client.set_terminated(run.info.run_id, "KILLED")
                self.summarise(run.data.tags.get(PARENT_TAG))
                ended.append(run.info.run_name)
        return ended

    def retire(self, current: Collection[str]) -> None:
        """Mark as superseded the runs and arms that the study has no longer, and unite arms that exist twice."""
        arms: dict[str, str] = {}
        for run in reversed(self.all()):  # the oldest arm of a name is the one that stays
            name, kind = run.info.run_name, run.data.tags.get(KIND_TAG)
            if kind is None or SUPERSEDED_TAG in run.data.tags:
                continue
            if name not in current:
                self._supersede(run, "removed from the study")
            elif kind == ARM and (oldest := arms.setdefault(name, run.info.run_id)) != run.info.run_id:
                for child in self._children(run.info.run_id):
                    self._client.set_tag(child.info.run_id, PARENT_TAG, oldest)
                self._client.delete_run(run.info.run_id)
                self.summarise(oldest)

    def mark_arms(self, tags: Mapping[str, Mapping[str, str]]) -> None:
        """Add tags to arms, by their names."""
        from mlflow.entities import RunTag

        for run in self._search(_is(KIND_TAG, ARM)):
            wanted = tags.get(run.info.run_name, {})
            changed = [RunTag(name, text) for name, text in wanted.items() if run.data.tags.get(name) != text]
            if changed:
                self._client.log_batch(run.info.run_id, tags=changed)

    def store_page(self, name: str, text: str) -> str:
        """Store a page in a run of its own, in place of an earlier one; return the run's id."""
        pages = self._search(_is(PAGE_TAG, name))
        run_id = pages[0].info.run_id if pages else self._create(name, {PAGE_TAG: name}, 0.0)
        self._client.log_text(run_id, text, name)
        self._client.set_terminated(run_id, "FINISHED")
        return run_id

    def all(self) -> list[Run]:
        """Return all runs of the experiment, the latest first."""
        return self._search("")

    def summarise(self, parent: str | None) -> None:
        """Give an arm the means over its current runs, their number, and their status."""
        children = [run for run in self._children(parent) if SUPERSEDED_TAG not in run.data.tags] if parent else []
        if not parent or not children:
            return
        known = self._client.get_run(parent)
        scored = [run.data.metrics for run in children if run.info.status == "FINISHED" and "macro" in run.data.metrics]
        figures = {"seeds": float(len(scored))}
        for name in {name for metrics in scored for name in metrics if name not in CURVES}:
            values = [metrics[name] for metrics in scored if name in metrics]
            figures[name] = fmean(values)
            if name in SPREAD and len(values) > 1:
                figures[f"{name}_sd"] = stdev(values)
        # MLflow shows the value of the last step, so none of these steps may precede an earlier one.
        last = int(max(metrics.get("steps", 0) for metrics in (*scored, known.data.metrics)))
        outdated = {name for name, value in known.data.metrics.items() if value == value} - {"steps", *figures}
        figures |= dict.fromkeys(outdated, math.nan)
        self._log(parent, [(name, last, value) for name, value in figures.items()], known)
        status = next(status for status in STATUSES if status in {run.info.status for run in children})
        end = max(run.info.end_time or 0 for run in children)
        if status == "RUNNING":
            self._client.update_run(parent, status=status)
        elif (known.info.status, known.info.end_time) != (status, end):
            self._client.set_terminated(parent, status, end)

    def _find(self, artifact: Artifact, about: RunDescription) -> tuple[Run | None, list[Run]]:
        """Return the artifact's run, also under a name that the study has no longer, and other runs of its name."""
        name = run_name(artifact)
        named = self._search(f"attributes.run_name = '{name}'")
        same = [run for run in named if run.data.tags.get(FINGERPRINT_TAG) == artifact.fingerprint]
        if not same:
            same = [
                run
                for run in self._search(_is(FINGERPRINT_TAG, artifact.fingerprint))
                if (before := run.info.run_name.removesuffix(SUPERSEDED)) == name or before not in about.current
            ]
        run = same[0] if same else None
        return run, [other for other in named if other is not run]

    def _open(
        self,
        artifact: Artifact,
        about: RunDescription,
        run: Run | None,
        others: Iterable[Run],
        *,
        seconds: float = 0.0,
    ) -> tuple[str, str]:
        """Make the artifact's run the current one of its name, or create it; return its id and its parent's."""
        from mlflow.entities import Param, RunTag

        parent = self._parent(about, run, seconds)
        tags = {
            **about.tags,
            **about.origin,
            KIND_TAG: STUDENT,
            FINGERPRINT_TAG: artifact.fingerprint,
            PARENT_TAG: parent,
            PROCESS_TAG: this_process(),
            MACHINE_TAG: this_machine(),
        }
        if run is None:
            run_id = self._create(run_name(artifact), tags, seconds)
        else:
            run_id = run.info.run_id
            self._client.update_run(run_id, status="RUNNING", name=run_name(artifact))
            self._client.log_batch(run_id, tags=[RunTag(name, text) for name, text in tags.items()])
            if SUPERSEDED_TAG in run.data.tags:
                self._client.delete_tag(run_id, SUPERSEDED_TAG)
        known = run.data.params if run else {}
        texts = {name: str(value)[:VALUE_LIMIT] for name, value in about.params.items() if name not in known}
        if texts:
            self._client.log_batch(run_id, params=[Param(name, text) for name, text in texts.items()])
        for other in others:
            self._supersede(other, run_id)
            if (old := other.data.tags.get(PARENT_TAG, parent)) != parent:
                self.summarise(old)
        return run_id, parent

    def _parent(self, about: RunDescription, run: Run | None, seconds: float) -> str:
        """Return the id of the run of an arm; the first student of a renamed arm renames it."""
        arms = self._search(f"attributes.run_name = '{about.arm}' AND {_is(KIND_TAG, ARM)}")
        if arms:
            return arms[-1].info.run_id
        if run is not None and (old := run.data.tags.get(PARENT_TAG)):
            found = self._client.get_run(old)
            name = found.info.run_name.removesuffix(SUPERSEDED)
            if name == about.arm or name not in about.current:
                self._client.update_run(old, name=about.arm)
                if SUPERSEDED_TAG in found.data.tags:
                    self._client.delete_tag(old, SUPERSEDED_TAG)
                return old
        tags = {name: text for name, text in about.tags.items() if name not in OF_SEEDS}
        return self._create(about.arm, {**tags, KIND_TAG: ARM}, seconds)

    def _create(self, name: str, tags: Mapping[str, str], seconds: float) -> str:
        start = int((time.time() - seconds) * 1000)
        return self._client.create_run(self._experiment, start_time=start, run_name=name, tags=dict(tags)).info.run_id

    def _describe_arm(self, parent: str, record: StudentRecord) -> None:
        """Give an arm what its runs have in common."""
        from mlflow.entities import Param, RunTag

        about, known = record.about, self._client.get_run(parent).data
        params = {name: value for name, value in about.params.items() if name not in OF_SEEDS}
        digest = digest_of(about, params, [], record.shared_files)
        if known.tags.get(DESCRIBED_TAG) == digest:
            return
        fresh = {name: str(value)[:VALUE_LIMIT] for name, value in params.items() if name not in known.params}
        self._client.log_batch(
            parent,
            params=[Param(name, text) for name, text in fresh.items()],
            tags=[RunTag(name, text) for name, text in about.tags.items() if name not in OF_SEEDS],
        )
        self._describe(parent, about.datasets, record.shared_files, digest)

    def _describe(self, run_id: str, datasets: Iterable[UsedDataset], files: Mapping[str, str], digest: str) -> None:
        """Store the datasets and files of a run, and last the hash that says that it has all of them."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=used.name,
                    digest=used.digest[:SHORT],
                    source_type="local",
                    source=as_json({"uri": str(used.folder)}),
                    profile=as_json(used.profile),
                ),
                [InputTag("mlflow.data.context", "training")],
            )
            for used in datasets
        ]
        if inputs:
            self._client.log_inputs(run_id, inputs)
        with tempfile.TemporaryDirectory() as folder:  # one call for all files
            for name, text in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            if files:
                self._client.log_artifacts(run_id, folder)
        self._client.set_tag(run_id, DESCRIBED_TAG, digest)

    def _log(self, run_id: str, points: Iterable[Point], known: Run | None) -> None:
        """Log those points of metrics that a run lacks."""
        from mlflow.entities import Metric

        latest = known.data.metrics if known else {}
        by_name: dict[str, list[tuple[int, float]]] = {}
        for name, step, value in points:
            by_name.setdefault(name, []).append((step, value))
        fresh, now = [], int(time.time() * 1000)
        for name, curve in by_name.items():
            if len(curve) == 1 and latest.get(name) == curve[0][1]:
                continue
            steps: set[int] = set()
            if name in latest and len(curve) > 1:
                steps = {metric.step for metric in self._client.get_metric_history(run_id, name)}
            fresh += [Metric(name, value, now, step) for step, value in curve if step not in steps]
        for first in range(0, len(fresh), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=fresh[first : first + METRICS_PER_BATCH])

    def _supersede(self, run: Run, by: str) -> None:
        name = run.info.run_name.removesuffix(SUPERSEDED) + SUPERSEDED
        self._client.update_run(run.info.run_id, name=name)
        self._client.set_tag(run.info.run_id, SUPERSEDED_TAG, by)

    def _children(self, parent: str) -> list[Run]:
        return self._search(_is(PARENT_TAG, parent))

    def _search(self, wanted: str) -> list[Run]:
        """Return the runs that a filter selects, the latest first."""
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                filter_string=wanted,
                max_results=1_000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs, token = [*runs, *page], page.token
            if not token:
                return runs


def is_complete(run: Run | None, record: StudentRecord) -> bool:
    """Return whether a run of the student's name shows all of a record already."""
    if run is None:
        return False
    tags = run.data.tags
    return (
        (run.info.run_name, run.info.status) == (run_name(record.artifact), "FINISHED")
        and tags.get(FINGERPRINT_TAG) == record.artifact.fingerprint
        and tags.get(DESCRIBED_TAG) == record.digest
    )


def _is(tag: str, value: str) -> str:
    return f"tags.`{tag}` = '{value}'"


def _has_ended(machine: str, process: str) -> bool:
    """Return whether a process has ended for sure: it ran here, or before this machine was started again."""
    host, boot, *_ = machine.split(" ")
    this_host, this_boot, *_ = this_machine().split(" ")
    if machine == this_machine():
        return not is_running(process)
    return host == this_host and boot != this_boot
