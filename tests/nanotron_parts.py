"""What the tests of the nanotron trainer share: its checkpoint layout, and an environment to launch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from finephrase_dagster.study.student import Student
from finephrase_dagster.train.nanotron.cluster import NanotronCluster

STUDENT = Student(
    layers=2,
    hidden=32,
    ffn=48,
    heads=4,
    kv_heads=2,
    batch_sequences=4,
    learning_rate=1e-2,
    final_learning_rate=1e-3,
    warmup_fraction=0.1,
    decay_fraction=0.3,
    weight_decay=0.1,
    document_masking=True,
)


def write_weights(checkpoint: Path, model: LlamaForCausalLM, *, tensor: int) -> None:
    """Write a model as nanotron does: one file per parameter and part, with joined projections."""
    state = model.state_dict()
    folder = checkpoint / "model"
    _write(
        folder, "model.token_position_embeddings.pp_block.token_embedding", [state["model.embed_tokens.weight"]], tensor
    )
    _write_whole(folder, "model.final_layer_norm.pp_block", state["model.norm.weight"])
    for layer in range(model.config.num_hidden_layers):
        ours, theirs = f"model.layers.{layer}", f"model.decoder.{layer}.pp_block"
        attention, mlp = f"{ours}.self_attn", f"{ours}.mlp"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            _write_whole(folder, f"{theirs}.{norm}", state[f"{ours}.{norm}.weight"])
        joined = [state[f"{attention}.{name}.weight"] for name in ("q_proj", "k_proj", "v_proj")]
        _write(folder, f"{theirs}.attn.qkv_proj", joined, tensor)
        joined = [state[f"{mlp}.{name}.weight"] for name in ("gate_proj", "up_proj")]
        _write(folder, f"{theirs}.mlp.gate_up_proj", joined, tensor)
        _write(folder, f"{theirs}.attn.o_proj", [state[f"{attention}.o_proj.weight"]], tensor, dimension=1)
        _write(folder, f"{theirs}.mlp.down_proj", [state[f"{mlp}.down_proj.weight"]], tensor, dimension=1)
    config = model.config
    shape = {
        name: getattr(config, name)
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "tie_word_embeddings",
            "attention_bias",
        )
    }
    (checkpoint / "model_config.json").write_text(json.dumps({**shape, "rope_interleaved": False}))


def write_states(checkpoint: Path, *, step: int, tensor: int) -> None:
    """Write the files of a checkpoint other than the weights."""
    for kind in ("optimizer", "lr_scheduler"):
        (checkpoint / kind).mkdir(parents=True, exist_ok=True)
        for rank in range(tensor):
            torch.save({"step": step}, checkpoint / kind / f"{kind}_pp-0-of-1_tp-{rank}-of-{tensor}_exp-0-of-1.pt")
    metadata = {"version": "1.5", "tp": tensor, "dp": 1, "metas": {"last_train_step": step}}
    (checkpoint / "checkpoint_metadata.json").write_text(json.dumps(metadata))


def _write_whole(folder: Path, module: str, weight: torch.Tensor) -> None:
    path = folder.joinpath(*module.split(".")) / "model_weight.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"data": weight.contiguous()}, path, metadata={})


def _write(folder: Path, module: str, pieces: list[torch.Tensor], tensor: int, *, dimension: int = 0) -> None:
    """Write one file per part, with its share of each piece; the metadata have the position in the parameter."""
    whole = torch.cat(pieces, dimension)
    path = folder.joinpath(*module.split("."))
    path.mkdir(parents=True, exist_ok=True)
    for rank in range(tensor):
        parts, pairs, local, begin = [], [], 0, 0
        for piece in pieces:
            size = piece.shape[dimension] // tensor
            parts.append(piece.narrow(dimension, rank * size, size))
            pairs.append((_slices(dimension, local, size), _slices(dimension, begin + rank * size, size)))
            local, begin = local + size, begin + piece.shape[dimension]
        if len(pieces) == 1:
            pairs = [("None,None,None|None,None,None", pairs[0][1])]
        save_file(
            {"data": torch.cat(parts, dimension).contiguous()},
            path / f"model_weight_pp-rank-0-of-1_tp-rank-{rank}-of-{tensor}.safetensors",
            metadata={
                "version": "1.5",
                "local_global_slices_pairs": ";".join("#".join(pair) for pair in pairs),
                "unsharded_shape": str(tuple(whole.shape)),
            },
        )


def _slices(dimension: int, begin: int, size: int) -> str:
    both = ["None,None,None", "None,None,None"]
    both[dimension] = f"{begin},{begin + size},None"
    return "|".join(both)


@dataclass(frozen=True)
class Stand:
    """A stand-in for nanotron's environment: `tests/nanotron_torchrun.py` under the name of torchrun."""

    root: Path

    @property
    def cluster(self) -> NanotronCluster:
        return NanotronCluster(
            python=self.root / "bin" / "python", source=self.root / "source", gpus=2, peak_tflops=1000
        )

    def behave(self, **behaviour: Any) -> None:
        """Set what the next run does; see `nanotron_torchrun.py`."""
        (self.root / "source" / "behaviour.json").write_text(json.dumps(behaviour))


def build_stand(root: Path, model: LlamaForCausalLM) -> Stand:
    """Write the environment; its runs save this model, whatever they are trained on."""
    for folder in ("bin", "source/template"):
        (root / folder).mkdir(parents=True)
    script = Path(__file__).with_name("nanotron_torchrun.py")
    torchrun = root / "bin" / "torchrun"
    torchrun.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    torchrun.chmod(0o755)
    (root / "source" / "run_train.py").write_text("# nanotron's own script stands here\n")
    write_weights(root / "source" / "template", model, tensor=1)
    write_states(root / "source" / "template", step=0, tensor=1)
    stand = Stand(root)
    stand.behave()
    return stand
