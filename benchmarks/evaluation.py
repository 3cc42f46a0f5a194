"""Evaluate one student with our own code and with lighteval, and compare their time and their scores.

The student is a random Llama of the size of the demo's; the items are the embedded ones of all benchmarks. Both run in
turns, once in a new process (`command_ratio`: lighteval's own command) and once in a process that has imported
everything (`ratio`: lighteval's pipeline), which is how the evaluation asset runs. The last line is a JSON object.

    python benchmarks/evaluation.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from finephrase_dagster.evaluate.evaluation import SAMPLES, evaluate_checkpoint
from finephrase_dagster.evaluate.reading import EMBEDDED_ITEMS
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.student import Evaluation

EVALUATE = REPOSITORY / "finephrase_dagster" / "evaluate"
SETTINGS: dict[str, Any] = {"dtype": "float32", "add_special_tokens": False, "batch_size": 64}
MODEL = "student"


def write_student(folder: Path) -> None:
    """Write a random Llama of the shape of the demo's student, with a context of 256 tokens."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    texts = [path.read_text(encoding="utf-8") for path in sorted(EMBEDDED_ITEMS.rglob("*.jsonl"))]
    tokenizer.train_from_iterator(texts, vocab_size=4096, special_tokens=["<|end|>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def run_ours(output: Path) -> None:
    """Evaluate the student in the working directory with our own code."""
    evaluation = Evaluation.model_construct(items="embedded", tasks=tuple(benchmarks()), shots=3, samples=1000)
    evaluate_checkpoint(Path(MODEL), output, evaluation=evaluation, batch_size=16)


def run_pipeline(cache: Path) -> dict[tuple[str, str], float]:
    """Evaluate the student in the working directory with lighteval's pipeline; return the score of each item."""
    import torch
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.transformers.transformers_model import TransformersModelConfig
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters

    from finephrase_dagster.evaluate import lighteval_tasks
    from finephrase_dagster.evaluate.lighteval_startup import sitecustomize  # noqa: F401 - before the registry

    sys.argv = ["lighteval", f"model_name={MODEL}", "finephrase|3"]  # where the tasks look for the checkpoint
    torch.set_num_threads(1)  # as ours
    pipeline = Pipeline(
        tasks="finephrase|3",
        pipeline_parameters=PipelineParameters(
            launcher_type=ParallelismManager.ACCELERATE, custom_tasks_directory=lighteval_tasks.__file__
        ),
        evaluation_tracker=EvaluationTracker(output_dir="results"),
        model_config=TransformersModelConfig(model_name=MODEL, cache_dir=str(cache), **SETTINGS),
    )
    pipeline.evaluate()
    return {
        (task.removeprefix("finephrase:").split("|")[0], detail.doc.specific["item"]): detail.metric["prob_norm_token"]
        for task, details in pipeline.get_details().items()
        for detail in details
    }


def largest_difference(output: Path, theirs: dict[tuple[str, str], float]) -> float:
    """Return the largest difference between our score and lighteval's of the same item."""
    import pyarrow.parquet as pq

    rows = pq.read_table(output / SAMPLES).to_pylist()
    assert len(rows) == len(theirs)
    return max(abs(row["prob_norm_token"] - theirs[row["task"], row["item"]]) for row in rows)


def timed_command(arguments: list[str]) -> float:
    """Return how many seconds a new process takes."""
    path = os.pathsep.join([str(REPOSITORY), str(EVALUATE / "lighteval_startup")])
    start = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": path})
    return time.perf_counter() - start


def lighteval_command(cache: Path) -> list[str]:
    """Return the command of docs/evaluation.md."""
    settings = ",".join(f"{name}={value}" for name, value in SETTINGS.items())
    model = f"model_name={MODEL},{settings},cache_dir={cache}"
    tasks = str(EVALUATE / "lighteval_tasks.py")
    return [
        str(Path(sys.executable).parent / "lighteval"),
        "accelerate",
        model,
        "finephrase|3",
        "--custom-tasks",
        tasks,
    ]


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", type=Path, help="evaluate with our own code only, into this folder")
    arguments = parser.parse_args()
    if arguments.ours:
        run_ours(arguments.ours)
        return
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, contextlib.chdir(name):
        root = Path(name)
        os.environ["HF_HOME"] = str(root / "home")
        write_student(root / MODEL)
        seconds: dict[str, list[float]] = {way: [] for way in ("ours", "pipeline", "our_process", "command")}
        run_ours(root / "warm")  # imports
        run_pipeline(root / "warm-cache")
        for number in range(arguments.rounds):
            start = time.perf_counter()
            run_ours(root / "ours")
            seconds["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            scores = run_pipeline(root / f"pipeline-{number}")
            seconds["pipeline"].append(time.perf_counter() - start)
            seconds["our_process"].append(timed_command([sys.executable, __file__, "--ours", str(root / "again")]))
            seconds["command"].append(timed_command(lighteval_command(root / f"command-{number}")))
            print(f"round {number + 1}: " + ", ".join(f"{way} {times[-1]:.1f} s" for way, times in seconds.items()))
        medians = {way: median(times) for way, times in seconds.items()}
        figures = {
            **{f"{way}_seconds": round(value, 2) for way, value in medians.items()},
            "ratio": round(medians["pipeline"] / medians["ours"], 2),
            "command_ratio": round(medians["command"] / medians["our_process"], 2),
            "items": len(scores),
            "largest_difference": largest_difference(root / "ours", scores),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
