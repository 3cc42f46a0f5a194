"""Study files: valid ones load, wrong ones are refused with the file, the field and what to write."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.catalogue import catalogue, read_lineage
from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.kinds import __path__ as kind_folders
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.study.file import StudyError, read_study
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.study.prompt import PromptError
from finephrase_dagster.study.spec import Study

DEMO = REPOSITORY / "studies" / "demo.yaml"
FIELDS: dict[str, Any] = yaml.safe_load(DEMO.read_text(encoding="utf-8"))


def written(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    fields = copy.deepcopy(FIELDS)
    change(fields)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return path


def test_the_demo_study_lists_six_mixtures_and_twelve_students() -> None:
    study = read_study(DEMO, catalogue())
    assert len(study.mixtures) == 6
    assert len(study.student_runs) == 12
    assert study.prompts == ("faq", "math", "table", "tutorial")
    assert next(iter(study.student_runs)) == "readmes_raw__nano__data0_model0"


def test_specs_are_frozen() -> None:
    study = read_study(DEMO, catalogue())
    with pytest.raises(ValueError, match="frozen"):
        study.mixtures["readmes_raw"].tokens = 1  # type: ignore[misc]


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "an unknown prompt": (lambda f: f["cells"][0].update(prompts=["poem"]), r"cells\[0\]\.prompts: there is no 'poem'"),
    "a prompt listed twice": (lambda f: f["prompts"].append("faq"), "prompts: faq is listed more than once"),
    "a cell listed twice": (lambda f: f["cells"].append(f["cells"][0]), r"cells\[3\]: .* is listed more than once"),
    "an unknown source": (lambda f: f["cells"][0].update(source="web"), r"cells\[0\]\.source: there is no 'web'"),
    "an unknown dataset": (
        lambda f: f["mixtures"]["readmes_raw"]["components"].update(web=1),
        "mixtures.readmes_raw.components.web: there is no 'web'",
    ),
    "a weight of zero": (
        lambda f: f["mixtures"]["readmes_raw"]["components"].update(package_readmes=0),
        "mixtures.readmes_raw.components.package_readmes: .* greater than 0",
    ),
    "a weight that gets no window": (
        lambda f: f["mixtures"]["faq_and_raw"]["components"].update(package_readmes=1e6),
        "rephraser__package_readmes/faq: gets none of the 250 windows of 256 tokens; raise its weight",
    ),
    "a final rate above the rate": (
        lambda f: f["students"]["nano"].update(final_learning_rate=1),
        "students.nano: final_learning_rate 1 is above learning_rate 0.002, from which it decays; lower it",
    ),
    "a decay with nothing before it": (
        lambda f: (
            f["students"]["nano"].update(warmup_fraction=0, decay_fraction=1),
            f.update(
                runs=[
                    {"mixtures": ["readmes_raw"], "students": ["nano"]},
                    {"mixtures": ["faq_and_raw"], "students": ["nano"], "decay_from": "readmes_raw"},
                ]
            ),
        ),
        r"runs\[1\]\.decay_from: nano has decay_fraction 1 and thus nothing before its decay; lower it",
    ),
    "a cell that regenerates what it draws once": (
        lambda f: f["cells"][0].update(on_failure="regenerate", rollouts=1),
        r"cells\[0\]\.rollouts: is 1, but 'on_failure: regenerate' draws failing rows again; raise it or remove it",
    ),
    "a missing field": (
        lambda f: f.pop("description"),
        r"yaml: missing field 'description' \(the question that the study answers\)\. Add it, for example "
        r"`description: .*`; "
        r"see docs/study-file\.md#description$",
    ),
    "an unknown gate": (
        lambda f: f["gates"].update(commen_opening=0.5),
        "gates.commen_opening: there is no 'commen_opening'; did you mean common_opening?",
    ),
    "an unknown setting of a gate": (
        lambda f: f["gates"].update(common_opening={"letters": 5}),
        "gates.common_opening.letters: there is no 'letters'; known: threshold, characters",
    ),
    "a threshold above 1": (lambda f: f["gates"].update(form=1.5), "gates.form: is 1.5; must be a share, from 0 to 1"),
    "a threshold in words": (lambda f: f["gates"].update(form="high"), "gates.form: is 'high'; must be a share"),
    "a threshold that is true": (lambda f: f["gates"].update(form=True), "gates.form: is true; must be a share"),
    "a setting that must be a whole number": (
        lambda f: f["gates"].update(common_opening={"characters": 2.5}),
        "gates.common_opening.characters: is 2.5; must be a whole number, at least 1",
    ),
    "a list of gates": (lambda f: f.update(gates=["form"]), "gates: is a list; must be fields"),
    "a misspelt field": (lambda f: f.update(seads=[]), r"unknown field 'seads'\. Did you mean 'seeds'\?"),
    "a misspelt field of an entry": (
        lambda f: f["students"]["nano"].update(layer=2),
        r"students\.nano: unknown field 'layer'\. Did you mean 'layers'\?",
    ),
    "a misspelt field of a source": (
        lambda f: f["sources"].update(package_readmes={"kind": "files", "path": ["in.jsonl"]}),
        r"sources\.package_readmes: unknown field 'path'\. Did you mean 'paths'\?",
    ),
    "a field of another kind of source": (
        lambda f: f["sources"]["package_readmes"].update(path=["in.jsonl"]),
        r"sources\.package_readmes: unknown field 'path'\. Correct its name or remove it",
    ),
    "a misspelt field of an entry's field": (
        lambda f: f["generators"]["rephraser"].update(sampling={"temperatur": 1}),
        r"generators\.rephraser\.sampling: unknown field 'temperatur'\. Did you mean 'temperature'\?",
    ),
    "a held-out task that is not evaluated": (
        lambda f: f["evaluation"].update(held_out=["gsm8k", "pica_cf"]),
        r"evaluation\.held_out\[1\]: is not evaluated: there is no 'pica_cf'; did you mean piqa_cf",
    ),
    "a held-out task listed twice": (
        lambda f: f["evaluation"].update(held_out=["gsm8k", "gsm8k"]),
        r"evaluation\.held_out: gsm8k is listed more than once",
    ),
    "nothing left to choose by": (
        lambda f: f["evaluation"].update(tasks=["gsm8k", "arc_cf:challenge"], held_out=["gsm8k"]),
        r"evaluation\.held_out: holds out every task that counts for a mean; keep one or more",
    ),
    "an unknown task": (lambda f: f["evaluation"].update(tasks=["chess"]), "evaluation.tasks"),
    "a name that leaves the folder": (lambda f: f["mixtures"].update({"../up": f["mixtures"]["readmes_raw"]}), "../up"),
    "a model without a revision": (
        lambda f: f["generators"]["rephraser"].update(model="HuggingFaceTB/SmolLM2-135M-Instruct"),
        "has no revision; write HuggingFaceTB/SmolLM2-135M-Instruct@<commit>",
    ),
    "an answer longer than the context": (
        lambda f: f["generators"]["rephraser"].update(max_tokens=4096),
        "leaves no room for a prompt",
    ),
    "heads that do not divide": (lambda f: f["students"]["nano"].update(heads=3), "must be an even multiple of heads"),
    "a generator that is to be trained": (
        lambda f: f["generators"]["rephraser"].update(embedded={"sources": ["package_readmes"]}),
        "generators.rephraser: unknown field 'embedded'",
    ),
    "a number of seeds": (
        lambda f: f.update(seeds=3),
        r"seeds: is 3; must be a list .*, for example `seeds: \[\{data: 0, model: 0\}, \{data: 1, model: 1\}\]`",
    ),
    "seeds without names": (lambda f: f.update(seeds=[1, 2]), r"seeds\[0\]: is 1; .*for example `seeds: \[\{data: 0, "),
    "no seeds": (lambda f: f.update(seeds=[]), "seeds"),
    "text where a number belongs": (lambda f: f.update(sequence="long"), "sequence: is 'long'; must be a whole number"),
    "true where a number belongs": (
        lambda f: f["students"]["nano"].update(layers=True),
        "students.nano.layers: is true",
    ),
    "no finite number": (
        lambda f: f["students"]["nano"].update(learning_rate=float("inf")),
        "students.nano.learning_rate: is inf; must be a finite number",
    ),
    "an endless number": (lambda f: f["students"]["nano"].update(ffn=10**30), "students.nano.ffn: has a number above"),
    "a weight that is none": (
        lambda f: f["mixtures"]["readmes_raw"]["components"].update(package_readmes=float("nan")),
        "mixtures.readmes_raw.components.package_readmes: is nan; must be a finite number",
    ),
    "a seed that no generator of numbers takes": (
        lambda f: f["seeds"].append({"data": 2**32, "model": 0}),
        r"seeds\[2\]\.data: is 4294967296; must be less than",
    ),
    "a prompt without a file": (
        lambda f: f["prompts"].append("poem"),
        r"prompts\[4\]: prompt 'poem' has no file",
    ),
    "a number as a prompt": (lambda f: f["prompts"].append(2026), r"prompts\[4\]: is 2026; write the name in quotes"),
    "a section of nothing": (
        lambda f: f.update(students=None),
        "students: is empty; write a value, or remove the line",
    ),
    "a kind that is none": (
        lambda f: f["sources"]["package_readmes"].update(kind="web"),
        "sources.package_readmes.kind: there is no 'web'; known: embedded, files, hub",
    ),
    "a source without a kind": (
        lambda f: f["sources"]["package_readmes"].pop("kind"),
        "sources.package_readmes: missing field 'kind'. Add it; see docs/study-file.md#sources",
    ),
    "a list where fields belong": (lambda f: f.update(tokenizer=["embedded"]), "tokenizer: is a list; must be fields"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_study_names_file_field_and_remedy(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    path = written(tmp_path, change)
    with pytest.raises(StudyError, match=message) as caught:
        read_study(path, catalogue())
    assert str(path) in str(caught.value)


def test_the_docs_have_a_heading_for_every_field_that_a_message_refers_to() -> None:
    headings = re.findall(r"^## (\w+)$", (REPOSITORY / "docs" / "study-file.md").read_text(), re.MULTILINE)
    assert {*Study.model_fields, "mixture_grids", "defaults"} - {"prompt_files"} <= set(headings)


def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = DEMO.read_text(encoding="utf-8").replace("64_000", "64e3").replace("2.0e-3", "2e-3")
    path.write_text(text, encoding="utf-8")
    assert read_study(path, catalogue()) == read_study(DEMO, catalogue())


def test_fields_with_defaults_may_be_left_out(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["evaluation"].update(tasks=list(catalogue().tasks), shots=3, samples=1000)
        fields["generators"]["rephraser"]["sampling"]["seed"] = 0
        fields["mixtures"]["readmes_raw"]["seed"] = 0
        fields["students"]["nano"] |= {"weight_decay": 0.1, "document_masking": True}

    assert read_study(written(tmp_path, change), catalogue()) == read_study(DEMO, catalogue())


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["sequence"] = 0
        fields["seads"] = 1

    with pytest.raises(StudyError, match=r"study\.yaml has 2 problems:"):
        read_study(written(tmp_path, change), catalogue())


NOT_YAML = {
    "nothing": ("", "has no fields"),
    "a list": ("- a list", "has no fields"),
    "an open bracket": (
        "name: [",
        r"study\.yaml:1: not valid YAML: .*; correct line 1, or name another file with --study$",
    ),
    "a name twice": ("name: a\nname: b\n", r"study\.yaml:2: .*'name' is defined twice"),
    "a tab": ("\ttabs: 1", r"study\.yaml:1: not valid YAML"),
    "two documents": ("a: 1\n---\nb: 1\n", "another document"),
    "an unknown alias": ("a: *b", r"study\.yaml:1: .*undefined alias 'b'"),
    "an alias of itself": ("a: &a {b: *a}", "nested more than 20 levels deep"),
    "a list as a name": ("[a]: 1", r"study\.yaml:1: .*a name must be plain text"),
    "deep nesting": (f"a: {'[' * 50}{']' * 50}", "nested more than 20 levels deep"),
    "endless nesting": (f"a: {'[' * 5000}{']' * 5000}", "nested more than 20 levels deep"),
    "a billion values": (
        "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "has more than 25,000 names and values",
    ),
    "an object": ("a: !!python/object:os.system {}", r"study\.yaml:1: .*the tag .* cannot be used here"),
    "a tag that lies": ("a: !!bool maybe", r"study\.yaml:1: .*the tag .* cannot be used here"),
    "too many digits": (f"a: 1{'0' * 5000}", r"study\.yaml:1: .* is a number beyond what a computer can hold"),
    "a control character": ("a: 1\nb: \x07", r"study\.yaml:2: .*special characters"),
}


@pytest.mark.parametrize("case", NOT_YAML)
def test_a_file_that_is_not_a_study_is_refused(tmp_path: Path, case: str) -> None:
    text, message = NOT_YAML[case]
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=message) as caught:
        read_study(path, catalogue())
    assert str(path) in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    folder, latin, large = tmp_path / "folder", tmp_path / "latin.yaml", tmp_path / "large.yaml"
    folder.mkdir()
    latin.write_bytes(b"name: demo\ndescription: caf\xe9\n")
    large.write_bytes(b"# \n" * 400_000)
    for path, message in {
        folder: "is a folder; name a file in it",
        latin: "latin.yaml:2: is not UTF-8; save the file as UTF-8",
        large: "is larger than 1 MiB",
        latin / "study.yaml": "cannot be read .*check the path and its permissions",
        tmp_path / ("x" * 300): "cannot be read .*File name too long",
        tmp_path / "nul\0": "cannot be read",
    }.items():
        with pytest.raises(StudyError, match=message) as caught:
            read_study(path, catalogue())
        assert str(path) in str(caught.value)


def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: demo")
    path.chmod(0)
    root = os.geteuid()
    if root == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(StudyError, match="Permission denied"):
            read_study(path, catalogue())
    finally:
        os.seteuid(root)


def test_a_folder_of_prompts_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="nowhere: no such folder; create it"):
        catalogue(prompts=tmp_path / "nowhere")


def test_gates_that_a_study_leaves_out_have_their_defaults(tmp_path: Path) -> None:
    defaults = catalogue().gates
    assert read_study(written(tmp_path, lambda f: f.pop("gates")), catalogue()).gates == defaults
    settings = read_study(written(tmp_path, lambda f: f.update(gates={"form": 0.5})), catalogue()).gates
    assert settings == {**defaults, "form": {**defaults["form"], "threshold": 0.5}}
    settings = read_study(
        written(tmp_path, lambda f: f.update(gates={"common_opening": {"characters": 40}})), catalogue()
    ).gates
    assert settings["common_opening"] == {**defaults["common_opening"], "characters": 40, "forms": {}}


def test_gates_of_a_cell_and_of_a_prompt_replace_those_of_the_study(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["gates"] = {"form": 0.9, "faq": {"form": 0.5, "loops": {"blocking": False}}}
        fields["cells"][0] |= {"gates": {"form": 0.7, "table": {"form": 0.1}}, "rollouts": 3, "guided": False}

    study = read_study(written(tmp_path, change), catalogue())
    first, *others = study.cells
    assert (study.is_guided(first), study.generators[first.generator].guided) == (False, True)
    assert study.rollouts_of(first) == (3, "first_passing")
    again = first.model_copy(update={"on_failure": "regenerate"})
    assert study.rollouts_of(again) == (3, "first_passing")
    assert study.rollouts_of(again.model_copy(update={"rollouts": None})) == (4, "first_passing")
    thresholds = {
        (cell, prompt): study.gates_for(cell, prompt, None)["form"]["threshold"]
        for cell in study.cells
        for prompt in ("faq", "table", "math")
    }
    assert [thresholds[first, prompt] for prompt in ("faq", "table", "math")] == [0.7, 0.1, 0.7]
    assert all(thresholds[other, "faq"] == 0.5 and thresholds[other, "math"] == 0.9 for other in others)
    assert not study.gates_for(first, "faq", None)["loops"]["blocking"]
    assert study.gates_for(first, "math", None)["loops"]["blocking"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["gates"].update(faq={"frm": 1}), "gates.faq.frm: there is no 'frm'; did you mean form"),
        (lambda f: f["gates"].update(sonnet={"form": 1}), "gates.sonnet: there is no 'sonnet'"),
        (lambda f: f["gates"].update(faq=0.5), "gates.faq: is 0.5; must be settings by gate"),
        (lambda f: f["gates"].update(form={"version": 9}), "gates.form.version: cannot be set; remove it"),
        (lambda f: f["cells"][0].update(gates={"form": 2}), r"cells\[0\].gates.form: is 2; must be a share"),
        (lambda f: f["cells"][0].update(gates={"continue": {"form": 1}}), r"cells\[0\].gates: there is no 'continue'"),
        (lambda f: f["cells"][0].update(rollouts=0), r"cells\[0\].rollouts: is 0; must be greater than or equal to 1"),
        (
            lambda f: f["mixtures"]["faq_and_raw"].update(despite_audits=True),
            "mixtures.faq_and_raw.despite_audits: is true; write the reason, such as '",
        ),
        (lambda f: f["mixtures"]["faq_and_raw"].update(despite_audits=" "), "write the reason"),
    ],
)
def test_wrong_gates_and_overrides_without_a_reason_are_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StudyError, match=message):
        read_study(written(tmp_path, change), catalogue())


TOY_KIND = """
from typing import Any, Literal

from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.reader import ListedReader
from finephrase_dagster.study.source import SourceSpec


class ToySource(SourceSpec):
    kind: Literal["toy"]
    words: tuple[str, ...]

    @property
    def label(self) -> str:
        return "words that the study file lists"

    def identity(self, **_: Any) -> dict[str, Any]:
        return {"words": self.words}

    def reader(self, **_: Any) -> ListedReader:
        return ListedReader(lambda: [Document(id=word, text=word, source="toy") for word in self.words], "toy")
"""


@pytest.mark.slow
def test_assembling_the_catalogue_imports_no_heavy_library() -> None:
    code = (
        "import sys; from finephrase_dagster.catalogue import catalogue; catalogue(); "
        "print([name for name in ('torch', 'transformers', 'datasets', 'lighteval', 'vllm', 'dagster') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_file_in_the_folder_of_kinds_adds_a_kind_of_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "toy.py").write_text(TOY_KIND, encoding="utf-8")
    monkeypatch.setattr("finephrase_dagster.corpora.kinds.__path__", [*kind_folders, str(tmp_path / "kinds")])
    toy = {"kind": "toy", "words": ["one", "two", "three"], "limit": 2}
    path = written(tmp_path, lambda f: f["sources"].update(package_readmes=toy))
    lineage = read_lineage(Paths(data=tmp_path / "data", study=path))
    assert lineage.source("package_readmes").recipe["words"] == ("one", "two", "three")
    source = lineage.study.sources["package_readmes"]
    assert (source.label, source.page, source.selection) == ("words that the study file lists", None, "the first 2")
    reader = read_source(source, "package_readmes", requirements=lineage.paths.requirements)
    assert [row.id for row in reader.rows() if isinstance(row, Document)] == ["one", "two"]
    with pytest.raises(StudyError, match=r"sources\.package_readmes: missing field 'words'\. Add it"):
        read_study(written(tmp_path, lambda f: f["sources"].update(package_readmes={"kind": "toy"})), catalogue())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_any_line_end_are_accepted(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(DEMO.read_text(encoding="utf-8").replace("\n", end).encode(encoding))
    assert read_study(path, catalogue()) == read_study(DEMO, catalogue())


def test_a_mixture_defined_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(DEMO.read_text().replace("  reference_raw:", "  readmes_raw:"))
    with pytest.raises(StudyError, match=r"study.yaml:\d+: .*'readmes_raw' is defined twice"):
        read_study(path, catalogue())


def test_a_missing_study_lists_those_there_are() -> None:
    with pytest.raises(
        StudyError, match=r"no such study file; name one with --study or FINEPHRASE_STUDY, such as studies/demo\.yaml"
    ):
        read_study(DEMO.with_name("nothing.yaml"), catalogue())


STUDIES = {
    name: yaml.safe_load(DEMO.with_name(f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("demo", "finephrase", "production")
}
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=8)
anything = st.recursive(leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner))


def spots(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in fields, from the outside in."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*above, key)
        yield from spots(inner, (*above, key))


def at(fields: Any, spot: tuple[Any, ...]) -> Any:
    for key in spot:
        fields = fields[key]
    return fields


def broken(fields: dict[str, Any], draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Breaks fields at one place in one of the ways that happen."""
    places = st.sampled_from(list(spots(fields)))
    spot = draw(places)
    holder, key = at(fields, spot[:-1]), spot[-1]
    way = draw(st.sampled_from(["delete", "replace", "rename", "repeat", "swap", "insert", "wrap"]))
    if way == "delete":
        del holder[key]
    elif way == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from([f"{key}s", f"{key}_2", "", "Key", "from"]))] = holder.pop(key)
    elif way == "repeat" and isinstance(holder, list):
        holder.append(holder[key])
    elif way == "swap":
        other = draw(places)
        one, two = copy.deepcopy(holder[key]), copy.deepcopy(at(fields, other))
        at(fields, other[:-1])[other[-1]] = one
        if spot[:-1] != other and other != spot[: len(other)]:
            holder[key] = two
    elif way == "insert" and isinstance(holder, list):
        holder.insert(key, draw(st.sampled_from(["unknown", "*", "gemma_3_1b", 2026, "{prompt}"])))
    elif way == "insert":
        holder[draw(st.sampled_from(["unknown", "*", "gemma_3_1b", "dclm/faq"]))] = draw(leaves)
    elif way == "wrap":
        holder[key] = draw(st.sampled_from([[holder[key]], {"all": holder[key]}, str(holder[key])]))
    else:
        holder[key] = draw(anything)


@pytest.mark.slow
@settings(max_examples=120)
@given(name=st.sampled_from(sorted(STUDIES)), times=st.integers(1, 3), data=st.data())
def test_however_a_study_is_broken_the_answer_is_a_study_or_a_study_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, times: int, data: st.DataObject
) -> None:
    fields = copy.deepcopy(STUDIES[name])
    for _ in range(times):
        broken(fields, data.draw)
        if not fields:
            break
    path = tmp_path_factory.getbasetemp() / "broken.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    try:
        assert isinstance(read_study(path, catalogue()), Study)
    except StudyError as error:
        assert str(path) in str(error)
        assert len(str(error).splitlines()) < 60


@pytest.mark.slow
@given(lines=st.lists(st.integers(0, 100), min_size=1, max_size=4), way=st.sampled_from(["drop", "repeat", "indent"]))
def test_however_the_text_is_broken_the_answer_is_a_study_or_a_study_error(
    tmp_path_factory: pytest.TempPathFactory, lines: list[int], way: str
) -> None:
    text = DEMO.read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line < len(text):
            text[line : line + 1] = {"drop": [], "repeat": [text[line]] * 2, "indent": [f"  {text[line]}"]}[way]
    path = tmp_path_factory.getbasetemp() / "broken.yaml"
    path.write_text("\n".join(text), encoding="utf-8")
    try:
        assert isinstance(read_study(path, catalogue()), Study)
    except StudyError as error:
        assert str(path) in str(error)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(["package_readmes", "language_reference"]), st.floats(1, 100), min_size=1))
def test_weights_are_shares(components: dict[str, float]) -> None:
    fields = copy.deepcopy(FIELDS)
    fields["mixtures"]["readmes_raw"]["components"] = components
    weights = Study.model_validate(fields, context=catalogue()).mixtures["readmes_raw"].weights
    assert sum(weights.values()) == pytest.approx(1)


def test_all_mistakes_are_listed_at_once_each_with_its_line_and_where_to_read_on(tmp_path: Path) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["gates"]["lop"] = 0.3
        fields["evaluation"] |= {"shots": "many", "tasks": ["gsm8k", "foo"]}
        fields["mixtures"]["readmes_raw"]["tokens"] = -1
        fields["mixtures"]["readmes_raw"]["components"] = {"package_readme": 1}
        fields["mixtures"]["faq_and_raw"]["components"]["package_readmes"] = -4
        fields["cells"][0]["source"] = "nowhere"

    with pytest.raises(StudyError) as caught:
        read_study(written(tmp_path, change), catalogue())
    first, *lines = str(caught.value).splitlines()
    assert "has 7 problems" in first
    assert all(re.fullmatch(r"  line \d+: \w.*[;?] [Ss]ee docs/study-file\.md#\w+", line) for line in lines), lines
    assert any("is 'many'; must be a whole number, for example `shots: 3`" in line for line in lines)
    assert any("for example `tokens: 80000`" in line for line in lines)
    assert any("no 'package_readme'; did you mean package_readmes?" in line for line in lines)
    assert any("is -4; must be greater than 0" in line for line in lines)
