"""Reading a tokenizer: what `AutoTokenizer` gives, without what it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from finephrase_dagster.corpora.tokenizer import read_tokenizer
from rephrase_parts import TEXTS, write_tokenizer

CONVERSATION = [{"role": "system", "content": "You write well."}, {"role": "user", "content": TEXTS[3]}]


def say(file: Path, **fields: object) -> None:
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps({**said, **fields}), encoding="utf-8")


@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "TokenizersBackend", "GPT2Tokenizer"])
@pytest.mark.parametrize("model_type", [None, "llama", "qwen2"])
def test_it_is_the_tokenizer_that_the_library_would_find(
    tokenizer_class: str, model_type: str | None, tmp_path: Path
) -> None:
    folder = write_tokenizer(tmp_path)
    say(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    if model_type:
        say(folder / "config.json", model_type=model_type)
    ours, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert [ours(text).input_ids for text in TEXTS[:30]] == [theirs(text).input_ids for text in TEXTS[:30]]
    said = {"add_generation_prompt": True, "return_dict": False}
    assert ours.apply_chat_template(CONVERSATION, **said) == theirs.apply_chat_template(CONVERSATION, **said)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()


def test_the_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    say(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["strange.Strange", None]})
    (folder / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Strange: ...\n", encoding="utf-8")
    read_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"tokenizer_class": "PreTrainedTokenizerFast"}'])
def test_a_folder_that_holds_no_tokenizer_is_an_error_that_callers_know(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "tokenizer_config.json").write_text(content, encoding="utf-8")
    with pytest.raises((OSError, ValueError)):
        read_tokenizer(tmp_path)


@pytest.mark.slow
def test_no_model_library_is_imported_for_a_plain_one(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path)
    code = (
        "import sys; from finephrase_dagster.corpora.tokenizer import read_tokenizer; "
        f"print(len(read_tokenizer({str(folder)!r})), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["600", "False"]
