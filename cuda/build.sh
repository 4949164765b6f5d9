#!/usr/bin/env bash
# Builds scumble for CUDA: one program that also runs where there is no GPU, no driver and no CUDA library. Needs nvcc
# (CUDA_HOME, or on PATH; cuda/toolkit.sh fetches one) and its C++ compiler; no GPU, no driver, no cuDNN.
#
#   cuda/build.sh [CARGO ARGUMENTS]         target/TRIPLE/release/scumble; `cuda/build.sh --profile dist` for one to carry away
#   SCUMBLE_CARGO="test" cuda/build.sh gpu  another command of cargo in the same surroundings
#
# CUDA_COMPUTE_CAP  the oldest GPU that it shall run on: 80 (the default) is A100, and A30, A40, L40, RTX 30 and 40, H100 and
#                   H200 run it too: the kernels are compiled for the GPU when they are loaded, and kept by the driver.
#                   90 is for H100 and H200 alone.
# SCUMBLE_MOE=1     also compiles candle's kernels for quantized language models, as candle does (twenty minutes more)
set -euo pipefail
cd "$(dirname "$0")/.."
die() { echo "cuda/build.sh: $*" >&2; exit 2; }

nvcc=${CUDA_HOME:+$CUDA_HOME/bin/nvcc}
[[ -x ${nvcc:-} ]] || nvcc=$(command -v nvcc) || die "no nvcc: set CUDA_HOME to a toolkit, or fetch one with cuda/toolkit.sh DIR"
export CUDA_HOME=${CUDA_HOME:-$(dirname "$(dirname "$nvcc")")} CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
[[ -z ${RUSTFLAGS:-}${CARGO_ENCODED_RUSTFLAGS:-} ]] || die "RUSTFLAGS is set, and this script needs it: unset it"
host=$(rustc -vV | sed -n 's/^host: //p')
work=${CARGO_TARGET_DIR:-$PWD/target}/cuda
mkdir -p "$work"
work=$(cd "$work" && pwd)

# cudarc asks the linker for these by name. The program opens them when it runs, so that empty ones do.
for name in cuda cudart cudnn cublas cublasLt curand nvrtc; do
  echo "/* opened at run time */" >"$work/lib$name.so"
done
# The version that cudarc builds for is that of the nvcc on PATH.
export PATH="$(dirname "$nvcc"):$PATH" SCUMBLE_NVCC=$nvcc NVCC=$nvcc
[[ -n ${SCUMBLE_MOE:-} ]] || NVCC=$PWD/cuda/nvcc
# cudarc's code can open its libraries at run time, but candle asks for linking, and cudarc's build script refuses both at
# once: so the code alone is told. With --target, flags do not reach build scripts.
sep=$'\x1f'
CARGO_ENCODED_RUSTFLAGS="--cfg${sep}feature=\"dynamic-loading\"${sep}--cfg${sep}cuda_loading${sep}-L${sep}native=$work"
if [[ -n ${SCUMBLE_MOE:-} ]]; then
  # Those kernels call CUDA's runtime library: its static one is found in the toolkit.
  runtime=$(find -L "$CUDA_HOME" -name libcudart_static.a -print -quit)
  [[ -n $runtime ]] || die "libcudart_static.a is not in $CUDA_HOME"
  echo "INPUT ( \"$runtime\" )" >"$work/libcudart.so"
  CARGO_ENCODED_RUSTFLAGS+="${sep}-C${sep}link-args=-ldl -lrt -lpthread"
fi
export CARGO_ENCODED_RUSTFLAGS
read -ra command <<<"${SCUMBLE_CARGO:-build}"
profile=(--release)
# Benchmarks have a profile of their own.
[[ " $* " != *" --profile"* && ${command[0]} != bench ]] || profile=()
exec cargo "${command[@]}" --locked "${profile[@]}" --features cuda --target "$host" "$@"
