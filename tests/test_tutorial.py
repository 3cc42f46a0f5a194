"""The tutorial: each of its commands, in order, on a folder of Parquet files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finephrase_dagster.study.paths import REPOSITORY
from installation import tiny_model

PAGE = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.mark.slow
def test_the_tutorial_ends_with_a_verdict_on_ones_own_text(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts = [text[:1500] for text in list(topics.values())[:12]]
    pq.write_table(
        pa.table({"url": [f"https://example.org/{n}" for n in range(12)], "body": texts}),
        tmp_path / "texts" / "a.parquet",
    )
    home = tmp_path / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    folders = {"FINEPHRASE_DATA": str(tmp_path / "data"), "DAGSTER_HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    output = ""
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "finephrase"
        done = subprocess.run(
            [sys.executable, "-m", "finephrase_dagster.commands.main", *arguments],
            cwd=tmp_path,
            env={**os.environ, **folders},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        output += done.stdout
        if arguments[0] == "init":
            make_smaller(tmp_path / "my_study" / "study.yaml")
    assert re.search(
        r"(yes|no|undecided|no difference that matters)\. (The best|A) mixture with rephrased text, ", output
    )
    assert re.search(r"(faq|key_points)_and_raw +nano +(beats|loses|ties|undecided)", output)
    assert (tmp_path / "my_report" / "report.html").stat().st_size > 100_000


def make_smaller(study: Path) -> None:
    """Let a tiny random model write a few tokens, which no gate accepts, and train and evaluate little."""
    text = study.read_text()
    model = f"{{model: {tiny_model()}, context: 512, max_tokens: 24, engine: {{dtype: float32}}}}"
    text = text.replace("{from: embedded, context: 720, max_tokens: 288}", model)
    gates = "form truncated loops prompt_echo empty_parts length encoding language other_script refusals chat_markup"
    lenient = "".join(f"  {name}: {{blocking: false}}\n" for name in gates.split() if f"  {name}: " not in text)
    text = text.replace("gates:\n", f"gates:\n{lenient}").replace("40_000", "8_192")
    study.write_text(f"{text}\nsequence: 64\nevaluation: {{items: embedded, tasks: [piqa_cf, gsm8k]}}\n")
