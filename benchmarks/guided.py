"""Cost of grammars: output tokens/s of the packaged generator, guided by the grammars of four prompts and free.

Both ways get the same documents and prompts on one engine, one after the other.

    python benchmarks/guided.py [--documents 16]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from random_model import documents, engine

from finephrase_dagster.artifacts.recipe import dataset_recipe, resolve_sampling
from finephrase_dagster.audit.forms import has_form
from finephrase_dagster.generators.packaged import write_packaged_model
from finephrase_dagster.rephrase.engine import Engine
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.study.generator import Sampling
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompts

PROMPTS = ("faq", "math", "table", "tutorial")
CONTEXT, MAX_TOKENS, DOCUMENT_TOKENS = 1024, 256, 300


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        write_packaged_model(root / "model")
        rows = [vars(one) for one in documents(arguments.documents, tokens=DOCUMENT_TOKENS)]
        pq.write_table(pa.Table.from_pylist(rows), root / "documents.parquet")
        with engine(root / "model", root / "engine.log") as server:
            figures = {way: measure(root / way, server, guided=way == "guided") for way in ("guided", "free")}
    print(json.dumps({"documents": arguments.documents, **figures}))


def measure(output: Path, server: Engine, *, guided: bool) -> dict[str, Any]:
    """Return speed and forms of one way."""
    prompts = read_prompts(SHIPPED / "prompts", PROMPTS)
    sampling = resolve_sampling(Sampling(temperature=0.7, top_p=0.95), {})
    targets = {
        name: Target(
            folder=str(output / name),
            recipe=dataset_recipe(
                rows=None,
                prompt=prompt,
                model=server.model,
                engine={},
                sampling=sampling,
                context=CONTEXT,
                max_tokens=MAX_TOKENS,
                guided=guided,
            ),
        )
        for name, prompt in prompts.items()
    }
    job = RephraseJob(
        files=(str(output.parent / "documents.parquet"),),
        prompts=prompts,
        targets=targets,
        model=server.model,
        tokenizer=str(output.parent / "model"),
    )
    manifests = execute(job, engines=lambda: contextlib.nullcontext([server]))
    run = next(iter(manifests.values()))["run"]
    kept = [
        has_form(prompts[name].check, text)
        for name in PROMPTS
        for file in sorted((output / name).glob("part-*.parquet"))
        for text in pq.read_table(file)["text"].to_pylist()
    ]
    return {"tokens_per_second": run["tokens_per_second"], "form": round(sum(kept) / len(kept), 3)}


if __name__ == "__main__":
    main()
