# rlhf with CUDA, for a machine with an NVIDIA GPU and its container toolkit:
#
#   docker build -t rlhf .
#   docker run --rm --gpus all -v "$PWD:/work" rlhf run config.toml
#
# Nobody has run this file where it was written: there was no container engine and no GPU. What is checked is that every crate compiles with
# --features cuda (scripts/cuda-check).
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential ca-certificates curl \
    && rm -rf /var/lib/apt/lists/*
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
ENV PATH=/root/.cargo/bin:$PATH
# The architecture of the kernels: 80 Ampere (A100), 86 (RTX 30), 89 Ada, 90 Hopper. A newer GPU translates them when it first runs.
ARG CUDA_COMPUTE_CAP=80
ENV CUDA_COMPUTE_CAP=$CUDA_COMPUTE_CAP
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p rlhf-pipeline --features cuda

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
COPY --from=build /src/target/release/rlhf /usr/local/bin/rlhf
# Models of the hub stay in the mounted folder.
ENV HF_HOME=/work/.cache/huggingface
WORKDIR /work
ENTRYPOINT ["rlhf"]
