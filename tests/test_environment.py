"""Environment variables: the documentation lists every one that the code reads."""

from __future__ import annotations

import re

from finephrase_dagster.study.paths import REPOSITORY


def test_the_documentation_lists_every_environment_variable_of_the_code() -> None:
    used: set[str] = set()
    for top in ("finephrase_dagster", "assets", "resources"):
        for path in (REPOSITORY / top).rglob("*.py"):
            used |= set(re.findall(r"FINEPHRASE_[A-Z_]+", path.read_text(encoding="utf-8")))
    page = (REPOSITORY / "docs" / "operating.md").read_text(encoding="utf-8")
    assert len(used) > 15
    assert sorted(name for name in used if name not in page) == []
