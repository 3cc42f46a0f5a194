"""nanotron's YAML for a student: shape, optimizer, schedule, batches, data stages and checkpoints.

All paths in it are relative to the run's folder, where nanotron is started: nanotron keeps the names of
data folders in its checkpoints and must find them again under the same names, in whatever folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.study.student import Seeds, Student
from finephrase_dagster.train.nanotron.cluster import NanotronCluster
from finephrase_dagster.train.nanotron.schema import check
from finephrase_dagster.train.training import stable_steps

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
DATA = "data/s3"
"""Where a run's token folders lie. nanotron counts what it read of each folder and refuses any whose
path lacks `s3`, local ones included."""
UNDECAYED = r".*token_embedding.*"
"""Parameters without weight decay. nanotron matches a matrix by the name of the norm before it as well, so a
pattern for norms would spare the matrices too: they are left in."""


@dataclass(frozen=True, kw_only=True)
class DataStage:
    """Data from one step on.

    Attributes:
        name: for nanotron's log.
        start: the first step that sees it, counted from 1.
        weights: share of each component.
        seed: of the data's order.
    """

    name: str
    start: int
    weights: Mapping[str, float]
    seed: int


@dataclass(frozen=True, kw_only=True)
class NanotronRun:
    """A training run as nanotron has to be told.

    Attributes:
        name: of the run.
        eos: the id of the token after each document.
        token_bytes: that a token takes on disk.
        stages: of the data, by their start.
        steps: of the whole schedule.
        until: the step to end at: `steps`, or the plateau's last.
        micro_batch: sequences on a GPU at once; None: a replica's whole part of a batch.
        checkpoint_steps: between checkpoints; None: only the last step's.
        resume: the checkpoint to go on from.
    """

    name: str
    student: Student
    sequence: int
    seeds: Seeds
    vocabulary: int
    eos: int
    token_bytes: int
    stages: tuple[DataStage, ...]
    steps: int
    until: int
    micro_batch: int | None = None
    checkpoint_steps: int | None = None
    resume: str | None = None


def write_config(run: Path, plan: NanotronRun, cluster: NanotronCluster) -> Path:
    """Writes `run/config.yaml`.

    Raises:
        TrainingError: model or batch do not divide over the cluster, or our schema refuses the result.
    """
    written = config(plan, cluster)
    check(written)
    with atomic_write(run / CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return run / CONFIG


def config(plan: NanotronRun, cluster: NanotronCluster) -> dict[str, Any]:
    """The YAML's content.

    Raises:
        TrainingError: model or batch do not divide over the cluster.
    """
    micro, accumulation = cluster.accumulation(plan.student, micro_batch=plan.micro_batch)
    cluster.check_shape(plan.student, vocabulary=plan.vocabulary)
    interval = min(plan.checkpoint_steps or plan.until, plan.until)
    return {
        "general": {"project": "finephrase", "run": plan.name, "seed": plan.seeds.model, "ignore_sanity_checks": True},
        "parallelism": _parallelism(cluster),
        "model": _model(plan),
        "tokenizer": {"tokenizer_name_or_path": TOKENIZER},
        "tokens": {
            "sequence_length": plan.sequence,
            "train_steps": plan.until,
            "micro_batch_size": micro,
            "batch_accumulation_per_replica": accumulation,
            "val_check_interval": -1,
            "limit_val_batches": 0,
            "limit_test_batches": 0,
        },
        "optimizer": _optimizer(plan),
        "data_stages": [_stage(stage, plan) for stage in plan.stages],
        "checkpoints": {
            "checkpoints_path": CHECKPOINTS,
            "checkpoints_path_is_shared_file_system": True,
            "checkpoint_interval": interval,
            "save_initial_state": False,
            # Else the last step's would be written a second time, over itself.
            "save_final_state": plan.until % interval != 0,
            "resume_checkpoint_path": plan.resume,
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


def _model(plan: NanotronRun) -> dict[str, Any]:
    student = plan.student
    return {
        "ddp_bucket_cap_mb": 25,
        "dtype": "bfloat16",
        # By default the matrices that end a block would start smaller; the study's students start alike.
        "init_method": {"std": 0.02, "scaling_method": "NONE"},
        "make_vocab_size_divisible_by": 1,
        "model_config": {
            "is_qwen2_config": True,
            "hidden_size": student.hidden,
            "intermediate_size": student.ffn,
            "num_hidden_layers": student.layers,
            "num_attention_heads": student.heads,
            "num_key_value_heads": student.kv_heads,
            "vocab_size": plan.vocabulary,
            "max_position_embeddings": plan.sequence,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "rope_interleaved": False,
            "rope_scaling": None,
            "initializer_range": 0.02,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": plan.eos,  # a number is wanted; nothing reads it
            "eos_token_id": plan.eos,
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


def _optimizer(plan: NanotronRun) -> dict[str, Any]:
    student = plan.student
    warmup = round(student.warmup_fraction * plan.steps)
    plateau = stable_steps(plan.steps, student=student)
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
            "lr_decay_starting_step": plateau,
            # With neither warm-up nor decay nanotron would square the learning rate; this one is never reached.
            "lr_decay_steps": max(1, plan.steps - plateau),
            "min_decay_lr": student.final_learning_rate,
        },
    }


def _stage(stage: DataStage, plan: NanotronRun) -> dict[str, Any]:
    return {
        "name": stage.name,
        "start_training_step": stage.start,
        "data": {
            "dataset": {
                "dataset_folder": [f"{DATA}/{name}" for name in stage.weights],
                "dataset_weights": list(stage.weights.values()),
                "tokenizer_name": TOKENIZER,
                "vocab_size": plan.vocabulary,
                "token_size_in_bytes": plan.token_bytes,
                "return_positions": True,
                "shuffle_files": False,  # the links in the folders are in the student's order already
            },
            "num_loading_workers": 1,
            "seed": stage.seed,
        },
    }
