# A node of a training Job: nanotron in an environment of its own, as in docs/nanotron.md, without this library.
# Build it in the repository's root:
#   docker build -f deploy/images/nanotron.Dockerfile -t finephrase/nanotron:0.1.0 .
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential ca-certificates python3-pip git ninja-build \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir --break-system-packages uv==0.13.8 \
    && userdel --remove ubuntu \
    && useradd --create-home --uid 1000 finephrase \
    && install --directory --owner 1000 /opt/nanotron
ENV UV_PYTHON_INSTALL_DIR=/opt/python
RUN uv python install 3.11

USER 1000
# nanotron compiles one of its files at start, so the user must own its checkout.
RUN git clone https://github.com/huggingface/nanotron /opt/nanotron \
    && git -C /opt/nanotron checkout 2411b022a75fb7f7561a1bb4166706da5e1b76de \
    && uv venv --python 3.11 /opt/nanotron/.venv
ENV VIRTUAL_ENV=/opt/nanotron/.venv \
    PATH=/opt/nanotron/.venv/bin:$PATH
RUN uv pip install --no-cache "numpy<2" "pyarrow<20" "datasets<4" "transformers<5" torch==2.13.0 \
        numba einops psutil pybind11 loguru humanize ninja wheel setuptools \
    && uv pip install --no-cache --no-build-isolation "flash-attn>=2.5.0,<2.7.0" \
        "git+https://github.com/fanshiqing/grouped_gemm@main" \
    && uv pip install --no-cache --no-deps \
        "git+https://github.com/huggingface/datatrove@2c895af7a95010a96fa53e2dc77cc0ce92799e3f" \
    && uv pip install --no-cache --no-deps -e /opt/nanotron
WORKDIR /opt/nanotron
