# Webserver, daemon, code location, and every step that needs no device. Build it in the repository's root:
#   docker build -f deploy/images/control.Dockerfile -t finephrase/control:0.1.0 .
# The list for machines without GPUs: steps here tokenize, mix, audit and convert with the same versions.
FROM python:3.11-slim-bookworm

RUN useradd --create-home --uid 1000 finephrase \
    && install --directory --owner 1000 /opt/dagster/dagster_home
WORKDIR /opt/finephrase
COPY requirements/cpu.txt requirements/cpu.txt
RUN pip install --no-cache-dir "$(grep '^uv==' requirements/cpu.txt)" \
    && uv pip install --system --no-cache --no-deps -r requirements/cpu.txt
COPY pyproject.toml README.md LICENSE workspace.yaml ./
COPY finephrase_dagster finephrase_dagster
COPY assets assets
COPY resources resources
COPY prompts prompts
COPY studies studies
COPY requirements requirements
# The chart starts `dagster-webserver`; this one refuses requests of other sites' pages.
RUN uv pip install --system --no-cache --no-deps --no-build-isolation -e . \
    && printf '#!/bin/sh\nexec python3 -m finephrase_dagster.orchestration.webserver "$@"\n' \
        > "$(command -v dagster-webserver)"

USER 1000
ENV DAGSTER_HOME=/opt/dagster/dagster_home \
    DAGSTER_DISABLE_TELEMETRY=1 \
    PYTHONUNBUFFERED=1
EXPOSE 3030
CMD ["dagster", "api", "grpc", "--module-name", "finephrase_dagster.definitions", "--host", "127.0.0.1", "--port", "3030"]
