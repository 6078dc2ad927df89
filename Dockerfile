# A container that trains the demo and draws its predictions, on a GPU with CUDA or on a CPU.
#
#   docker build -t mmpelk .                                     # CUDA: torch from the package index includes CUDA's libraries
#   docker build -t mmpelk --build-arg TORCH_INDEX=URL .         # CPUs: the URL of torch's CPU packages, from pytorch.org
#   docker run --rm --gpus all -v "$PWD/results:/mmpelk/work_dirs" mmpelk    # without --gpus all on CPUs
#
# STACK and TORCH select the packages, as for make (TORCH=2.1.2 and STACK=openmmlab are the oldest). This Dockerfile has not been tested yet.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# OpenCV needs libgl1 and libglib2.0-0. g++ compiles mmpelk's library, and mmcv's operators for STACK=openmmlab.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libgl1 libglib2.0-0 make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /mmpelk
ARG STACK=onedl
ARG TORCH=2.13.0
ARG TORCH_INDEX
ENV STACK=${STACK} TORCH=${TORCH} VENV=/opt/mmpelk
COPY requirements requirements
RUN python -m venv "$VENV" \
    && "$VENV/bin/pip" install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r "requirements/torch-$TORCH.txt"
COPY . .
RUN PIP_NO_CACHE_DIR=1 make env

CMD ["make", "demo"]
