"""A schema of nanotron's YAML file as this project writes it.

It is narrower than nanotron's own loader: every field that determines a student must be present, with a value that
nanotron's main branch accepts and trains with. It replaces that loader in tests where nanotron is not installed; the
comments say what nanotron does otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class _General(_Section):
    project: str
    run: str
    seed: Steps
    ignore_sanity_checks: bool


class _Parallelism(_Section):
    dp: Count
    tp: Count
    pp: Count
    pp_engine: Literal["1f1b", "afab"]
    tp_mode: Literal["ALL_REDUCE", "REDUCE_SCATTER"]
    tp_linear_async_communication: bool
    recompute_layer: bool
    expert_parallel_size: Literal[1]
    context_parallel_size: Literal[1]

    @model_validator(mode="after")
    def _communicates(self) -> _Parallelism:
        if self.tp_linear_async_communication and self.tp_mode != "REDUCE_SCATTER":
            raise ValueError("tp_linear_async_communication works with tp_mode REDUCE_SCATTER alone")
        return self


class _Shape(_Section):
    is_qwen2_config: Literal[True]  # without it the first model that has all the fields is taken
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    vocab_size: Count
    max_position_embeddings: Count
    hidden_act: Literal["silu"]
    rms_norm_eps: float
    rope_theta: float
    rope_interleaved: Literal[False]
    rope_scaling: None
    initializer_range: float
    attention_bias: Literal[False]
    tie_word_embeddings: Literal[True]
    bos_token_id: Steps
    eos_token_id: Steps
    pad_token_id: None
    z_loss_enabled: Literal[False]
    log_attn_probs: Literal[False]  # true by default, which sends statistics of every head to the log
    attn_implementation: Literal["flash_attention_2"] = Field(alias="_attn_implementation")
    use_doc_masking: bool = Field(alias="_use_doc_masking")
    use_qkv_packed: Literal[True] = Field(alias="_use_qkv_packed")
    fused_rms_norm: bool = Field(alias="_fused_rms_norm")
    fused_rotary_emb: bool = Field(alias="_fused_rotary_emb")

    @model_validator(mode="after")
    def _has_heads(self) -> _Shape:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
        if self.eos_token_id >= self.vocab_size:
            raise ValueError("eos_token_id lies outside vocab_size")
        return self


class _Init(_Section):
    std: float = Field(gt=0)
    scaling_method: Literal["NONE", "NUM_LAYERS"]


class _Model(_Section):
    ddp_bucket_cap_mb: Count
    dtype: Literal["bfloat16"]
    init_method: _Init
    make_vocab_size_divisible_by: Literal[1]
    shape: _Shape = Field(alias="model_config")


class _Tokenizer(_Section):
    tokenizer_name_or_path: str


class _Tokens(_Section):
    sequence_length: Count
    train_steps: Count
    micro_batch_size: Count
    batch_accumulation_per_replica: Count
    val_check_interval: int
    limit_val_batches: Literal[0]
    limit_test_batches: Literal[0]


class _AdamW(_Section):
    name: Literal["adamW"]
    adam_beta1: Rate
    adam_beta2: Rate
    adam_eps: Rate
    torch_adam_is_fused: bool


class _Schedule(_Section):
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    lr_warmup_steps: Steps
    lr_warmup_style: Literal["linear", "constant"]  # nanotron's own default, none, is refused by its loader
    lr_decay_style: Literal["linear"]
    lr_decay_starting_step: Steps
    lr_decay_steps: Count
    min_decay_lr: Rate

    @model_validator(mode="after")
    def _ascends_first(self) -> _Schedule:
        if self.lr_warmup_steps > self.lr_decay_starting_step:
            raise ValueError("lr_decay_starting_step lies in the warm-up")
        if self.lr_warmup_steps == 0 and self.lr_warmup_style == "linear":
            raise ValueError("lr_warmup_style 'linear' without lr_warmup_steps trains the first step at a rate of 0")
        return self


class _Optimizer(_Section):
    optimizer_factory: _AdamW
    zero_stage: Literal[0]
    weight_decay: Rate
    weight_decay_exclude_named_params: list[str]
    clip_grad: float = Field(gt=0)
    accumulate_grad_in_fp32: Literal[True]
    learning_rate_scheduler: _Schedule


class _Nanoset(_Section):
    dataset_folder: list[Annotated[str, Field(pattern="s3")]] = Field(min_length=1)  # others stop it after a step
    dataset_weights: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    tokenizer_name: str
    vocab_size: Count
    token_size_in_bytes: Literal[2, 4]
    return_positions: Literal[True]
    shuffle_files: Literal[False]

    @model_validator(mode="after")
    def _weighs_each(self) -> _Nanoset:
        if len(self.dataset_weights) != len(self.dataset_folder):
            raise ValueError("dataset_weights and dataset_folder differ in length")
        if len(set(self.dataset_folder)) != len(self.dataset_folder):
            raise ValueError("dataset_folder names a folder twice")
        return self


class _Data(_Section):
    dataset: _Nanoset
    num_loading_workers: Count
    seed: Steps


class _Stage(_Section):
    name: str
    start_training_step: Count
    data: _Data


class _Checkpoints(_Section):
    checkpoints_path: str
    checkpoints_path_is_shared_file_system: bool
    checkpoint_interval: Count
    save_initial_state: bool
    save_final_state: bool
    resume_checkpoint_path: str | None
    load_lr_scheduler: Literal[True]
    load_optimizer: Literal[True]


class _Logging(_Section):
    log_level: Literal["info"]  # the lines with the loss are of this level
    log_level_replica: Literal["debug", "info", "warning", "error", "critical"]
    iteration_step_info_interval: Literal[1]


class _Metrics(_Section):
    log_level: Literal[0]
    log_detail_interval: Count


class _Config(_Section):
    general: _General
    parallelism: _Parallelism
    model: _Model
    tokenizer: _Tokenizer
    tokens: _Tokens
    optimizer: _Optimizer
    data_stages: list[_Stage]
    checkpoints: _Checkpoints
    logging: _Logging
    metrics_logging: _Metrics

    @model_validator(mode="after")
    def _agrees(self) -> _Config:
        shape, parts = self.model.shape, self.parallelism.tp
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
            if getattr(shape, name) % parts:
                raise ValueError(f"{name} must be a multiple of tp")
        if shape.max_position_embeddings != self.tokens.sequence_length:
            raise ValueError("max_position_embeddings and sequence_length differ")
        starts = [stage.start_training_step for stage in self.data_stages]
        if starts[:1] != [1] or starts != sorted(set(starts)):
            raise ValueError("data_stages must begin at step 1 and each after the one before")
        if starts[-1] > self.tokens.train_steps:
            raise ValueError("the last of data_stages begins after train_steps")
        if len({stage.name for stage in self.data_stages}) != len(starts):
            raise ValueError("two of data_stages have one name")
        for stage in self.data_stages:
            if stage.data.dataset.vocab_size != shape.vocab_size:
                raise ValueError(f"stage {stage.name} has another vocab_size than the model")
            if stage.data.dataset.tokenizer_name != self.tokenizer.tokenizer_name_or_path:
                raise ValueError(f"stage {stage.name} has another tokenizer than the run")
        if len(starts) > 1 and self.checkpoints.resume_checkpoint_path is None:
            raise ValueError("nanotron reads the last of data_stages alone: several need resume_checkpoint_path")
        return self


def check(config: Mapping[str, Any]) -> None:
    """Check the content of a YAML file.

    Raises:
        ValueError: a message with every wrong field.
    """
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        wrong = "\n".join(
            f"  {'.'.join(map(str, each['loc'])) or 'config'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        )
        raise ValueError(f"nanotron's configuration is wrong; correct in it:\n{wrong}") from error
