"""Cost of grammars: output tokens/s of the packaged generator, guided by the grammars of four prompts and free.

Both ways get the same documents and prompts on one engine, in turns: guided, free, free, guided. The documents of each
turn begin differently, so that none is served from the prefix cache. The processor time is that of all processes of the
engine; unlike tokens/s it depends little on what else the machine does.

    python benchmarks/guided.py [--documents 8]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from random_model import documents, engine

from finephrase_dagster.artifacts.recipe import dataset_recipe
from finephrase_dagster.artifacts.sampling import resolve_sampling
from finephrase_dagster.audit.forms import has_form
from finephrase_dagster.generators.packaged import write_packaged_model
from finephrase_dagster.rephrase.engine import Engine
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.study.generator import Sampling
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompts

PROMPTS = ("faq", "math", "table", "tutorial")
CONTEXT, MAX_TOKENS, DOCUMENT_TOKENS = 1024, 256, 300
TURNS = ("guided", "free", "free", "guided")


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        write_packaged_model(root / "model")
        turns: dict[str, list[dict[str, float]]] = {"guided": [], "free": []}
        with engine(root / "model", root / "engine.log") as server:
            for turn, way in enumerate(TURNS):
                folder = root / f"turn-{turn}"
                folder.mkdir()
                rows = [
                    {"id": one.id, "text": f"Turn {turn}. {one.text}"}
                    for one in documents(arguments.documents, tokens=DOCUMENT_TOKENS)
                ]
                pq.write_table(pa.Table.from_pylist(rows), folder / "documents.parquet")
                turns[way].append(measure(folder, server, model=root / "model", guided=way == "guided"))
    figures = {way: summed(of_way) for way, of_way in turns.items()}
    ratio = figures["guided"]["processor_ms_per_token"] / figures["free"]["processor_ms_per_token"]
    print(json.dumps({**figures, "processor_time_ratio": round(ratio, 3), "documents": arguments.documents}))


def summed(turns: list[dict[str, float]]) -> dict[str, float]:
    """Return the figures of a way from those of its turns."""
    total = {name: sum(turn[name] for turn in turns) for name in turns[0]}
    return {
        "tokens": total["tokens"],
        "tokens_per_second": round(total["tokens"] / total["seconds"], 1),
        "processor_ms_per_token": round(1000 * total["processor_seconds"] / total["tokens"], 2),
        "form": round(total["with_form"] / total["completions"], 3),
    }


def processor_seconds() -> float:
    """Return the processor time of the engine, whose processes are the only children of this one."""
    times = [one.cpu_times() for one in psutil.Process().children(recursive=True)]
    return sum(time.user + time.system for time in times)


def measure(output: Path, server: Engine, *, model: Path, guided: bool) -> dict[str, float]:
    """Rephrase the documents in a folder; return tokens, seconds, and how many completions have the form."""
    prompts = read_prompts(SHIPPED / "prompts", PROMPTS)
    sampling = resolve_sampling(Sampling(temperature=0.7, top_k=20), {})
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
        files=(str(output / "documents.parquet"),),
        prompts=prompts,
        targets=targets,
        model=server.model,
        tokenizer=str(model),
    )
    before = processor_seconds()
    manifests = execute(job, engines=lambda: contextlib.nullcontext([server]))
    spent = processor_seconds() - before
    run = next(iter(manifests.values()))["run"]
    kept = [
        has_form(prompts[name].check, text)
        for name in PROMPTS
        for file in sorted((output / name).glob("part-*.parquet"))
        for text in pq.read_table(file)["text"].to_pylist()
    ]
    return {
        "tokens": run["completion_tokens"],
        "seconds": run["engine_seconds"],
        "processor_seconds": spent,
        "with_form": sum(kept),
        "completions": len(kept),
    }


if __name__ == "__main__":
    main()
