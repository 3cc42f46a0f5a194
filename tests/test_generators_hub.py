"""A generator that exists: a local folder, or the hub at a revision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finephrase_dagster.generators.hub import ModelError, resolve_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_a_folder_is_used_where_it_lies_and_known_by_its_files(model: Path, tmp_path: Path) -> None:
    facts = resolve_model(str(model), tmp_path / "unused")
    assert (facts.folder, facts.commit, facts.architecture) == (str(model), None, "LlamaForCausalLM")
    assert not (tmp_path / "unused").exists()
    assert resolve_model(str(model), tmp_path).content == facts.content


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "generation_config.json"])
def test_a_changed_file_makes_another_model(model: Path, name: str) -> None:
    before = resolve_model(str(model), model).content
    (model / name).write_text('{"changed": true}')
    assert resolve_model(str(model), model).content != before


def test_a_file_beside_the_model_changes_nothing(model: Path) -> None:
    before = resolve_model(str(model), model).content
    (model / "README.md").write_text("A model.")
    assert resolve_model(str(model), model).content == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "has no config.json; name a folder in Hugging Face format"),
        ("model.safetensors", r"has no \*.safetensors; convert its weights"),
        ("tokenizer.json", r"has no tokenizer \(tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused(model: Path, name: str, said: str) -> None:
    (model / name).unlink()
    with pytest.raises(ModelError, match=said):
        resolve_model(str(model), model)


def test_a_copy_that_broke_off_is_refused(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"has no model-2.safetensors, .*copy the model again"):
        resolve_model(str(model), model)


@pytest.mark.parametrize("config", ["{", "[]", '{"architectures": []}'])
def test_a_config_of_no_language_model_is_refused(model: Path, config: str) -> None:
    (model / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"config.json (cannot be read|names no architecture)"):
        resolve_model(str(model), model)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model ./nowhere: no such folder"):
        resolve_model("./nowhere", tmp_path)


def test_the_hub_offline_is_said_with_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = r"model owner/name@main: the hub is disabled by HF_HUB_OFFLINE; unset that variable, or name a folder"
    with pytest.raises(ModelError, match=said):
        resolve_model("owner/name@main", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_hub_that_does_not_answer_is_said_with_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.endpoint", "http://127.0.0.1:9", raising=False)
    with pytest.raises(
        ModelError, match=r"model owner/name@main: cannot be downloaded from the hub .*; check its name"
    ):
        resolve_model("owner/name@main", tmp_path / "model")
