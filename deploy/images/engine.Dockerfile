# Steps with a device: generators, students on one machine, evaluation. Build it in the
# repository's root:
#   docker build -f deploy/images/engine.Dockerfile -t finephrase/engine:0.1.0 .
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# vLLM compiles kernels at start, so it needs a compiler and CUDA's development image.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --break-system-packages uv==0.13.8 \
    && userdel --remove ubuntu \
    && useradd --create-home --uid 1000 finephrase \
    && install --directory --owner 1000 /opt/dagster/dagster_home
ENV UV_PYTHON_INSTALL_DIR=/opt/python
RUN uv venv --python 3.11 /opt/environment
ENV VIRTUAL_ENV=/opt/environment \
    PATH=/opt/environment/bin:$PATH
WORKDIR /opt/finephrase
COPY requirements/gpu.txt requirements/gpu.txt
RUN uv pip install --no-cache --no-deps -r requirements/gpu.txt
COPY pyproject.toml README.md LICENSE workspace.yaml ./
COPY finephrase_dagster finephrase_dagster
COPY assets assets
COPY resources resources
COPY prompts prompts
COPY studies studies
COPY requirements requirements
RUN uv pip install --no-cache --no-deps --no-build-isolation -e .

USER 1000
ENV DAGSTER_HOME=/opt/dagster/dagster_home \
    DAGSTER_DISABLE_TELEMETRY=1 \
    VLLM_NO_USAGE_STATS=1 \
    PYTHONUNBUFFERED=1
CMD ["python", "-m", "finephrase_dagster.rephrase.worker"]
