# An engine in a pod of its own (`rephrasing: pipes`): vLLM and this library; of Dagster only dagster-pipes. Build it in the
# repository's root:
#   docker build -f deploy/images/worker.Dockerfile -t finephrase/worker:0.1.0 .
FROM vllm/vllm-openai:v0.32.0

RUN useradd --create-home --uid 1000 finephrase
WORKDIR /opt/finephrase
COPY requirements/gpu.txt requirements/gpu.txt
# What the rephrasing library needs in addition to vLLM, in the versions of the list; a test checks that no name is missing.
RUN for name in dagster-pipes datatrove duckdb datasets orjson pyarrow pydantic pyyaml filelock psutil rich fsspec s3fs zstandard tqdm loguru httptools uvloop arctic-inference; do \
        grep "^$name==" requirements/gpu.txt; \
    done > requirements/worker.txt \
    && pip install --no-cache-dir -r requirements/worker.txt
COPY finephrase_dagster finephrase_dagster
ENV PYTHONPATH=/opt/finephrase \
    VLLM_NO_USAGE_STATS=1 \
    PYTHONUNBUFFERED=1

USER 1000
ENTRYPOINT []
CMD ["python3", "-m", "finephrase_dagster.rephrase.worker"]
