"""The peer of the benchmarks: DataTrove's InferenceRunner with checkpoints, used as the study's scripts use it.

The benchmarks start it once per run; the same command resumes. By hand:

    python benchmarks/datatrove_peer.py --input FILE --prompt prompts/faq.md --output DIR --endpoint URL \\
        --model NAME --context N --max-tokens N --seed N --concurrency N
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceResult, InferenceRunner
from datatrove.pipeline.inference.types import GenerateFunction
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter

RECORDS_PER_CHUNK = 500


def main() -> None:
    """Run the pipeline in this process, as one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("input", "prompt", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("endpoint", "model"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("context", "max-tokens", "seed", "concurrency"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    template = arguments.prompt.read_text(encoding="utf-8").split("---\n", 2)[2].strip()
    settings = {"max_tokens": arguments.max_tokens, "seed": arguments.seed}
    runner = InferenceRunner(
        rollout_fn=rollout,
        config=InferenceConfig(
            server_type="endpoint",
            endpoint_url=arguments.endpoint,
            model_name_or_path=arguments.model,
            model_max_context=arguments.context,
            rollouts_per_document=1,
            max_concurrent_generations=arguments.concurrency,
            default_generation_params=settings,
        ),
        output_writer=ParquetWriter(str(arguments.output / "data"), "${rank}_chunk_${chunk_index}.parquet"),
        shared_context={"template": template},
        checkpoints_local_dir=str(arguments.output / "checkpoints"),
        records_per_chunk=RECORDS_PER_CHUNK,
    )
    reader = JsonlReader(str(arguments.input.parent), glob_pattern=arguments.input.name)
    LocalPipelineExecutor([reader, runner], tasks=1, workers=1, logging_dir=str(arguments.output / "logs")).run()


async def rollout(document: Document, generate: GenerateFunction, template: str, **_: Any) -> InferenceResult:
    """Send one request per document."""
    content = template.replace("[[DOCUMENT]]", document.text)
    return await generate({"messages": [{"role": "user", "content": content}]})


if __name__ == "__main__":
    main()
