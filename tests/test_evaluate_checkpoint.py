"""Scoring real checkpoints: small Llamas with random weights and tokenizers trained on the items."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq
import pytest

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import SCORES, ItemKey
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.evaluate.categories import CATEGORIES, UnknownTask
from finephrase_dagster.evaluate.evaluation import CheckpointError, NotAProbability, evaluate_checkpoint
from finephrase_dagster.evaluate.questions import AnswerTooLong, build_questions
from finephrase_dagster.evaluate.reading import EMBEDDED_ITEMS, ItemsError
from finephrase_dagster.evaluate.reuse import known_samples, unchanged_tasks
from finephrase_dagster.evaluate.scores import scores
from finephrase_dagster.evaluate.tasks import __path__ as task_folders
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.evaluate.tasks.mmlu_redux import SUBJECTS
from finephrase_dagster.study.student import Evaluation

pytestmark = pytest.mark.slow  # each test evaluates a model

SUITE = tuple(benchmarks())
ALL_TASKS = Evaluation.model_construct(items="embedded", tasks=SUITE, shots=3, samples=6)


def save_checkpoint(folder: Path, *, context: int, heads: int = 2) -> Path:
    """A Llama with weights large enough that its probabilities are far from uniform."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    texts = [path.read_text(encoding="utf-8") for path in sorted(EMBEDDED_ITEMS.rglob("*.jsonl"))]
    tokenizer.train_from_iterator(texts, vocab_size=700, special_tokens=["<|end|>"], show_progress=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=700,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=heads,
                max_position_embeddings=context,
                initializer_range=0.3,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=0,
            )
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("wide"), context=1024)


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("narrow"), context=96)


def samples(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "samples.parquet").to_pylist()


class Direct:
    """The same scores computed directly with transformers, one sequence at a time."""

    def __init__(self, checkpoint: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()

    def prompt(self, sample: dict[str, Any], examples: list[tuple[str, str]]) -> str:
        kept = examples[len(examples) - sample["shots"] :]
        return "\n\n".join([*(f"{query} {gold}" for query, gold in kept), sample["query"]])

    def tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def log_probability(self, prompt: list[int], answer: list[int]) -> float:
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([prompt + answer])).logits[0].double()
        steps = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
        return float(steps[range(len(answer)), answer].sum())


def examples_by_query(evaluation: Evaluation) -> dict[tuple[str, str], tuple[list[tuple[str, str]], list[str]]]:
    """Return the few-shot examples and the correct answers of each item."""
    return {
        (question.task, question.prompt): (
            [(example.prompt, example.answer) for example in question.examples],
            list(question.golds),
        )
        for question in build_questions(evaluation)
    }


def test_scores_agree_with_a_direct_computation(wide: Path, tmp_path: Path) -> None:
    scored = evaluate_checkpoint(wide, tmp_path, evaluation=ALL_TASKS, batch_size=8)
    direct, known = Direct(wide), examples_by_query(ALL_TASKS)
    values: dict[str, list[float]] = {task: [] for task in SUITE}
    bits: dict[str, list[float]] = {task: [] for task in SUITE}
    for sample in samples(tmp_path):
        examples, golds = known[sample["task"], sample["query"]]
        assert sample["shots"] == len(examples) == 3
        prompt = direct.tokens(direct.prompt(sample, examples))
        per_gold = []
        for gold in golds:
            answer = direct.tokens(f" {gold}")
            log_probability = direct.log_probability(prompt, answer)
            per_gold.append((math.exp(log_probability / len(answer)), log_probability, len(answer), gold))
        best, log_probability, tokens, gold = max(per_gold)
        assert sample["prob_norm_token"] == pytest.approx(best, abs=1e-5)
        assert sample["golds"] == golds
        assert sample["gold_tokens"] == [length for _, _, length, _ in per_gold]
        assert sample["gold_log_probabilities"] == pytest.approx([sum_ for _, sum_, _, _ in per_gold], abs=1e-4)
        assert sample["prompt_tokens"] == len(prompt)
        assert sample["log_probability"] / tokens == pytest.approx(log_probability / tokens, abs=1e-5)
        assert (sample["tokens"], sample["gold"]) == (tokens, gold)
        values[sample["task"]].append(best)
        bits[sample["task"]].append(
            min(-sum_ / math.log(2) / (1 + len(gold.encode())) for _, sum_, _, gold in per_gold)
        )
        assert sample["bits_per_byte"] == pytest.approx(bits[sample["task"]][-1], abs=1e-4)
    assert max(max(of_task) for of_task in values.values()) > 5 * min(min(v) for v in values.values())
    for task in SUITE:
        mean = sum(values[task]) / len(values[task])
        assert scored.tasks[task].n == 6
        assert scored.tasks[task].mean == pytest.approx(mean, abs=1e-5)
        assert scored.bits_per_byte.tasks[task].mean == pytest.approx(sum(bits[task]) / len(bits[task]), abs=1e-4)
    assert set(scored.categories) == set(CATEGORIES)
    assert scored.macro == pytest.approx(sum(scored.categories.values()) / 6)


def test_the_batch_size_changes_nothing(wide: Path, narrow: Path, tmp_path: Path) -> None:
    for checkpoint in (wide, narrow):
        runs = []
        for batch_size in (1, 8, 48):
            output = tmp_path / f"{checkpoint.name}-{batch_size}"
            evaluate_checkpoint(checkpoint, output, evaluation=ALL_TASKS, batch_size=batch_size)
            runs.append(samples(output))
        for other in runs[1:]:
            for one, two in zip(runs[0], other, strict=True):
                assert two.pop("prob_norm_token") == pytest.approx(one["prob_norm_token"], abs=1e-5)
                assert two.pop("log_probability") == pytest.approx(one["log_probability"], rel=1e-5)
                several = two.pop("gold_log_probabilities")
                assert several == pytest.approx(one["gold_log_probabilities"], rel=1e-5)
                assert two.pop("bits_per_byte") == pytest.approx(one["bits_per_byte"], rel=1e-5)
                assert two.items() <= one.items()


def test_a_second_evaluation_gives_the_same(narrow: Path, tmp_path: Path) -> None:
    first = evaluate_checkpoint(narrow, tmp_path / "1", evaluation=ALL_TASKS, batch_size=16)
    random.seed(99)
    second = evaluate_checkpoint(narrow, tmp_path / "2", evaluation=ALL_TASKS, batch_size=16)
    assert first == second
    assert samples(tmp_path / "1") == samples(tmp_path / "2")


def test_examples_that_do_not_fit_are_dropped_from_the_front_and_answers_are_never_cut(
    narrow: Path, tmp_path: Path
) -> None:
    evaluate_checkpoint(narrow, tmp_path, evaluation=ALL_TASKS, batch_size=16)
    direct, known = Direct(narrow), examples_by_query(ALL_TASKS)
    shots: Counter[int] = Counter()
    for sample in samples(tmp_path):
        examples, golds = known[sample["task"], sample["query"]]
        longest = max(len(direct.tokens(f" {gold}")) for gold in golds)
        prompt = direct.tokens(direct.prompt(sample, examples))
        answer = direct.tokens(f" {sample['gold']}")
        assert sample["tokens"] == len(answer)
        assert sample["cut_tokens"] == max(0, len(prompt) + longest - 96)
        assert sample["cut_tokens"] == 0 or sample["shots"] == 0
        if sample["shots"] < 3:
            one_more = direct.tokens(direct.prompt({**sample, "shots": sample["shots"] + 1}, examples))
            assert len(one_more) + longest > 96
        kept = prompt[max(0, len(prompt) + len(answer) - 96) :]
        value = math.exp(direct.log_probability(kept, answer) / len(answer))
        assert sample["prob_norm_token"] == pytest.approx(value, abs=1e-5)
        shots[sample["shots"]] += 1
    assert len(shots) > 1


def one_item(tmp_path: Path, question: str, number: str) -> Evaluation:
    items = shutil.copytree(EMBEDDED_ITEMS, tmp_path / "items")
    row = {"question": question, "answer": f"#### {number}"}
    (items / "gsm8k" / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return Evaluation(items=str(items), tasks=("gsm8k",), shots=3, samples=5)


def test_a_question_longer_than_the_context_loses_its_beginning_on_record(narrow: Path, tmp_path: Path) -> None:
    evaluation = one_item(tmp_path, "How many are 2 and 2, if " * 60 + "one counts?", "4")
    score = evaluate_checkpoint(narrow, tmp_path / "out", evaluation=evaluation, batch_size=4)
    (sample,) = samples(tmp_path / "out")
    assert sample["shots"] == 0
    assert sample["cut_tokens"] > 100
    assert score.tasks["gsm8k"].stderr is None
    assert 0 < sample["prob_norm_token"] < 1


def test_an_answer_longer_than_the_context_is_refused_by_name(narrow: Path, tmp_path: Path) -> None:
    evaluation = one_item(tmp_path, "Which digits come first?", "31415926535 " * 40)
    with pytest.raises(AnswerTooLong, match=r"task gsm8k.*item [0-9a-f]{16}: an answer of \d+ tokens.* 96"):
        evaluate_checkpoint(narrow, tmp_path / "out", evaluation=evaluation, batch_size=4)
    assert not (tmp_path / "out" / "samples.parquet").exists()


def test_the_means_of_a_subset_of_tasks_are_those_of_these_tasks(narrow: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(items="embedded", tasks=("gsm8k", "drop"), shots=0, samples=3)
    scored = evaluate_checkpoint(narrow, tmp_path, evaluation=evaluation, batch_size=4)
    assert set(scored.tasks) == {"gsm8k", "drop"}
    assert set(scored.categories) == {"MATH", "RC"}
    mean = fmean(task.mean for task in scored.tasks.values())
    assert (scored.micro, scored.macro) == (pytest.approx(mean), pytest.approx(mean))
    assert {sample["shots"] for sample in samples(tmp_path)} == {0}


ROMAN_NUMERALS = """
from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, cloze_answers, cloze_prompt


class RomanRow(BenchmarkRow):
    numeral: str
    value: int

    def prompt(self) -> str:
        return cloze_prompt(f"Which number is {self.numeral}?")

    def golds(self) -> tuple[str, ...]:
        return cloze_answers([str(self.value)])


BENCHMARK = Benchmark(name="roman_numerals", folder="roman_numerals", category=None, row=RomanRow,
    hub="nobody/roman", evaluation_split="test", few_shot_split="train")
"""


def test_one_file_in_the_folder_of_tasks_adds_a_benchmark(
    narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "roman_numerals.py").write_text(ROMAN_NUMERALS)
    monkeypatch.setattr("finephrase_dagster.evaluate.tasks.__path__", [*task_folders, str(tmp_path / "tasks")])
    assert list(benchmarks()) == [*SUITE, "roman_numerals"]
    assert catalogue().tasks["roman_numerals"] is None
    folder = tmp_path / "items" / "roman_numerals"
    folder.mkdir(parents=True)
    for split, numerals in {"train": {"I": 1, "V": 5}, "test": {"X": 10, "IX": 9, "XI": 11}}.items():
        rows = [json.dumps({"numeral": numeral, "value": value}) for numeral, value in numerals.items()]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    fields = {"items": str(tmp_path / "items"), "tasks": ("roman_numerals",), "shots": 2, "samples": 10}
    evaluation = Evaluation.model_validate(fields, context=catalogue())
    scored = evaluate_checkpoint(narrow, tmp_path / "out", evaluation=evaluation, batch_size=4)
    assert (scored.tasks["roman_numerals"].n, scored.macro) == (3, None)
    prompts = {sample["query"] for sample in samples(tmp_path / "out")}
    assert "Question: Which number is IX?\nAnswer:" in prompts


def test_fewer_samples_are_a_subset_of_more(narrow: Path, tmp_path: Path) -> None:
    for count in (3, 7):
        evaluation = ALL_TASKS.model_copy(update={"samples": count, "tasks": ("piqa_cf",)})
        evaluate_checkpoint(narrow, tmp_path / str(count), evaluation=evaluation, batch_size=8)
    few, many = ({sample["item"] for sample in samples(tmp_path / str(count))} for count in (3, 7))
    assert len(few) == 3
    assert few < many


def test_an_evaluation_changes_neither_the_process_nor_the_checkpoint(narrow: Path, tmp_path: Path) -> None:
    import torch

    files = {path: path.read_bytes() for path in narrow.rglob("*") if path.is_file()}
    torch.set_grad_enabled(True)
    before = (random.getstate(), os.environ.get("TOKENIZERS_PARALLELISM"), torch.get_num_threads())
    evaluate_checkpoint(narrow, tmp_path, evaluation=ALL_TASKS, batch_size=4)
    assert torch.is_grad_enabled()
    assert (random.getstate(), os.environ.get("TOKENIZERS_PARALLELISM"), torch.get_num_threads()) == before
    assert {path: path.read_bytes() for path in narrow.rglob("*") if path.is_file()} == files
    assert [path.name for path in tmp_path.iterdir()] == ["samples.parquet"]


def test_more_shots_than_examples_are_refused(narrow: Path, tmp_path: Path) -> None:
    evaluation = ALL_TASKS.model_copy(update={"shots": 9})
    with pytest.raises(ItemsError, match=r"task arc_cf:easy: .* has 6 few-shot examples, but evaluation.shots is 9"):
        evaluate_checkpoint(narrow, tmp_path, evaluation=evaluation, batch_size=4)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"half a file"), "cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be loaded"),
    ],
)
def test_a_damaged_checkpoint_is_named(narrow: Path, tmp_path: Path, damage: Any, message: str) -> None:
    checkpoint = shutil.copytree(narrow, tmp_path / "checkpoint")
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=f"{checkpoint} {message}"):
        evaluate_checkpoint(checkpoint, tmp_path / "out", evaluation=ALL_TASKS, batch_size=4)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(narrow: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    checkpoint = shutil.copytree(narrow, tmp_path / "checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(checkpoint)
    with pytest.raises(CheckpointError, match=r"the tokenizer has 701 entries, the model only 700"):
        evaluate_checkpoint(checkpoint, tmp_path / "out", evaluation=ALL_TASKS, batch_size=4)


def test_no_special_token_is_put_before_the_prompt(narrow: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    checkpoint = shutil.copytree(narrow, tmp_path / "checkpoint")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    plain = evaluate_checkpoint(narrow, tmp_path / "plain", evaluation=ALL_TASKS, batch_size=8)
    assert evaluate_checkpoint(checkpoint, tmp_path / "other", evaluation=ALL_TASKS, batch_size=8) == plain


def test_a_model_that_gives_nan_gets_no_score(narrow: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = shutil.copytree(narrow, tmp_path / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    model.save_pretrained(checkpoint)
    with pytest.raises(NotAProbability, match="not finite"):
        evaluate_checkpoint(checkpoint, tmp_path / "out", evaluation=ALL_TASKS, batch_size=4)
    assert not (tmp_path / "out").exists()


def test_an_unknown_task_is_refused_by_name(narrow: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownTask, match=r"no benchmark 'triviaqa'"):
        evaluate_checkpoint(
            narrow, tmp_path, evaluation=ALL_TASKS.model_copy(update={"tasks": ("triviaqa",)}), batch_size=4
        )


def test_a_missing_task_is_an_error_and_no_score_is_written(narrow: Path, tmp_path: Path) -> None:
    items = shutil.copytree(EMBEDDED_ITEMS, tmp_path / "items")
    shutil.rmtree(items / "winogrande")
    with pytest.raises(ItemsError, match=r"task winogrande_cf: there is no file"):
        evaluate_checkpoint(
            narrow, tmp_path / "out", evaluation=ALL_TASKS.model_copy(update={"items": str(items)}), batch_size=4
        )
    assert not (tmp_path / "out").exists()


def test_all_scores_can_be_computed_from_the_samples(narrow: Path, tmp_path: Path) -> None:
    measured = evaluate_checkpoint(narrow, tmp_path, evaluation=ALL_TASKS, batch_size=16)
    values: dict[str, dict[str, list[float]]] = {}
    bits: dict[str, dict[str, list[float]]] = {}
    for sample in samples(tmp_path):
        values.setdefault(sample["task"], {}).setdefault(sample["subset"], []).append(sample["prob_norm_token"])
        bits.setdefault(sample["task"], {}).setdefault(sample["subset"], []).append(sample["bits_per_byte"])
        assert len(sample["examples"]) == sample["shots"]
        assert sample["item"] not in sample["examples"]
        assert len(sample["digest"]) == 64
    assert scores(values, bits) == measured


def test_subjects_are_evaluated_separately_and_weigh_the_same(narrow: Path, tmp_path: Path) -> None:
    for subject in SUBJECTS:
        rows = [
            {"question": f"Is {n} in {subject}?", "choices": ["no", "yes"], "answer": n % 2, "error_type": "ok"}
            for n in range(5)
        ]
        folder = tmp_path / "items" / "mmlu_redux" / subject
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    evaluation = ALL_TASKS.model_copy(
        update={"items": str(tmp_path / "items"), "tasks": ("mmlu_redux_cf",), "samples": 130}
    )
    score = evaluate_checkpoint(narrow, tmp_path / "out", evaluation=evaluation, batch_size=16).tasks["mmlu_redux_cf"]
    by_subject: dict[str, list[float]] = {}
    for sample in samples(tmp_path / "out"):
        by_subject.setdefault(sample["subset"], []).append(sample["prob_norm_token"])
        assert sample["subset"] in sample["query"]
    assert sorted(by_subject) == sorted(SUBJECTS)
    assert {len(values) for values in by_subject.values()} == {2, 3}
    means = [sum(values) / len(values) for values in by_subject.values()]
    assert (score.mean, score.n) == (pytest.approx(sum(means) / 57), 130)


def artifact_of_scores(root: Path, tasks: list[str]) -> Artifact:
    items = {benchmarks()[task].folder: "items" for task in SUITE}
    recipe = {"code": "3", "checkpoint": "a", "tasks": tasks, "shots": 3, "samples": 6, "items": items}
    return Artifact(key=ItemKey(kind=SCORES, run="raw"), recipe=recipe, root=root, study="one")


def test_a_task_is_added_and_another_taken_out_without_evaluating_the_rest_again(wide: Path, tmp_path: Path) -> None:
    first, second = ({"tasks": tasks} for tasks in (("gsm8k", "arc_cf:easy"), ("piqa_cf", "gsm8k")))
    before = artifact_of_scores(tmp_path, sorted(first["tasks"]))
    with before.claim() as folder:
        evaluate_checkpoint(wide, folder, evaluation=ALL_TASKS.model_copy(update=first), batch_size=8)
        table = pq.read_table(folder / "samples.parquet")  # as the code wrote it before there were bits per byte
        pq.write_table(table.drop_columns("bits_per_byte"), folder / "samples.parquet")
        before.publish([folder / "samples.parquet"], {})
    before.label()
    recipe = {**before.recipe, "code": "4", "tasks": sorted(second["tasks"])}
    known = known_samples(tmp_path / "studies" / "one" / before.name, recipe, "./samples.parquet")
    assert {sample["task"] for sample in known} == {"gsm8k"}
    evaluation = ALL_TASKS.model_copy(update=second)
    reused = evaluate_checkpoint(wide, tmp_path / "reused", evaluation=evaluation, batch_size=8, known=known)
    fresh = evaluate_checkpoint(wide, tmp_path / "fresh", evaluation=evaluation, batch_size=8)
    assert list(reused.tasks) == ["piqa_cf", "gsm8k"]
    assert {task: score.n for task, score in reused.tasks.items()} == {task: s.n for task, s in fresh.tasks.items()}
    for task, score in fresh.tasks.items():
        assert reused.tasks[task].mean == pytest.approx(score.mean, rel=1e-5)
        bits = reused.bits_per_byte.tasks[task].mean
        assert bits == pytest.approx(fresh.bits_per_byte.tasks[task].mean, rel=1e-5)
    only_known = ALL_TASKS.model_copy(update={"tasks": ("gsm8k",)})
    shutil.copytree(wide, tmp_path / "no weights", ignore=shutil.ignore_patterns("*.safetensors"))
    evaluate_checkpoint(tmp_path / "no weights", tmp_path / "out", evaluation=only_known, batch_size=8, known=known)


@pytest.mark.parametrize(
    "change", [{"code": "2"}, {"checkpoint": "other"}, {"shots": 5}, {"samples": 7}, {"items": {"gsm8k": "edited"}}]
)
def test_a_task_is_evaluated_again_if_anything_else_of_its_recipe_changed(
    change: dict[str, Any], tmp_path: Path
) -> None:
    recipe = dict(artifact_of_scores(tmp_path, ["gsm8k"]).recipe)
    assert unchanged_tasks(recipe, recipe) == {"gsm8k"}
    assert unchanged_tasks(recipe, {**recipe, **change}) == set()
