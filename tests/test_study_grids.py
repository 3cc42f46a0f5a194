"""Grids, defaults and runs: a few lines expand to many entries, and each mistake in them is reported once."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.commands.expand import expanded_text
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.expand import expanded_fields
from finephrase_dagster.study.file import StudyError, read_study
from finephrase_dagster.study.grid import MixtureGrid
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.spec import Study

STUDIES = REPOSITORY / "studies"
NAMES = ("demo", "finephrase", "production")
PUBLISHED = Path(os.environ.get("FINEPHRASE_PUBLISHED") or REPOSITORY.parent / "shared" / "published")
FIELDS: dict[str, Any] = yaml.safe_load((STUDIES / "finephrase.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finephrase() -> Study:
    return read_study(STUDIES / "finephrase.yaml", catalogue())


def read(folder: Path, change: Callable[[dict[str, Any]], object]) -> Study:
    """The published study with a change."""
    fields = copy.deepcopy(FIELDS)
    change(fields)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return read_study(path, catalogue())


def datasets(study: Study) -> list[tuple[str, str, str]]:
    return [(cell.generator, cell.source, prompt) for cell in study.cells for prompt in study.prompts_of(cell)]


def test_the_published_study_has_90_datasets_132_mixtures_and_253_runs(finephrase: Study) -> None:
    made = datasets(finephrase)
    assert len(made) == len(set(made)) == 90
    assert Counter(source for _, source, _ in made) == {
        "fineweb_edu_hq": 77,
        "dclm": 7,
        "fineweb_edu_lq": 4,
        "cosmopedia": 2,
    }
    assert len({prompt for _, _, prompt in made}) == 16
    assert len(finephrase.generators) == 15
    # Ten baselines, each dataset once with its source, four datasets at eight other shares.
    assert len(finephrase.mixtures) == 10 + 90 + 4 * 8 == 132
    # All mixtures once; three prompts of five Gemmas on three students; two mixtures on four students with nine pairs
    # of seeds; four decays.
    assert len(finephrase.student_runs) == 132 + 3 * 5 * 3 + 2 * 4 * 9 + 4 == 253
    assert Counter(run.student for run in finephrase.student_runs.values()) == {
        "1_7b": 132 + 18 + 4,
        **dict.fromkeys(("0_5b", "2_9b", "6_2b"), 15 + 18),
    }


if PUBLISHED.is_dir():  # a clone alone has not the published files

    def test_the_datasets_are_those_of_the_published_generation_runs(finephrase: Study) -> None:
        rows = json.loads((PUBLISHED / "rephrasing_metadata.json").read_text(encoding="utf-8"))
        published = {
            (row["model"], row["source_dataset"].rpartition("-")[0].replace("-", "_"), Path(row["prompt"]).stem)
            for row in rows
        }
        sources = {"fineweb_edu_hq", "fineweb_edu_lq", "dclm", "cosmopedia"}
        assert {source for _, source, _ in published} == sources
        models = {name: generator.model.partition("@")[0] for name, generator in finephrase.generators.items()}
        assert {(models[generator], source, prompt) for generator, source, prompt in datasets(finephrase)} == published


@pytest.mark.parametrize(
    ("student", "parameters"),
    [("0_5b", 483_714_048), ("1_7b", 1_672_071_168), ("2_9b", 2_860_792_320), ("6_2b", 6_162_714_624)],
)
def test_the_students_have_the_published_parameter_counts(finephrase: Study, student: str, parameters: int) -> None:
    assert finephrase.students[student].parameters(128_256) == parameters


@pytest.mark.parametrize("name", NAMES)
def test_an_expanded_study_is_the_study_and_expands_to_itself(tmp_path: Path, name: str) -> None:
    study = read_study(STUDIES / f"{name}.yaml", catalogue())
    path = tmp_path / "expanded.yaml"
    path.write_text(expanded_text(study), encoding="utf-8")
    again = read_study(path, catalogue())
    assert again == study.with_all_runs()
    assert again.student_runs == study.student_runs
    assert expanded_fields(again) == expanded_fields(study)
    assert expanded_text(again) == path.read_text(encoding="utf-8")
    assert not {"defaults", "mixture_grids"} & set(expanded_fields(study))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_entries_does_not_change_what_grids_expand_to(
    tmp_path_factory: pytest.TempPathFactory, finephrase: Study, seed: int
) -> None:
    def shuffle(fields: dict[str, Any]) -> None:
        chance = random.Random(seed)
        for section in ("cells", "mixture_grids", "runs"):
            chance.shuffle(fields[section])
        for entry in [*fields["cells"], *fields["mixture_grids"]]:
            for values in entry.values():
                if isinstance(values, list):
                    chance.shuffle(values)

    study = read(tmp_path_factory.mktemp("study"), shuffle)
    assert study.mixtures == finephrase.mixtures
    assert study.student_runs == finephrase.student_runs
    assert set(datasets(study)) == set(datasets(finephrase))


words = st.text("abc", min_size=1, max_size=3)


@given(
    parts=st.lists(st.tuples(words, words, words), min_size=1, max_size=6, unique=True),
    shares=st.lists(st.integers(1, 100), min_size=1, max_size=6, unique=True),
)
def test_the_weights_of_a_grids_mixtures_sum_to_one(parts: list[tuple[str, str, str]], shares: list[int]) -> None:
    made = [Component(generator=generator, source=source, prompt=prompt) for generator, source, prompt in parts]
    grid = MixtureGrid(
        name="{prompt}_of_{generator}_and_{source}_at_{percent}",
        datasets=("*",),
        mix_in="{source}",
        shares=tuple(share / 100 for share in shares),
    )
    mixtures = grid.mixtures({dataset.name: dataset for dataset in made})
    assert len(mixtures) == len(parts) * len(shares)
    for name, mixture in mixtures.items():
        weights = mixture["components"]
        assert sum(weights.values()) == pytest.approx(1, abs=1e-11)
        percent = int(name.rpartition("_at_")[2])
        assert weights[next(part for part in weights if "/" in part)] == percent / 100


def test_every_mixture_of_the_published_study_has_weights_that_sum_to_one(finephrase: Study) -> None:
    assert all(sum(mixture.weights.values()) == pytest.approx(1) for mixture in finephrase.mixtures.values())


def test_a_share_with_a_fraction_gives_a_name(tmp_path: Path) -> None:
    study = read(tmp_path, lambda f: f["mixture_grids"][1].update(shares=[1 / 8, 0.333]))
    assert {"faq_smollm2_1_7b_at_12_5", "faq_smollm2_1_7b_at_33_3"} <= set(study.mixtures)


def test_a_base_does_not_decay_from_itself(tmp_path: Path) -> None:
    study = read(tmp_path, lambda f: f["runs"][3].update(mixtures=["*_alone"]))
    decays = [run.mixture for run in study.student_runs.values() if run.decay_from]
    assert len(decays) == 9
    assert "fineweb_edu_hq_alone" not in decays


def test_keys_are_names_whatever_yaml_makes_of_them(tmp_path: Path) -> None:
    text = (STUDIES / "demo.yaml").read_text(encoding="utf-8").replace("  nano:", "  1_7:")
    path = tmp_path / "study.yaml"
    for name in ("1_7", "2026", "on", "no", "0x1f", "1e3"):
        path.write_text(text.replace("  1_7:", f"  {name}:"), encoding="utf-8")
        assert set(read_study(path, catalogue()).students) == {name}


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    text = (STUDIES / "demo.yaml").read_text(encoding="utf-8")
    text = text.replace("  readmes_raw:\n", "  readmes_raw: &raw\n")
    own = "    components: {language_reference: 1}\n"
    path = tmp_path / "study.yaml"
    path.write_text(text.replace(f"{own}    tokens: 64_000\n    seed: 0\n", f"    <<: *raw\n{own}"), encoding="utf-8")
    mixture = read_study(path, catalogue()).mixtures["reference_raw"]
    assert (mixture.tokens, dict(mixture.components)) == (64_000, {"language_reference": 1})


def cell(fields: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return fields["cells"][index]


def grid(fields: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return fields["mixture_grids"][index]


def runs(fields: dict[str, Any], index: int = 0) -> dict[str, Any]:
    return fields["runs"][index]


# What is changed in the published study, and what is said of it.
WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a text where a list of prompts belongs": (lambda f: f.update(prompts="faq"), r"prompts: is 'faq'; write a list"),
    "a text where a list of sources belongs": (
        lambda f: (cell(f).pop("source"), cell(f).update(sources="dclm")),
        r"cells\[0\]\.sources: is 'dclm'; must be a list",
    ),
    "a list where one generator belongs": (
        lambda f: cell(f).update(generator=["a"]),
        r"cells\[0\]\.generator: is a list",
    ),
    "one and several generators": (
        lambda f: cell(f).update(generators=["a"]),
        r"cells\[0\]\.generator: cannot be combined with 'generators'",
    ),
    "a cell without a source": (
        lambda f: cell(f).pop("source"),
        r"cells\[0\]: missing field 'source'\. Add it",
    ),
    "a cell without prompts": (lambda f: cell(f).update(prompts=[]), r"cells\[0\]\.prompts: is empty"),
    "a cell in two grids": (
        lambda f: cell(f, 1)["generators"].append("gemma_3_1b"),
        r"cells\[1\]: gemma_3_1b__fineweb",
    ),
    "an unknown generator": (
        lambda f: cell(f).update(generator="gema_3_1b"),
        r"cells\[0\]\.generator: .*mean gemma_3_1b",
    ),
    "an unknown prompt in a grid of four": (
        lambda f: cell(f, 1)["prompts"].append("artcle"),
        r"study\.yaml:[0-9]+: cells\[1\]\.prompts: there is no 'artcle'; did you mean article\?",
    ),
    "a number as a prompt": (
        lambda f: cell(f)["prompts"].append(2026),
        r"cells\[0\]\.prompts\[16\]: is 2026; .*quotes",
    ),
    "defaults that are a list": (
        lambda f: f.update(defaults=[1]),
        r"study\.yaml:[0-9]+: defaults: is a list; write defaults of generators",
    ),
    "defaults of nothing": (
        lambda f: f["defaults"].update(cells={}),
        r"defaults: unknown field 'cells'\. Correct its name or remove it",
    ),
    "a default of another type": (
        lambda f: f["defaults"].update(students={"weight_decay": "much"}),
        r"study\.yaml:[0-9]+: defaults\.students\.weight_decay: is 'much'; must be a number; see",
    ),
    "a misspelt default": (
        lambda f: f["defaults"].update(students={"weight_decai": 0.2}),
        r"study\.yaml:[0-9]+: defaults\.students: unknown field 'weight_decai'\. Correct its name or remove it; see",
    ),
    "a default that 15 generators lack": (
        lambda f: f["defaults"]["generators"].pop("max_tokens"),
        r"generators\.\{gemma_3_1b, .* and 10 more\}: missing field 'max_tokens'\. "
        r"Add it, for example `max_tokens: 1024`; see .*#generators$",
    ),
    "components for all": (
        lambda f: f["defaults"]["mixtures"].update(components={"dclm": 1}),
        r"study\.yaml:[0-9]+: defaults\.mixtures\.components: cannot have a default",
    ),
    "tokens of a grid": (
        lambda f: grid(f).update(tokens=0),
        r"study\.yaml:[0-9]+: mixture_grids\[0\]\.tokens: is 0; must be",
    ),
    "a pattern that names nothing": (
        lambda f: grid(f).update(datasets=["x*"]),
        r"mixture_grids\[0\]\.datasets\[0\]: 'x\*'",
    ),
    "a pattern that is no list": (
        lambda f: grid(f).update(datasets="*"),
        r"mixture_grids\[0\]\.datasets: is '\*'; must",
    ),
    "an unknown field in a name": (
        lambda f: grid(f).update(name="{percent.real}"),
        r"\[0\]\.name: .*contains \{percent\.real\}",
    ),
    "a form in a name": (lambda f: grid(f).update(name="{percent:d}"), r"mixture_grids\[0\]\.name: '\{percent:d\}'"),
    "a field without a name": (
        lambda f: grid(f).update(name="{}"),
        r"mixture_grids\[0\]\.name: .*use only \{generator\}",
    ),
    "an open brace": (lambda f: grid(f).update(name="{prompt"), r"mixture_grids\[0\]\.name: .*expected '\}'"),
    "one name for several": (
        lambda f: grid(f).update(name="all"),
        r"mixture_grids\[0\]\.name: several mixtures would be called 'all'",
    ),
    "a name that is taken": (
        lambda f: f["mixtures"].update(faq_gemma_3_1b_dclm={"components": {"dclm": 1}}),
        r"mixture_grids\[0\]\.name: gives 'faq_gemma_3_1b_dclm', but another mixture has this name",
    ),
    "a name that is too long": (
        lambda f: grid(f).update(name="x" * 50 + "_{prompt}_{generator}"),
        r"\.name: .*64 characters",
    ),
    "no mix-in of that name": (
        lambda f: grid(f).update(mix_in="web"),
        r"study\.yaml:[0-9]+: mixture_grids\[0\]\.mix_in: there is",
    ),
    "a source that many name": (
        lambda f: f["mixtures"].update({name: {"components": {"web": 1}} for name in ("one", "two")}),
        r"study\.yaml:[0-9]+: mixtures\.one\.components\.web: there is no 'web'.*also in mixtures\.two",
    ),
    "a name that no terminal shows": (
        lambda f: f.update(gates={"\x1b[2J": 1}),
        r"gates\.'\\x1b\[2J': there is no",
    ),
    "a dataset as mix-in": (
        lambda f: grid(f).update(mix_in="{generator}__{source}/faq"),
        r"mixture_grids\[0\]\.mix_in: gives",
    ),
    "a mix-in without shares": (lambda f: grid(f).pop("shares"), r"mixture_grids\[0\]: missing field 'shares'"),
    "shares without a mix-in": (
        lambda f: grid(f).pop("mix_in"),
        r"mixture_grids\[0\]\.shares: have no effect without 'mix_in'; add it",
    ),
    "shares that are none": (
        lambda f: grid(f).update(shares=[1.5, float("nan"), 0]),
        r"(?s)has 3 problems:.*shares\[0\]: is 1.5.*shares\[1\]: is nan.*shares\[2\]: is 0",
    ),
    "mixture grids that are no list": (lambda f: f.update(mixture_grids={"a": 1}), "mixture_grids: must be a list"),
    "too many mixtures": (
        lambda f: grid(f).update(shares=[index / 1000 for index in range(1, 300)]),
        r"mixture_grids\[0\]: expands to 26,910 mixtures; a study may have 20,000",
    ),
    "too many runs": (
        lambda f: runs(f, 2).update(seeds={"data": list(range(200)), "model": list(range(200))}),
        "runs: are 320,181 student runs; a study may have 20,000",
    ),
    "runs of nothing": (lambda f: f.update(runs=None), "runs: is empty; write a value, or remove the line"),
    "runs on no mixture": (lambda f: runs(f).update(mixtures=["z*"]), r"runs\[0\]\.mixtures: there is no 'z\*'"),
    "runs of no student": (lambda f: runs(f).update(students=["9b"]), r"runs\[0\]\.students: there is no '9b'"),
    "a run in two grids": (
        lambda f: runs(f, 2).update(seeds={"data": [0], "model": [0]}),
        r"runs\[2\]: fineweb_edu_hq_alone__1_7b__data0_model0, .*: listed in runs\[0\] too; remove one of them",
    ),
    "a seed where seeds belong": (
        lambda f: runs(f, 2).update(seeds={"data": 1}),
        r"(?s)seeds: missing field 'model'.*seeds\.data: ",
    ),
    "half a pair of seeds": (
        lambda f: runs(f, 2).update(seeds=[{"data": 1}]),
        r"study\.yaml:[0-9]+: runs\[2\]\.seeds\[0\]: missing field 'model'",
    ),
    "a decay from no mixture": (lambda f: runs(f, 3).update(decay_from="x"), r"runs\[3\]\.decay_from: there is no 'x'"),
    "a decay without its base": (
        lambda f: runs(f).update(mixtures=["table*"]),
        r"runs\[3\]\.decay_from: fineweb_edu_hq_alone__1_7b__data0_model0 is not a run, but others decay from it",
    ),
    "a decay from itself": (
        lambda f: runs(f, 3)["mixtures"].append("fineweb_edu_hq_alone"),
        r"runs\[3\]\.decay_from: fineweb_edu_hq_alone would decay from itself",
    ),
    "a decay of a student without one": (
        lambda f: f.update(students={"1_7b": {"from": "1_7b", "decay_fraction": 0}}),
        r"runs\[3\]\.decay_from: 1_7b has decay_fraction 0",
    ),
    "a decay on another budget": (
        lambda f: f["mixtures"]["fineweb_edu_hq_alone"].update(tokens=5_000_000),
        r"study\.yaml:[0-9]+: runs\[3\]\.decay_from: faq_.* and 1 more must have the same 'tokens' as .*, 5000000",
    ),
    "a student that nobody knows": (
        lambda f: f["students"].append("9b"),
        r"study\.yaml:[0-9]+: students\.9b\.from: there is no '9b'; did you mean 2_9b\? \(the entries are in",
    ),
    "what trains without mixtures": (
        lambda f: [f.pop(name) for name in ("mixtures", "mixture_grids")],
        r"(?s)has 6 problems:.*tokenizer: there are no mixtures to train on; add 'mixtures', or remove this",
    ),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.slow
def test_a_mistake_is_reported_once_at_the_field_of_the_file(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(StudyError, match=message) as caught:
        read(tmp_path, change)
    assert str(tmp_path / "study.yaml") in str(caught.value)


def test_mistakes_of_all_sections_are_named_at_once(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        cell(fields).update(generator="gema")
        cell(fields, 1).update(prompts="faq")
        grid(fields).update(shares=0.5)
        fields["sequence"] = "long"
        fields["students"] = {"1_7b": {"from": "1_7b", "layers": True}}

    with pytest.raises(StudyError) as caught:
        read(tmp_path, change)
    for field in (
        "cells[0].generator",
        "cells[1].prompts",
        "mixture_grids[0].shares",
        "sequence",
        "students.1_7b.layers",
    ):
        assert re.search(rf"\n  line [0-9]+: {re.escape(field)}: ", str(caught.value))
