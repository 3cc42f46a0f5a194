"""Scores on vLLM against those on transformers, with a real engine in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from finephrase_dagster.evaluate.evaluation import SAMPLES, evaluate_checkpoint
from finephrase_dagster.evaluate.questions import build_questions
from finephrase_dagster.study.paths import REPOSITORY
from test_evaluate_checkpoint import ALL_TASKS, save_checkpoint

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
from pathlib import Path
from finephrase_dagster.evaluate.evaluation import evaluate_checkpoint
from finephrase_dagster.evaluate.vllm_scorer import EngineUnavailable
from finephrase_dagster.study.student import Evaluation

evaluation = Evaluation.model_construct(**json.loads(sys.argv[1]))
for name in ("model", "damaged"):
    try:
        evaluate_checkpoint(
            Path(name), Path("vllm") / name, evaluation=evaluation, batch_size=1, backend="vllm",
            engine={"dtype": "float32"},
        )
    except EngineUnavailable as error:
        Path("error.txt").write_text(str(error))
"""


def trained_checkpoint(folder: Path) -> Path:
    """A small Llama that has seen the items, so that some answers are likely; its context is soon full."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_checkpoint(folder, context=96, heads=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "\n\n".join(f"{question.prompt} {question.golds[0]}" for question in build_questions(ALL_TASKS))
    tokens = torch.tensor(tokenizer(text).input_ids).unfold(0, 96, 48)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is slower on two
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(300):
            batch = tokens[torch.randint(len(tokens), (8,))]
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one process has evaluated `model`, then `damaged`, with engines."""
    folder = tmp_path_factory.mktemp("engine")
    trained_checkpoint(folder / "model")
    save_checkpoint(folder / "damaged", context=96, heads=1)
    (folder / "damaged" / "model.safetensors").write_bytes(b"half a file")
    evaluation = json.dumps({name: getattr(ALL_TASKS, name) for name in ("items", "tasks", "shots", "samples")})
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, evaluation], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_an_engine_gives_the_same_scores_even_if_the_context_is_full(folder: Path) -> None:
    evaluate_checkpoint(folder / "model", folder / "transformers", evaluation=ALL_TASKS, batch_size=8)
    one, two = (pq.read_table(folder / path / SAMPLES).to_pylist() for path in ("transformers", "vllm/model"))
    assert len(one) == len(two) == 13 * 6
    assert max(sample["prob_norm_token"] for sample in one) > 0.2
    assert any(sample["prompt_tokens"] + max(sample["gold_tokens"]) == 96 for sample in one)
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["item"] == ours["item"]
        assert theirs["gold_tokens"] == ours["gold_tokens"]
        assert theirs["gold_log_probabilities"] == pytest.approx(ours["gold_log_probabilities"], rel=1e-4, abs=1e-4)
        assert theirs["prob_norm_token"] == pytest.approx(ours["prob_norm_token"], abs=1e-5)


def test_an_engine_that_does_not_start_is_an_error_with_the_reason(folder: Path) -> None:
    assert f"{folder / 'damaged'}: the engine does not start" in (folder / "error.txt").read_text()
    assert not (folder / "vllm" / "damaged").exists()
