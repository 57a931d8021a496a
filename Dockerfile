# `diffpo serve` in a container, for a CPU or for CUDA; docs/serving.md says how to build and run it.
# DEVICE: cpu or cuda. TORCH_INDEX: a package index to look for torch in besides pip's own; without it torch is what
# pip finds by itself, which for Linux on x86-64 is a build for CUDA (it runs on a CPU too).
ARG DEVICE=cpu

FROM python:3.11-slim AS build
ARG TORCH_INDEX
WORKDIR /build
RUN python -m venv /opt/diffpo
ENV PATH=/opt/diffpo/bin:$PATH PIP_NO_CACHE_DIR=1
# torch before the source, so that a change of the source does not fetch it again
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY recipes recipes
COPY studies studies
RUN pip install -c constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} '.[serve]'

FROM python:3.11-slim AS cpu

FROM python:3.11-slim AS cuda
# what Triton compiles its launchers with; without it nothing is fused
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

FROM ${DEVICE}
# /cache holds what comes from the hub; a named volume mounted there gets its owner
RUN useradd --create-home --uid 1000 diffpo && install -d -o diffpo -g diffpo /cache
COPY --from=build /opt/diffpo /opt/diffpo
ENV PATH=/opt/diffpo/bin:$PATH HF_HOME=/cache
USER 1000:1000
# runs/ is mounted below, so that a run is named as on the host
WORKDIR /srv
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["diffpo"]
CMD ["serve", "runs/demo/train", "--host", "0.0.0.0"]
