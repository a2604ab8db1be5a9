# One image with everything pinned. No CUDA base image: torch's wheels carry CUDA, the host's driver comes in at run time.
#   docker build -t frugal .                          CPU
#   docker build -t frugal --build-arg EXTRA=cuda .   NVIDIA GPU (run with --gpus all)
#   docker run --rm -v "$PWD/results:/frugal/results" frugal
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS builder
ARG EXTRA=cpu
# Options for pip, for example the index of CPU-only builds of torch.
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /frugal
COPY pyproject.toml README.md LICENSE ./
COPY envs/constraints.txt envs/constraints.txt
COPY kernels kernels
COPY workflow/frugal workflow/frugal
RUN python3 -m venv /opt/venv \
    && case "$EXTRA" in cpu) extras="" ;; cuda) extras="[cuda]" ;; *) echo "EXTRA is cpu or cuda, not $EXTRA" >&2; exit 2 ;; esac \
    && /opt/venv/bin/pip install ${PIP_ARGS} --constraint envs/constraints.txt --editable ".${extras}"

FROM ${BASE}
LABEL org.opencontainers.image.title="frugal" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/frugal/numba MPLCONFIGDIR=/tmp/frugal/matplotlib XDG_CACHE_HOME=/tmp/frugal/cache
RUN useradd --create-home frugal && mkdir -p /frugal && chown frugal /frugal
COPY --from=builder /opt/venv /opt/venv
COPY --chown=frugal . /frugal
USER frugal
WORKDIR /frugal
ENTRYPOINT ["snakemake"]
CMD ["--cores", "all", "figures"]
