"""The cost of an item of the graph: documents, tokens, GPU-hours, hours of this machine, and disk.

Tokens and throughput are what this installation has measured, else the published figures, else estimates; each cost
names its basis. GPU-hours are ideal: they assume engines that are always busy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from finephrase_dagster.artifacts import key as keys
from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.artifacts.graph import Item, current_facts
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.plan.epochs import target_epochs
from finephrase_dagster.plan.expectation import BYTES_PER_TOKEN, SMALL, Expectations
from finephrase_dagster.plan.measured import Measured, number
from finephrase_dagster.plan.published import Published
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import hub_reference
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.student import StudentRun

COMPRESSED = 0.42  # size in zstd Parquet over size as text
TOKENS = (keys.CORPUS_TOKENS, keys.DATASET_TOKENS, keys.SHUFFLED_CORPUS_TOKENS, keys.SHUFFLED_DATASET_TOKENS)
PACE = {
    "sources": ("rows", (keys.CORPUS,), 5_000),
    "audits": ("rows", (keys.AUDIT,), 5_000),
    "tokens": ("tokens", TOKENS, 1.2e6),
    "release": ("rows", (keys.RELEASE,), 30_000),
}
"""By stage: the manifest field that counts its work, the kinds of items that do it, units per second on two cores."""
SMALL_FLOPS = 8e10  # FLOP/s when a small model is trained on two cores
WINDOWS_PER_SECOND = 2e6
HASHED_PER_SECOND = 1e9  # bytes of a model in a folder
UNPACKING_SECONDS = 25.0  # of the packaged generator, on two cores
OVERHEAD_SECONDS = 3.0  # per item, however small it is
GPU_FLOPS = 3e14  # FLOP/s of an H100 at a third of its peak, as in the published trainings
QUERY_TOKENS, CHOICES = 800, 3  # of a benchmark item with three shots, roughly


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What an item takes to make.

    Attributes:
        hours: hours of this machine without a GPU.
        basis: where the figures come from.
        unknown: the missing figure without which the cost is unknown, and how to add it; None if it is known.
    """

    documents: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    gpu_hours: float = 0.0
    hours: float = 0.0
    disk_bytes: int = 0
    basis: tuple[str, ...] = field(default=())
    unknown: str | None = None


class Estimator:
    """Computes the costs of a study's items."""

    def __init__(self, lineage: Lineage, *, published: Published, measured: Measured) -> None:
        self._lineage = lineage
        self._study = lineage.study
        self._published = published
        self._measured = measured
        self.expected = Expectations(lineage, published=published, measured=measured)

    def cost(self, item: Item) -> Cost:
        """Return the cost of an item; for an existing item, roughly what it took."""
        expected: Cost = getattr(self, f"_{item.stage}")(item)
        size = number(current_facts(item), "bytes")
        return expected if size is None else replace(expected, disk_bytes=round(size))

    def _sources(self, item: Item) -> Cost:
        name = item.key.source
        size = self.expected.size(_component(item))
        pace, basis = self._pace(item)
        unknown = None
        if not size.tokens:
            unknown = f"sources.{name}: unknown size; add 'documents' and 'tokens', or 'limit', to the study"
        return Cost(
            documents=round(size.documents),
            input_tokens=round(size.tokens),
            hours=_hours(size.documents / pace),
            disk_bytes=round(size.tokens * BYTES_PER_TOKEN * COMPRESSED),
            basis=(f"size: {size.basis}", f"time: {basis}"),
            unknown=unknown,
        )

    def _generators(self, item: Item) -> Cost:
        name = item.key.generator or ""
        generator = self._study.generators[name]
        disk = round(2 * (generator.parameters or 0))
        if generator.is_packaged:
            return Cost(hours=_hours(UNPACKING_SECONDS), disk_bytes=disk, basis=("time: observed on two cores",))
        if hub_reference(generator.model) is None:
            read = sum(file.stat().st_size for file in Path(generator.model).glob("*") if file.is_file())
            return Cost(hours=_hours(read / HASHED_PER_SECOND), basis=("read in place from its folder",))
        return Cost(hours=_hours(disk / 1e8), disk_bytes=disk, basis=("download at 100 MB/s",))

    def _synthetic(self, item: Item) -> Cost:
        dataset = _component(item)
        source, size = self.expected.size(Component(source=dataset.source)), self.expected.size(dataset)
        generator = self._study.generators[dataset.generator or ""]
        filled = self._published.input_tokens.get(dataset.source)
        if filled is None:
            around = len(self._lineage.prompts[dataset.prompt or ""].template.encode()) / BYTES_PER_TOKEN
            filled = source.tokens / source.documents + around if source.documents else 0.0
        filled = min(filled, generator.context - generator.max_tokens)
        rate, basis = self.expected.rate(dataset.generator or "")
        draws = self.expected.draws(dataset)
        drawn = () if draws == 1 else (f"rollouts: {draws:.2f} per row",)
        seconds = draws * size.tokens / rate.tokens_per_second if rate else 0.0
        return Cost(
            documents=round(size.documents),
            input_tokens=round(draws * size.documents * filled),
            output_tokens=round(draws * size.tokens),
            gpu_hours=seconds / 3600 if rate and rate.on_gpu else 0.0,
            hours=seconds / 3600 if rate and not rate.on_gpu else 0.0,
            disk_bytes=round(size.tokens * BYTES_PER_TOKEN * COMPRESSED),
            basis=(f"completions: {size.basis}", f"throughput: {basis}", *drawn, *self.expected.reused(dataset)),
            unknown=None
            if rate
            else f"generators.{dataset.generator}: unknown throughput; add 'throughput' or 'parameters' to the study",
        )

    def _audits(self, item: Item) -> Cost:
        size = self.expected.size(_component(item))
        pace, basis = self._pace(item)
        return Cost(
            documents=round(size.documents),
            hours=_hours(size.documents / pace),
            disk_bytes=20_000,
            basis=(f"time: {basis}",),
        )

    def _release(self, item: Item) -> Cost:
        sizes = [self.expected.size(dataset) for dataset in self._study.released[item.key.configuration or ""]]
        documents, (pace, basis) = sum(size.documents for size in sizes), self._pace(item)
        disk = sum(size.tokens for size in sizes) * BYTES_PER_TOKEN * COMPRESSED
        hours = _hours(documents / pace)
        return Cost(documents=round(documents), hours=hours, disk_bytes=round(disk), basis=(f"time: {basis}",))

    def _tokens(self, item: Item) -> Cost:
        if item.key.kind is keys.TOKENIZER:
            took = self._measured.seconds(item.key.kind)
            basis = "measured here" if took else "observed on two cores"
            return Cost(hours=_hours(took or OVERHEAD_SECONDS), disk_bytes=10_000_000, basis=(f"time: {basis}",))
        size = self.expected.size(_component(item))
        pace, basis = self._pace(item)
        return Cost(
            documents=round(size.documents),
            input_tokens=round(size.tokens),
            hours=_hours(size.tokens / pace),
            disk_bytes=round(size.tokens * (2 if self._lineage.vocabulary <= 65_536 else 4)),
            basis=(f"size: {size.basis}", f"time: {basis}"),
        )

    def _mixtures(self, item: Item) -> Cost:
        name = item.key.mixture or ""
        mixture, epochs = self._study.mixtures[name], target_epochs(self._study, name, self.expected)
        origin = f", as in {mixture.match_epochs_of}" if mixture.match_epochs_of else ""
        windows = mixture.tokens / self._lineage.sequence
        return Cost(
            input_tokens=mixture.tokens,
            hours=_hours(windows / WINDOWS_PER_SECOND),
            disk_bytes=round(4 * windows),
            basis=("time: observed on two cores", *([f"epochs: {epochs:.3g}{origin}"] if epochs else [])),
        )

    def _early(self, item: Item) -> Cost:
        return self._evaluated(item, looks=1) if item.key.kind is keys.EARLY_SCORES else self._training(item)

    def _training(self, item: Item) -> Cost:
        run = self._study.student_runs[item.key.run or ""]
        student = self._study.students[run.student]
        tokens, share = self._training_tokens(item, run)
        parameters = student.parameters(self._lineage.vocabulary)
        rate = self._measured.training(student) if self._study.trainer == "transformers" else None
        small = parameters < SMALL and self._study.trainer == "transformers"
        if rate is not None and (rate.on_gpu or small):  # nobody trains a large student without a GPU
            seconds, on_gpu, basis = tokens / rate.tokens_per_second, rate.on_gpu, "measured here"
        elif small:
            seconds, on_gpu, basis = 6 * parameters * tokens / SMALL_FLOPS, False, "estimated from compute"
        else:
            known = self._published.training
            hours = known.gpu_hours * (parameters / known.parameters) * (tokens / known.tokens)
            seconds, on_gpu, basis = 3600 * hours, True, "published, scaled by parameters and tokens"
        return Cost(
            input_tokens=tokens,
            gpu_hours=seconds / 3600 if on_gpu else 0.0,
            hours=0.0 if on_gpu else _hours(seconds),
            disk_bytes=self._training_bytes(item, run.name, parameters),
            basis=(f"throughput: {basis}", *share),
        )

    def _training_tokens(self, item: Item, run: StudentRun) -> tuple[int, tuple[str, ...]]:
        """Return the expected number of training tokens, and what else the figure is based on."""
        study, decay = self._study, self._study.students[run.student].decay_fraction
        tokens = study.mixtures[run.mixture].tokens
        if study.early_stop and run.name in study.rivals:
            early = round(tokens * study.early_stop.step / study.steps(run.name))
            if item.key.kind is keys.EARLY_STUDENT:
                return early, ()
            share = self._continuing_share(run.name)  # how many students continue is known, but not which
            basis = () if share == 1 else ("the share of the students that continues",)
            return round(share * (tokens - early)), basis
        if item.key.kind is keys.PRE_DECAY_CHECKPOINT:
            return round(tokens * (1 - decay)), ()
        begun = run.base.name if run.base else run.name
        return (round(tokens * decay) if begun in study.pre_decay_runs else tokens), ()

    def _undecided(self, run: str) -> bool:
        """Return whether the early stop has not yet decided about a run."""
        try:
            self._lineage.rank(run)
        except (ArtifactMissing, StudyError):
            return True
        return False

    def _continuing_share(self, run: str) -> float:
        """Return the share of the runs compared with this one that continues; 1 once it is decided."""
        stop = self._study.early_stop
        if stop is None or run not in self._study.rivals or not self._undecided(run):
            return 1.0
        rivals = len(self._study.rivals[run])
        return stop.going_on(rivals) / rivals

    def _evaluation(self, item: Item) -> Cost:
        run = item.key.run
        if run is None:
            return Cost(hours=_hours(0), disk_bytes=100_000, basis=("time: observed on two cores",))
        all_looks, share = self._evaluated(item, looks=self._looks(run)), self._continuing_share(run)
        return replace(
            all_looks,
            input_tokens=round(share * all_looks.input_tokens),
            gpu_hours=share * all_looks.gpu_hours,
            hours=share * all_looks.hours,
            disk_bytes=round(share * all_looks.disk_bytes),
        )

    def _evaluated(self, item: Item, *, looks: int) -> Cost:
        student = self._study.students[self._study.student_runs[item.key.run or ""].student]
        evaluation = self._lineage.evaluation
        tokens = len(evaluation.tasks) * evaluation.samples * CHOICES * QUERY_TOKENS
        parameters = student.parameters(self._lineage.vocabulary)
        if parameters < SMALL:
            took = self._measured.seconds(item.key.kind)
            basis = "time: measured here" if took else "time: observed on two cores"
            hours = _hours(took or looks * 4 * OVERHEAD_SECONDS)
            return Cost(hours=hours, disk_bytes=looks * 1_000_000, basis=(basis,))
        seconds = looks * 2 * parameters * tokens / GPU_FLOPS
        return Cost(
            input_tokens=looks * tokens,
            gpu_hours=seconds / 3600,
            disk_bytes=looks * 20_000_000,
            basis=("time: estimated from compute",),
        )

    def _pace(self, item: Item) -> tuple[float, str]:
        """Return units per second of a stage without a GPU, and the origin of the figure."""
        counted, kinds, assumed = PACE[item.stage]
        measured = self._measured.pace(kinds, counted)
        return (measured, "measured here") if measured else (assumed, "observed on two cores")

    def _looks(self, run: str) -> int:
        """Return how often a run is evaluated: at its end, and every so many steps if the study asks for it."""
        every = self._lineage.evaluation.every
        if not every:
            return 1
        steps, trained = self._study.steps(run), self._study.student_runs[run]
        first = self._study.students[trained.student].stable_steps(steps) if trained.base else 0
        return (steps - 1) // every - first // every + 1

    def _training_bytes(self, item: Item, run: str, parameters: int) -> int:
        """Return the disk space of a student: float32 weights, or weights and optimizer where others continue from."""
        if item.key.kind is not keys.CHECKPOINT:
            return 16 * parameters
        return round(self._continuing_share(run) * 4 * parameters * self._looks(run))


def _component(item: Item) -> Component:
    """Return the dataset that an item makes, audits or tokenizes."""
    key = item.key
    assert key.source is not None
    return Component(source=key.source, generator=key.generator, prompt=key.prompt)


def _hours(seconds: float) -> float:
    return (seconds + OVERHEAD_SECONDS) / 3600
