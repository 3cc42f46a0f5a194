"""Embedded corpora: real text of every installation, the descriptions of packages and Python's language reference.

Only distributions on the committed list are read, at the versions listed there, so that installing another package
does not change the corpus. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from finephrase_dagster.artifacts.fingerprint import fingerprint, sha256_file
from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, text_flaw
from finephrase_dagster.corpora.reader import ListedReader, Reader
from finephrase_dagster.study.source import SourceSpec

SHORTEST = 200  # characters; shorter descriptions only point to a web page


class EmbeddedSource(SourceSpec):
    """Real text that every installation has; nothing is downloaded."""

    kind: Literal["embedded"]
    corpus: Literal["package_readmes", "language_reference"]

    @property
    def label(self) -> str:
        return "text that every installation has"

    def identity(self, *, requirements: Path) -> dict[str, Any]:
        listed = {"list": sha256_file(requirements)} if self.corpus == "package_readmes" else {}
        return {"read": self.model_dump(mode="json"), **listed}

    def reader(self, *, requirements: Path) -> Reader:
        if self.corpus == "language_reference":
            return ListedReader(read_language_reference, self.corpus)
        listed = sha256_file(requirements) if requirements.is_file() else ""
        return ListedReader(lambda: read_package_readmes(requirements), fingerprint([self.corpus, listed]))


def listed_distributions(requirements: Path) -> dict[str, str]:
    """Return the versions on a list of `name==version` lines by normalised name, sorted.

    Comments, options and lines for other environments are ignored.

    Raises:
        CorpusError: the file does not exist or lists nothing, or a line has no exact version.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CorpusError(f"list of distributions {requirements}: cannot be read: {error.strerror}") from error
    versions: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        entry = line.split("#")[0].strip()
        if not entry or entry.startswith("-"):
            continue
        try:
            wanted = Requirement(entry)
        except InvalidRequirement as error:
            raise CorpusError(
                f"{requirements}:{number}: {entry!r} is not a requirement; write name==version"
            ) from error
        if wanted.marker is not None and not wanted.marker.evaluate():
            continue
        exact = [clause.version for clause in wanted.specifier if clause.operator == "=="]
        if len(exact) != 1 or len(wanted.specifier) != 1 or exact[0].endswith("*"):
            raise CorpusError(f"{requirements}:{number}: {entry!r} names no exact version; write name==version")
        versions[canonicalize_name(wanted.name)] = exact[0]
    if not versions:
        raise CorpusError(f"list of distributions {requirements}: lists none; write name==version lines")
    return dict(sorted(versions.items()))


def read_package_readmes(requirements: Path) -> Iterator[Document | Dropped]:
    """Yield the long descriptions of the listed distributions, sorted by name.

    Raises:
        CorpusError: a listed distribution is not installed, or its version is not the listed one.
    """
    from packaging.version import Version

    for name, version in listed_distributions(requirements).items():
        try:
            fields = metadata.metadata(name)
        except metadata.PackageNotFoundError as error:
            raise CorpusError(
                f"package_readmes: {name}=={version} is listed in {requirements} but not installed; run `make`"
            ) from error
        # A build for one kind of machine has a local label ("2.13.0+cpu"); the list has the release.
        found, listed = Version(fields["Version"]), Version(version)
        if listed not in (found, Version(found.public)):
            raise CorpusError(
                f"package_readmes: {name} is installed at {found}, not at {version} "
                f"as {requirements} lists it; run `make`"
            )
        # If a field is missing, one library that may read this returns None and another raises.
        described = "Description" in fields
        text = fields["Description"].strip() if described else ""
        flaw = text_flaw(text)
        reason = "no description" if not text else flaw and flaw.reason
        if reason is None and len(text) < SHORTEST:
            reason = f"under {SHORTEST} characters"
        if reason is not None:
            yield Dropped(source=name, reason=reason)
        else:
            yield Document(id=f"package_readmes/{name}", text=text, source=name)


def read_language_reference() -> Iterator[Document | Dropped]:
    """Yield the topics of Python's language reference, sorted by name."""
    from pydoc_data.topics import topics

    for topic, text in sorted(topics.items()):
        if flaw := text_flaw(text):
            yield Dropped(source=topic, reason=flaw.reason)
        else:
            yield Document(id=f"language_reference/{topic}", text=text.strip(), source=topic)
