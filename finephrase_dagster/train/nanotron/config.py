"""nanotron's YAML file for a student: shape, optimizer, schedule, batches, data stages and checkpoints.

All paths in it are relative to the run's folder, where nanotron is started: nanotron keeps the names of data folders in
its checkpoints and must find the same names again, wherever the run's folder is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.train.job import TrainingJob
from finephrase_dagster.train.nanotron.cluster import NanotronCluster

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
DATA = "data/s3"
"""The folder of a run's token folders. nanotron counts what it reads from each of them and stops if a path lacks `s3`,
even for local ones."""
UNDECAYED = r".*token_embedding.*"
"""Parameters without weight decay. nanotron also matches a matrix by the name of the norm before it, so a pattern for
norms would exempt matrices too; norms therefore do have weight decay."""


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """The data from one step on.

    Attributes:
        name: for nanotron's log.
        start: the first step that sees it, counted from 1.
        seed: of the data's order.
    """

    name: str
    start: int
    weights: Mapping[str, float]
    seed: int


@dataclass(frozen=True, kw_only=True)
class NanotronRun:
    """A training job with the numbers that nanotron's configuration needs in addition.

    Attributes:
        name: the run's name, which its nodes share.
        vocabulary: entries of the tokenizer.
        eos: id of the token after each document.
        token_bytes: bytes per token on disk.
        stages: the data, by starting step.
        steps: steps of the complete schedule.
        end: the last step of this run.
        checkpoint_steps: steps between checkpoints; None: only at the last step.
        resume: the checkpoint to continue from.
    """

    job: TrainingJob
    name: str
    vocabulary: int
    eos: int
    token_bytes: int
    stages: tuple[DataStage, ...]
    steps: int
    end: int
    checkpoint_steps: int | None = None
    resume: str | None = None


def write_config(folder: Path, run: NanotronRun, cluster: NanotronCluster) -> Path:
    """Write `config.yaml` into a folder.

    Raises:
        TrainingError: model or batch do not divide over the cluster.
    """
    content = config(run, cluster)
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return folder / CONFIG


def config(run: NanotronRun, cluster: NanotronCluster) -> dict[str, Any]:
    """Return the content of the YAML file.

    Raises:
        TrainingError: model or batch do not divide over the cluster.
    """
    micro, accumulation = cluster.accumulation(run.job.student, micro_batch=run.job.execution.micro_batch)
    cluster.check_shape(run.job.student, vocabulary=run.vocabulary)
    interval = min(run.checkpoint_steps or run.end, run.end)
    return {
        "general": {
            "project": "finephrase",
            "run": run.name,
            "seed": run.job.seeds.model,
            "ignore_sanity_checks": True,
        },
        "parallelism": _parallelism(cluster),
        "model": _model(run),
        "tokenizer": {"tokenizer_name_or_path": TOKENIZER},
        "tokens": {
            "sequence_length": run.job.sequence,
            "train_steps": run.end,
            "micro_batch_size": micro,
            "batch_accumulation_per_replica": accumulation,
            "val_check_interval": -1,
            "limit_val_batches": 0,
            "limit_test_batches": 0,
        },
        "optimizer": _optimizer(run),
        "data_stages": [_stage(stage, run) for stage in run.stages],
        "checkpoints": {
            "checkpoints_path": CHECKPOINTS,
            "checkpoints_path_is_shared_file_system": True,
            "checkpoint_interval": interval,
            "save_initial_state": False,
            # Otherwise the last step's checkpoint would be written twice.
            "save_final_state": run.end % interval != 0,
            "resume_checkpoint_path": run.resume,
            "load_lr_scheduler": True,
            "load_optimizer": True,
        },
        "logging": {"log_level": "info", "log_level_replica": "warning", "iteration_step_info_interval": 1},
        "metrics_logging": {"log_level": 0, "log_detail_interval": 1},
    }


def _parallelism(cluster: NanotronCluster) -> dict[str, Any]:
    shared = cluster.tensor > 1
    return {
        "dp": cluster.data,
        "tp": cluster.tensor,
        "pp": cluster.pipeline,
        "pp_engine": "1f1b",
        "tp_mode": "REDUCE_SCATTER" if shared else "ALL_REDUCE",
        "tp_linear_async_communication": shared,
        "recompute_layer": cluster.recompute,
        "expert_parallel_size": 1,
        "context_parallel_size": 1,
    }


def _model(run: NanotronRun) -> dict[str, Any]:
    student = run.job.student
    return {
        "ddp_bucket_cap_mb": 25,
        "dtype": "bfloat16",
        # By default the last matrices of a block would start smaller; the study's students start with equal spread.
        "init_method": {"std": 0.02, "scaling_method": "NONE"},
        "make_vocab_size_divisible_by": 1,
        "model_config": {
            "is_qwen2_config": True,
            "hidden_size": student.hidden,
            "intermediate_size": student.ffn,
            "num_hidden_layers": student.layers,
            "num_attention_heads": student.heads,
            "num_key_value_heads": student.kv_heads,
            "vocab_size": run.vocabulary,
            "max_position_embeddings": run.job.sequence,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "rope_interleaved": False,
            "rope_scaling": None,
            "initializer_range": 0.02,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": run.eos,  # nanotron needs a number; nothing reads it
            "eos_token_id": run.eos,
            "pad_token_id": None,
            "z_loss_enabled": False,
            "log_attn_probs": False,
            "_attn_implementation": "flash_attention_2",
            "_use_doc_masking": student.document_masking,
            "_use_qkv_packed": True,
            "_fused_rms_norm": True,
            "_fused_rotary_emb": True,
        },
    }


def _optimizer(run: NanotronRun) -> dict[str, Any]:
    student = run.job.student
    warmup = round(student.warmup_fraction * run.steps)
    stable = student.stable_steps(run.steps)
    return {
        "optimizer_factory": {
            "name": "adamW",
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "adam_eps": 1e-8,
            "torch_adam_is_fused": True,
        },
        "zero_stage": 0,
        "weight_decay": student.weight_decay,
        "weight_decay_exclude_named_params": [UNDECAYED],
        "clip_grad": 1.0,
        "accumulate_grad_in_fp32": True,
        "learning_rate_scheduler": {
            "learning_rate": student.learning_rate,
            "lr_warmup_steps": warmup,
            # Without warm-up, "linear" would still give the first step a rate of zero.
            "lr_warmup_style": "linear" if warmup else "constant",
            "lr_decay_style": "linear",
            "lr_decay_starting_step": stable,
            # With neither warm-up nor decay nanotron would square the learning rate; this step is never reached.
            "lr_decay_steps": max(1, run.steps - stable),
            "min_decay_lr": student.final_learning_rate,
        },
    }


def _stage(stage: DataStage, run: NanotronRun) -> dict[str, Any]:
    return {
        "name": stage.name,
        "start_training_step": stage.start,
        "data": {
            "dataset": {
                "dataset_folder": [f"{DATA}/{name}" for name in stage.weights],
                "dataset_weights": list(stage.weights.values()),
                "tokenizer_name": TOKENIZER,
                "vocab_size": run.vocabulary,
                "token_size_in_bytes": run.token_bytes,
                "return_positions": True,
                "shuffle_files": False,  # the links in the folders are in the student's order already
            },
            "num_loading_workers": 1,
            "seed": stage.seed,
        },
    }
