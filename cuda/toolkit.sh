#!/usr/bin/env bash
# CUDA's compiler from PyPI, for a machine that has neither a GPU nor a toolkit: about 1 GB, nothing is installed system-wide.
#
#   cuda/toolkit.sh DIR        the compiler of CUDA 13.0, which drivers from 580 on read
#
# Then: CUDA_HOME=DIR/nvidia/cu13 cuda/build.sh
# PYTHON chooses the interpreter whose pip fetches the packages (python3).
set -euo pipefail
dir=${1:?"say where to: cuda/toolkit.sh DIR"}
# One minor version for all: code of a later compiler than the driver knows is refused when the program runs.
"${PYTHON:-python3}" -m pip install --quiet --no-deps --upgrade --target "$dir" \
  nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-curand==10.4.0.35
home=$(cd "$dir/nvidia/cu13" && pwd)
"$home/bin/nvcc" --version | tail -2
echo "CUDA_HOME=$home cuda/build.sh"
