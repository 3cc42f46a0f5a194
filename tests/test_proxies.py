"""The proxies `edu_score` and `dclm_score`: recorded scores of completions and sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit_parts import train_fasttext
from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import AUDIT, ItemKey
from finephrase_dagster.audit.audit import AuditError, GateResult, audit_dataset, resolve_settings
from finephrase_dagster.audit.gate import AuditedDataset
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.audit.proxy import ScoringModelError
from finephrase_dagster.results.warehouse import create_tables, key_of, mark_current, record_manifests
from finephrase_dagster.study.catalogue import complete_gates, settings_for

PLAIN, DULL = "Plants turn light into sugar, and so they grow.", "BUY NOW cheap click here click"


@pytest.fixture(scope="module")
def fasttext_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("fasttext")
    (folder / "train.txt").write_text(f"__label__hq {PLAIN}\n__label__cc {DULL}\n" * 60)
    return train_fasttext(folder / "train.txt", folder / "model.bin")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    texts = {"text": [PLAIN, PLAIN, DULL, f"\n{PLAIN}\n"], "source_text": [DULL, PLAIN, PLAIN, None]}
    pq.write_table(pa.table({"id": ["a", "b", "c", "d"], **texts}), tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


def audited(path: Path, gate: str, **settings: Any) -> GateResult:
    report = audit_dataset(path, settings={gate: settings})
    return next(result for result in report.gates if result.name == gate)


def test_a_fasttext_model_scores_completions_and_sources(rows: Path, fasttext_model: str) -> None:
    result = audited(rows, "dclm_score", model=fasttext_model)
    figures = result.figures
    assert (result.passed, result.blocking, result.failing) == (True, False, 0)
    assert figures["dclm_score_rows"] == 4
    assert figures["output_dclm_score"] == pytest.approx(0.75, abs=0.03)
    assert figures["input_dclm_score"] == pytest.approx(2 / 3, abs=0.03)
    assert figures["dclm_score_difference"] == pytest.approx(0, abs=0.05)
    assert figures["dclm_score_improvement"] == 1 / 3
    assert "does not predict the result" in result.detail
    json.dumps(figures)
    sampled = audited(rows, "dclm_score", model=fasttext_model, rows=1)
    assert sampled.figures["dclm_score_rows"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("classes", [1, 3])
def test_a_sequence_classifier_scores_completions_and_sources(rows: Path, tmp_path: Path, classes: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *PLAIN.split(), *set(DULL.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), num_labels=classes, max_position_embeddings=16, **shape)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    fast.save_pretrained(tmp_path / "model")
    with torch.inference_mode():
        logits = [model(**fast(text, return_tensors="pt")).logits[0] for text in (PLAIN, DULL)]
    plain, dull = [float(one[0] if classes == 1 else (one.softmax(0) * torch.arange(classes)).sum()) for one in logits]
    figures = audited(rows, "edu_score", model=str(tmp_path / "model")).figures
    assert figures["output_edu_score"] == pytest.approx((3 * plain + dull) / 4, abs=1e-5)
    assert figures["input_edu_score"] == pytest.approx((2 * plain + dull) / 3, abs=1e-5)
    assert figures["edu_score_difference"] == pytest.approx(0, abs=1e-5)
    assert figures["edu_score_improvement"] == pytest.approx(1 / 3)


@pytest.mark.slow
def test_without_a_model_a_proxy_is_skipped_and_with_one_it_never_decides(rows: Path, fasttext_model: str) -> None:
    skipped = audit_dataset(rows).skipped
    assert (skipped["edu_score"], skipped["dclm_score"]) == ("needs model", "needs model")
    assert audited(rows, "dclm_score", model=fasttext_model, threshold=0.99).passed
    assert audited(rows, "dclm_score", model=fasttext_model, blocking=False).passed
    with pytest.raises(AuditError, match="blocking"):
        audit_dataset(rows, settings={"dclm_score": {"model": fasttext_model, "blocking": True}})


def test_an_audit_takes_the_settings_that_a_study_completes() -> None:
    complete = settings_for(complete_gates({}, {name: gate.all_defaults for name, gate in gates().items()}), "faq")
    assert complete["edu_score"]["blocking"] is False
    assert resolve_settings(complete, "faq") == complete


def test_a_proxy_is_labelled_as_one_that_does_not_predict_the_result() -> None:
    proxies = [gate for gate in gates().values() if gate.recorded]
    assert {gate.name for gate in proxies} == {"dclm_score", "edu_score"}
    assert all("does not predict the result" in gate.sentence for gate in proxies)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "MODEL", "label": "good"}, "has no label 'good'; choose from (hq, cc|cc, hq)"),
        ({"model": __file__}, "is not the file of a fastText model"),
        ({"model": "./nowhere"}, "is no file, and the hub has no such model"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused(fasttext_model: str, settings: dict[str, Any], message: str) -> None:
    gate = gates()["dclm_score"]
    chosen = {**gate.defaults, **settings, "model": settings["model"].replace("MODEL", fasttext_model)}
    with pytest.raises(ScoringModelError, match=message):
        gate.measure(AuditedDataset(files=[]), chosen).result()


def test_the_figures_of_a_gate_can_be_asked_for_by_name() -> None:
    connection = duckdb.connect()
    create_tables(connection)
    key = ItemKey(kind=AUDIT, generator="writer", source="web", prompt="faq")
    artifact = Artifact(key=key, recipe={}, root=Path())
    places = {"output_only": 3, "source_only": 0, "both": 1}
    gates = [
        {"name": "edu_score", "value": 2.5, "figures": {"edu_score_difference": -0.5}},
        {"name": "contamination", "value": 0.1, "failing": 4, "figures": {"contaminated": {"gsm8k": places}}},
    ]
    record_manifests(connection, [(key_of(artifact), {"version": "a", "gates": gates})])
    mark_current(connection, "demo", [(key_of(artifact), {"generator": "writer", "source": "web", "prompt": "faq"})])
    query = """SELECT prompt, failing, (figures->>'$.edu_score_difference')::DOUBLE,
        (figures->>'$.contaminated.gsm8k.output_only')::INTEGER FROM audits ORDER BY gate"""
    assert connection.execute(query).fetchall() == [("faq", 4, None, 3), ("faq", None, -0.5, None)]
