"""Scores on vLLM against those on transformers, with a real engine in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from finephrase_dagster.evaluate.evaluation import evaluate_checkpoint
from finephrase_dagster.evaluate.questions import build_questions
from finephrase_dagster.study.spec import Evaluation
from test_evaluate_checkpoint import WHOLE, save_checkpoint

pytestmark = pytest.mark.slow

PROGRAM = """
import json, sys
from pathlib import Path
from finephrase_dagster.evaluate.evaluation import evaluate_checkpoint
from finephrase_dagster.study.spec import Evaluation

evaluation = Evaluation.model_construct(**json.loads(sys.argv[3]))
evaluate_checkpoint(
    Path(sys.argv[1]),
    Path(sys.argv[2]),
    evaluation=evaluation,
    batch_size=1,
    backend="vllm",
    engine={"dtype": "float32"},
)
"""


def trained_checkpoint(folder: Path) -> Path:
    """A small Llama that has seen the items, so that some answers are likely; its context is soon full."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_checkpoint(folder, context=96, heads=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "\n\n".join(f"{question.prompt} {question.golds[0]}" for question in build_questions(WHOLE))
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


def on_engine(checkpoint: Path, output: Path, evaluation: Evaluation) -> subprocess.CompletedProcess[str]:
    what = json.dumps({name: getattr(evaluation, name) for name in ("items", "tasks", "shots", "samples")})
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(checkpoint), str(output), what], capture_output=True, text=True
    )


def test_an_engine_gives_the_same_scores_also_where_the_context_is_full(tmp_path: Path) -> None:
    checkpoint = trained_checkpoint(tmp_path / "model")
    evaluate_checkpoint(checkpoint, tmp_path / "transformers", evaluation=WHOLE, batch_size=8)
    done = on_engine(checkpoint, tmp_path / "vllm", WHOLE)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (pq.read_table(tmp_path / name / "samples.parquet").to_pylist() for name in ("transformers", "vllm"))
    assert len(one) == len(two) == 13 * 6
    assert max(sample["prob_norm_token"] for sample in one) > 0.2
    assert any(sample["prompt_tokens"] + max(sample["gold_tokens"]) == 96 for sample in one)
    for ours, theirs in zip(one, two, strict=True):
        assert theirs["item"] == ours["item"]
        assert theirs["gold_tokens"] == ours["gold_tokens"]
        assert theirs["gold_log_probabilities"] == pytest.approx(ours["gold_log_probabilities"], rel=1e-4, abs=1e-4)
        assert theirs["prob_norm_token"] == pytest.approx(ours["prob_norm_token"], abs=1e-5)


def test_an_engine_that_does_not_start_says_why(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "model", context=96, heads=1)
    (checkpoint / "model.safetensors").write_bytes(b"half a file")
    done = on_engine(checkpoint, tmp_path / "out", WHOLE)
    assert done.returncode == 1
    assert "EngineUnavailable" in done.stderr
    assert f"{checkpoint}: the engine does not start" in done.stderr
    assert not (tmp_path / "out").exists()
