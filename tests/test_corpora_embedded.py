"""The embedded corpora."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from corpora_parts import LIST, documents, read, reasons
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.kinds.embedded import EmbeddedSource, listed_distributions


def installed(*names: str) -> str:
    return "".join(f"{name}=={metadata.version(name)}\n" for name in names)


def test_package_readmes_are_the_long_descriptions_of_the_listed_distributions() -> None:
    rows = read(EmbeddedSource(kind="embedded", corpus="package_readmes"))
    kept = documents(rows)
    assert len(rows) == len(listed_distributions(LIST))
    assert len(kept) > 250
    assert set(reasons(rows)) <= {"no description", "under 200 characters"}
    by_id = {document.id: document for document in kept}
    assert "pydantic" in by_id["package_readmes/pydantic"].text.lower()
    assert all(len(document.text) >= 200 for document in kept)
    assert [document.id for document in kept] == sorted(by_id)


@pytest.mark.slow
def test_the_corpus_is_the_same_whichever_library_reads_the_distributions() -> None:
    """The backport of importlib.metadata, once imported, reads them in the standard library's place, and stricter."""
    reading = (
        "import sys; from pathlib import Path\n"
        "from finephrase_dagster.corpora.kinds.embedded import read_package_readmes\n"
        "print(hash(tuple(map(repr, read_package_readmes(Path(sys.argv[1]))))))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", before + reading, str(LIST)],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for before in ("", "import importlib_metadata; ")
    ]
    assert said[0] == said[1]


def test_a_distribution_that_the_list_does_not_name_changes_nothing(tmp_path: Path) -> None:
    short = tmp_path / "list.txt"
    short.write_text(f"# comment\n--find-links somewhere\n{installed('pytest', 'PyYAML')}\n")
    rows = read(EmbeddedSource(kind="embedded", corpus="package_readmes"), short)
    assert [row.id for row in documents(rows)] == ["package_readmes/pytest", "package_readmes/pyyaml"]


def test_a_line_whose_marker_does_not_hold_is_passed_over(tmp_path: Path) -> None:
    marked = tmp_path / "list.txt"
    marked.write_text(f"absent==1 ; python_version < '3'\n{installed('pytest')}")
    assert list(listed_distributions(marked)) == ["pytest"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no-such-distribution==1.0", r"no-such-distribution==1.0 is listed in .* but not installed; run `make`"),
        ("pytest==0.1", r"pytest is installed at .*, not at 0.1 .*run `make`"),
        ("pytest>=1", r":1: 'pytest>=1' names no exact version"),
        ("pytest==1.*", r":1: 'pytest==1\.\*' names no exact version"),
        ("?", r":1: '\?' is not a requirement"),
        ("", r"lists none"),
    ],
)
def test_a_list_without_exact_versions_is_refused_with_what_to_write(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(CorpusError, match=said):
        read(EmbeddedSource(kind="embedded", corpus="package_readmes"), path)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"source tried: .*absent.txt: cannot be read"):
        read(EmbeddedSource(kind="embedded", corpus="package_readmes"), tmp_path / "absent.txt")


def test_the_language_reference_has_a_document_a_topic() -> None:
    kept = documents(read(EmbeddedSource(kind="embedded", corpus="language_reference")))
    assert len(kept) > 70
    assert "language_reference/lists" in {document.id for document in kept}
    assert kept == documents(read(EmbeddedSource(kind="embedded", corpus="language_reference")))
