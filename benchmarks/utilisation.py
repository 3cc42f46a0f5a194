"""Model FLOPs utilisation of `trainer.train` on one device: what `python benchmarks/train.py --preset 0.5b` reports.

A published preset is trained for a few optimizer steps on real text (the standard library's language reference,
repeated as often as necessary) by the trainer that studies use. The first steps, which compile and warm up, are not
counted.

A token takes `6 N + 12 L H T` floating-point operations, forward and backward: N parameters (the tied embeddings count
once, as the output layer), L layers, H the width of all heads together, T tokens per sequence (PaLM, arXiv 2204.02311,
appendix B). As there, attention counts in full although a causal mask leaves half of it out; `mfu_causal` counts half
of the attention, `6 N + 6 L H T`. Utilisation is this number times tokens/s, divided by the device's dense bfloat16
peak.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.study.file import read_study
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.student import Mixture, Seeds, Student
from finephrase_dagster.train.job import LossPoint, TrainingExecution, TrainingJob
from finephrase_dagster.train.mixture import mix
from finephrase_dagster.train.tokenizer import TOKENIZER_FILE, train_tokenizer
from finephrase_dagster.train.tokens import tokenise
from finephrase_dagster.train.trainer import train

LEARNED, VOCABULARY = 4096, 128_256
PEAK_TFLOPS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
}
"""Dense bfloat16 peaks by a part of the device's name, as their makers state them; the first that fits counts."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for `--preset`; on a CPU their defaults only show that the code runs."""
    group = parser.add_argument_group("with --preset")
    group.add_argument("--preset", help="0.5b, 1.7b, 2.9b or 6.2b: report model FLOPs utilisation instead")
    group.add_argument("--steps", type=int, help="optimizer steps that count; default 12, on a CPU 2")
    group.add_argument("--warmup-steps", type=int, help="steps before them; default 3, on a CPU 1")
    group.add_argument("--batch", type=int, help="sequences per optimizer step; default 64, on a CPU 1")
    group.add_argument("--micro-batch", type=int, help="sequences on the device at once; default 4, on a CPU 1")
    group.add_argument("--sequence", type=int, help="tokens per sequence; default 4096, on a CPU 128")
    group.add_argument("--attention", help="transformers' attention kernel, such as flash_attention_2")
    group.add_argument("--eager", action="store_true", help="do not compile the model (on a CPU it is never compiled)")
    group.add_argument("--peak-tflops", type=float, help="peak of the device, if its name is not known here")


def flops_per_token(student: Student, *, vocabulary: int, sequence: int, causal: bool) -> float:
    """Floating-point operations of a training step for one token; see above."""
    attention = (6 if causal else 12) * student.layers * student.hidden * sequence
    return 6.0 * student.parameters(vocabulary) + attention


def report(arguments: argparse.Namespace) -> None:
    """Print the figures as one JSON object on the last line."""
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "CPU"
    steps, warmup, batch, micro, sequence = (
        asked or (on_gpu if gpu else on_cpu)
        for asked, on_gpu, on_cpu in (
            (arguments.steps, 12, 2),
            (arguments.warmup_steps, 3, 1),
            (arguments.batch, 64, 1),
            (arguments.micro_batch, 4, 1),
            (arguments.sequence, 4096, 128),
        )
    )
    study = read_study(REPOSITORY / "studies" / "finephrase.yaml", catalogue())
    known = {name.replace("_", "."): student for name, student in study.students.items()}
    if arguments.preset not in known:
        raise SystemExit(f"--preset is one of {', '.join(known)}")
    student = known[arguments.preset].model_copy(
        update={
            "batch_sequences": batch,
            "precision": "bfloat16" if gpu else "float32",
            "attention": arguments.attention,
        }
    )
    peak = arguments.peak_tflops or next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)
    execution = TrainingExecution(micro_batch=micro, compile=gpu and not arguments.eager)
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        rate = _rate(Path(name), student, sequence, steps=steps, warmup=warmup, execution=execution)
    achieved = {
        causal: rate * flops_per_token(student, vocabulary=VOCABULARY, sequence=sequence, causal=causal) / 1e12
        for causal in (False, True)
    }
    figures = {
        "preset": arguments.preset,
        "device": device,
        "parameters": student.parameters(VOCABULARY),
        "precision": "bfloat16" if gpu else "float32",
        "compiled": execution.compile,
        "attention": arguments.attention or "sdpa",
        "sequence": sequence,
        "batch_sequences": batch,
        "micro_batch": micro,
        "steps": steps,
        "tokens_per_second": round(rate, 1),
        "tflops": round(achieved[False], 3),
        "peak_tflops": peak,
        "mfu": round(achieved[False] / peak, 4) if peak else None,
        "mfu_causal": round(achieved[True] / peak, 4) if peak else None,
    }
    if not peak:
        print(f"the peak of {device} is not known: give --peak-tflops for its utilisation")
    print(json.dumps(figures))


def _rate(
    root: Path, student: Student, sequence: int, *, steps: int, warmup: int, execution: TrainingExecution
) -> float:
    """Tokens/s of the steps after the warm-up."""
    times: dict[int, float] = {}

    def on_loss(point: LossPoint) -> None:
        times[point.step] = time.perf_counter()  # the loss was read from the device, so all earlier work is done

    (root / "student").mkdir()
    job = _job(root, student, sequence, steps=steps + warmup)
    train(replace(job, log=print, on_loss=on_loss, execution=execution))
    return steps * student.batch_sequences * sequence / (times[steps + warmup] - times[warmup])


def _job(root: Path, student: Student, sequence: int, *, steps: int) -> TrainingJob:
    """Return a job on the language reference; filler entries make the vocabulary as large as the study's."""
    for folder in ("tokenizer", "tokens", "mixture"):
        (root / folder).mkdir()
    train_tokenizer(root / "tokenizer", vocabulary=LEARNED, texts=topics.values())
    path = root / "tokenizer" / TOKENIZER_FILE
    written = json.loads(path.read_text(encoding="utf-8"))
    entries = written["model"]["vocab"]
    entries |= {f"<filler {number}>": number for number in range(LEARNED, VOCABULARY)}
    path.write_text(json.dumps(written), encoding="utf-8")
    shard = root / "shard-00000.parquet"
    pq.write_table(pa.table({"id": list(topics), "text": list(topics.values())}), shard)
    tokenise([shard], root / "tokens", tokenizer=root / "tokenizer", dataset="reference", log=lambda _: None)
    components = {"reference": root / "tokens"}
    mixture = Mixture(components={"reference": 1.0}, tokens=steps * student.batch_sequences * sequence, seed=1)
    mix(root / "mixture", mixture=mixture, sequence=sequence, components=components)
    return TrainingJob(
        student=student,
        sequence=sequence,
        seeds=Seeds(data=1, model=1),
        mixture=root / "mixture",
        components=components,
        tokenizer=root / "tokenizer",
        output=root / "student",
    )
