"""Convert nanotron's checkpoints into Hugging Face format, from the files alone: nanotron is not needed.

A parameter is a safetensors file in folders named after its modules, with one file per part if GPUs share it. A part's
metadata say which slices of the parameter it holds. nanotron joins the projections of queries, keys and values into one
matrix, and gate and up into another.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finephrase_dagster.corpora.quiet import quiet_transformers
from finephrase_dagster.study.student import Student
from finephrase_dagster.train.job import TrainingError, TrainingJob
from finephrase_dagster.train.nanotron.checkpoint import LAST_WRITTEN, WEIGHT_PART, read_json
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import torch

ONE_FILE = "1TB"


def convert(checkpoint: Path, output: Path, *, job: TrainingJob) -> None:
    """Write a checkpoint as a Hugging Face Llama: `model.safetensors`, `config.json` and the tokenizer's files.

    Args:
        checkpoint: the folder of one step.
        output: the folder to write; an existing one is replaced.

    Raises:
        TrainingError: the checkpoint is another student's, incomplete, or of an unknown layout.
        TokenizerError: the tokenizer cannot be read.
    """
    import torch

    student, words = job.student, load_tokenizer(job.tokenizer)
    _check_shape(checkpoint, student, vocabulary=len(words))
    with torch.device("meta"):
        model = build_student(student, vocabulary=len(words), sequence=job.sequence, eos=words.eos_token_id)
    tensors = dict(_tensors(checkpoint / "model", student))
    wrong = [
        f"{name} has {tuple(tensors[name].shape)}, not {tuple(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if tensors[name].shape != parameter.shape
    ]
    if wrong:
        raise TrainingError(f"{checkpoint} does not fit the student: {wrong[0]}; train it again")
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    model.config.dtype = tensors["model.norm.weight"].dtype
    shutil.rmtree(output, ignore_errors=True)
    with quiet_transformers():
        model.save_pretrained(output, max_shard_size=ONE_FILE)
        words.save_pretrained(output)


def _check_shape(checkpoint: Path, student: Student, *, vocabulary: int) -> None:
    shape = read_json(checkpoint / LAST_WRITTEN)
    expected: dict[str, Any] = {
        "hidden_size": student.hidden,
        "intermediate_size": student.ffn,
        "num_hidden_layers": student.layers,
        "num_attention_heads": student.heads,
        "num_key_value_heads": student.kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "rope_interleaved": False,
    }
    wrong = [f"{name} is {shape.get(name)}, not {size}" for name, size in expected.items() if shape.get(name) != size]
    if wrong:
        raise TrainingError(f"{checkpoint} is not a checkpoint of this student ({'; '.join(wrong)}): train it again")


def _tensors(model: Path, student: Student) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all parameters under transformers' names."""
    yield (
        "model.embed_tokens.weight",
        read_parameter(model, "model.token_position_embeddings.pp_block.token_embedding.weight"),
    )
    yield "model.norm.weight", read_parameter(model, "model.final_layer_norm.pp_block.weight")
    head = student.hidden // student.heads
    rows = [student.heads * head, student.kv_heads * head, student.kv_heads * head]
    for layer in range(student.layers):
        theirs, ours = f"model.decoder.{layer}.pp_block", f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{ours}.{norm}.weight", read_parameter(model, f"{theirs}.{norm}.weight")
        yield f"{ours}.self_attn.o_proj.weight", read_parameter(model, f"{theirs}.attn.o_proj.weight")
        yield f"{ours}.mlp.down_proj.weight", read_parameter(model, f"{theirs}.mlp.down_proj.weight")
        joined = read_parameter(model, f"{theirs}.attn.qkv_proj.weight").split(rows)
        for name, part in zip(("q_proj", "k_proj", "v_proj"), joined, strict=True):
            yield f"{ours}.self_attn.{name}.weight", part.contiguous()
        joined = read_parameter(model, f"{theirs}.mlp.gate_up_proj.weight").split(student.ffn)
        for name, part in zip(("gate_proj", "up_proj"), joined, strict=True):
            yield f"{ours}.mlp.{name}.weight", part.contiguous()


def read_parameter(model: Path, name: str) -> torch.Tensor:
    """Return a parameter, joined from its parts.

    Args:
        model: the folder `model` of a checkpoint.

    Raises:
        TrainingError: the parameter or a part of it is missing or unreadable.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    *folders, last = name.split(".")
    files = sorted(model.joinpath(*folders).glob(f"model_{last}*.safetensors"))
    shared = [match for file in files if (match := WEIGHT_PART.search(file.name))]
    if len(files) != (int(shared[0][2]) if shared else 1):
        raise TrainingError(f"{model} has {len(files)} parts of {name}: delete the incomplete checkpoint")
    result: torch.Tensor | None = None
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                part, metadata = opened.get_tensor("data"), opened.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{file} cannot be read ({error}): delete the torn checkpoint") from error
        if "unsharded_shape" not in metadata:
            return part
        if result is None:
            # NaN remains where no part covers the parameter.
            result = torch.full(_numbers(metadata["unsharded_shape"]), torch.nan, dtype=part.dtype)
        for local, everywhere in _slices(metadata["local_global_slices_pairs"]):
            result[everywhere] = part[local]
    if result is None or result.isnan().any():
        raise TrainingError(f"{name} in {model} has gaps or values that are not numbers: train it again")
    return result


def _numbers(shape: str) -> tuple[int, ...]:
    """Parse a shape that nanotron wrote, such as `(128, 64)` or `(np.int64(128), 64)`."""
    return tuple(int(number) for number in re.findall(r"(?:np\.\w+\()?(\d+)", shape))


def _slices(pairs: str) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Parse pairs of slices, of a part and of the parameter, such as `0,10,None|0,5,None#20,30,None|0,5,None`."""
    for pair in pairs.split(";"):
        local, everywhere = pair.split("#")
        yield _slice(local), _slice(everywhere)


def _slice(text: str) -> tuple[slice, ...]:
    return tuple(
        slice(*(None if bound == "None" else int(bound) for bound in dimension.split(",")))
        for dimension in text.split("|")
    )
