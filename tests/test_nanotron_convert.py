"""nanotron's checkpoints: when one is complete, and their conversion into Hugging Face format."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from finephrase_dagster.study.student import Seeds
from finephrase_dagster.train.checkpoint import Checkpoint, last_checkpoint, steps_in
from finephrase_dagster.train.job import TrainingError, TrainingJob
from finephrase_dagster.train.nanotron.checkpoint import delete_older, is_complete
from finephrase_dagster.train.nanotron.convert import convert
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import train_tokenizer
from nanotron_parts import STUDENT, write_states, write_weights

SEQUENCE = 32
VOCABULARY = 512


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, vocabulary=VOCABULARY, texts=[topics[name] for name in sorted(topics)][:20])
    return folder


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(5)
    return build_student(STUDENT, vocabulary=VOCABULARY, sequence=SEQUENCE, eos=0).eval()


def job(tokenizer: Path, *, layers: int = STUDENT.layers) -> TrainingJob:
    return TrainingJob(
        student=STUDENT.model_copy(update={"layers": layers}),
        sequence=SEQUENCE,
        seeds=Seeds(data=1, model=1),
        mixture=tokenizer,
        components={},
        tokenizer=tokenizer,
        output=tokenizer,
    )


def checkpoint(folder: Path, model: LlamaForCausalLM, *, tensor: int = 1, step: int = 7) -> Path:
    write_weights(folder / str(step), model, tensor=tensor)
    write_states(folder / str(step), step=step, tensor=tensor)
    return folder / str(step)


@pytest.mark.parametrize("tensor", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_converted_checkpoint_gives_the_logits_of_the_model(
    model: LlamaForCausalLM, tokenizer: Path, tmp_path: Path, tensor: int, dtype: torch.dtype
) -> None:
    original = copy.deepcopy(model)
    for parameter in original.parameters():  # not its buffers, which stay in float32 when a model is loaded
        parameter.data = parameter.data.to(dtype)
    written = checkpoint(tmp_path, original, tensor=tensor)
    assert is_complete(written, 7)
    (tmp_path / "model").mkdir()
    convert(written, tmp_path / "model", job=job(tokenizer))
    words = AutoTokenizer.from_pretrained(tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert again.dtype == dtype
    assert again.config.tie_word_embeddings
    assert again.config.eos_token_id == words.eos_token_id
    tokens = torch.randint(0, VOCABULARY, (3, SEQUENCE))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, original(tokens).logits)


def test_shapes_written_under_numpy_2_are_understood(model: LlamaForCausalLM, tokenizer: Path, tmp_path: Path) -> None:
    written = checkpoint(tmp_path, model)
    file = next(written.glob("model/model/decoder/0/pp_block/attn/qkv_proj/*"))
    metadata = {
        "version": "1.5",
        "local_global_slices_pairs": "0,64,None|None,None,None#0,64,None|None,None,None",
        "unsharded_shape": "(np.int64(64), 32)",
    }
    save_file(load_file(file), file, metadata=metadata)
    convert(written, tmp_path / "model", job=job(tokenizer))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(again.model.layers[0].self_attn.v_proj.weight, model.model.layers[0].self_attn.v_proj.weight)


def test_a_checkpoint_of_another_student_is_refused(model: LlamaForCausalLM, tokenizer: Path, tmp_path: Path) -> None:
    written = checkpoint(tmp_path, model)
    with pytest.raises(TrainingError, match="num_hidden_layers is 2, not 3"):
        convert(written, tmp_path / "model", job=job(tokenizer, layers=3))
    assert not (tmp_path / "model").exists()


def test_a_missing_part_is_refused_by_name(model: LlamaForCausalLM, tokenizer: Path, tmp_path: Path) -> None:
    written = checkpoint(tmp_path, model, tensor=2)
    next(written.glob("model/model/decoder/1/pp_block/mlp/down_proj/*tp-rank-1-of-2*")).unlink()
    assert not is_complete(written, 7)
    with pytest.raises(TrainingError, match=r"1 parts of model\.decoder\.1\.pp_block\.mlp\.down_proj\.weight"):
        convert(written, tmp_path / "model", job=job(tokenizer))


def test_weights_that_are_not_numbers_are_refused(model: LlamaForCausalLM, tokenizer: Path, tmp_path: Path) -> None:
    written = checkpoint(tmp_path, model)
    file = next(written.glob("model/model/decoder/1/pp_block/attn/o_proj/*"))
    tensor = load_file(file)["data"]
    tensor[3, 3] = torch.nan
    pairs = "None,None,None|None,None,None#None,None,None|0,32,None"
    metadata = {"version": "1.5", "local_global_slices_pairs": pairs, "unsharded_shape": "(32, 32)"}
    save_file({"data": tensor}, file, metadata=metadata)
    with pytest.raises(TrainingError, match="o_proj"):
        convert(written, tmp_path / "model", job=job(tokenizer))


def files(model: LlamaForCausalLM, folder: Path) -> list[Path]:
    return sorted(file for file in checkpoint(folder, model).rglob("*") if file.is_file())


def test_a_checkpoint_with_a_missing_or_cut_file_is_incomplete(model: LlamaForCausalLM, tmp_path: Path) -> None:
    for file in files(model, tmp_path):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        assert not is_complete(tmp_path / "7", 7), file
        file.unlink()
        assert not is_complete(tmp_path / "7", 7), file
        file.write_bytes(content)
    assert is_complete(tmp_path / "7", 7)
    assert not is_complete(tmp_path / "7", 8)


def latest(folder: Path, messages: list[str]) -> Checkpoint | None:
    return last_checkpoint(folder, log=messages.append, prefix="", complete=is_complete)


def test_the_latest_complete_checkpoint_is_resumed_and_torn_ones_are_renamed(
    model: LlamaForCausalLM, tmp_path: Path
) -> None:
    for step in (5, 40, 100):
        checkpoint(tmp_path, model, step=step)
    (tmp_path / "100" / "model_config.json").unlink()
    (tmp_path / "latest.txt").write_text("100")
    messages: list[str] = []
    checkpoint_found = latest(tmp_path, messages)
    assert checkpoint_found is not None
    assert (checkpoint_found.step, checkpoint_found.folder.name) == (40, "40")
    assert messages == [
        "the checkpoint of step 100 is incomplete; it was renamed to torn-0-100",
        "resumes from the checkpoint of step 40",
    ]
    assert (tmp_path / "torn-0-100").is_dir()
    shutil.rmtree(tmp_path / "5")
    (tmp_path / "40" / "checkpoint_metadata.json").write_text(json.dumps([]))
    assert latest(tmp_path, messages) is None
    assert latest(tmp_path / "nowhere", messages) is None


def test_two_checkpoints_before_the_one_being_written_are_kept(tmp_path: Path) -> None:
    for step in (500, 1000, 1500, 2000, 10_000):
        (tmp_path / str(step)).mkdir()
    delete_older(tmp_path, than=2000)
    assert sorted(steps_in(tmp_path)) == [1000, 1500, 2000, 10_000]
