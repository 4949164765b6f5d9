#!/usr/bin/env bash
# What a CUDA build says and does where there is no GPU: without a driver, and with cuda/fake.rs in the driver's place.
#
#   cuda/check.sh [PROGRAM]      target/TRIPLE/release/scumble, as cuda/build.sh makes it
#
# Prints one line per case and ends with 1 if one failed. It says nothing about numbers or speed.
set -uo pipefail
cd "$(dirname "$0")/.."
program=${1:-target/$(rustc -vV | sed -n 's/^host: //p')/release/scumble}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
unset CUDA_VISIBLE_DEVICES SCUMBLE_CUDA_LIBS LD_LIBRARY_PATH VIRTUAL_ENV CONDA_PREFIX CUDA_HOME CUDA_PATH

# case NAME EXPECTED-EXIT EXPECTED-TEXT COMMAND...: the text must stand in what is printed, and no panic.
case_() {
  local name=$1 exit=$2 text=$3 out rc
  shift 3
  out=$("$@" 2>&1 </dev/null)
  rc=$?
  # Long lines are folded.
  if [[ $rc == "$exit" && $(tr -s ' \n' ' ' <<<"$out") == *"$text"* && $out != *panicked* ]]; then
    echo "ok      $name"
  else
    echo "FAILED  $name: exit $rc, expected $exit and \"$text\""
    sed 's/^/        /' <<<"$out"
    failed=1
  fi
}
run=("$program" --no-init --out "$work/out")

linked=$(ldd "$program" | grep -iE 'cuda|cublas|cudnn|curand|nvrtc|nvidia')
if [[ -z $linked ]]; then echo "ok      no CUDA library is linked"; else echo "FAILED  linked: $linked"; failed=1; fi

case_ "no driver: cuda is refused" 2 "there is no NVIDIA driver" "${run[@]}" --device cuda -e 1
case_ "no driver: the hint names the CPU" 2 "--device cpu works everywhere" "${run[@]}" --device cuda:1 -e 1
case_ "no driver: auto takes the CPU" 0 "out/text2image.png" "${run[@]}" run text2image steps=1
case_ "no driver: doctor says why" 0 "no GPU" "${run[@]}" doctor
case_ "a misspelt device" 2 "unknown device" "${run[@]}" --device cuda:x -e 1

mkdir "$work/driver" "$work/libs" "$work/broken"
fake() { rustc -O --edition 2024 --crate-type cdylib -C panic=abort -C link-arg=-Wl,-soname,"$2" -o "$1/$2" cuda/fake.rs || exit 1; }
for name in libcuda.so.1 libnvidia-ml.so.1; do fake "$work/driver" $name; done
for name in libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libcudnn.so.9; do fake "$work/libs" $name; done
cp "$work"/libs/libcu[br]* "$work/broken/"
driver=(env LD_LIBRARY_PATH="$work/driver")
gpu=("${driver[@]}" SCUMBLE_CUDA_LIBS="$work/libs")

case_ "no GPU" 2 "the driver sees no GPU" "${gpu[@]}" FAKE_GPUS=0 "${run[@]}" --device cuda -e 1
case_ "hidden GPUs" 2 "CUDA_VISIBLE_DEVICES hides every GPU" "${gpu[@]}" CUDA_VISIBLE_DEVICES= "${run[@]}" --device cuda -e 1
case_ "hidden GPUs: auto takes the CPU" 0 "out/text2image" "${gpu[@]}" CUDA_VISIBLE_DEVICES= "${run[@]}" run text2image steps=1
for code in 34:stub 46:busy 802:fabricmanager 803:"different versions" 804:compat 999:nvidia-smi; do
  case_ "cuInit says ${code%%:*}" 2 "${code#*:}" "${gpu[@]}" FAKE_INIT="${code%%:*}" "${run[@]}" --device cuda -e 1
done
case_ "an old driver" 2 "the driver is older" "${gpu[@]}" FAKE_VERSION=11080 "${run[@]}" --device cuda -e 1
case_ "an old GPU" 2 "CUDA_COMPUTE_CAP=75" "${gpu[@]}" FAKE_CAP=75 "${run[@]}" --device cuda -e 1
case_ "no such GPU" 2 "there is no cuda:7" "${gpu[@]}" FAKE_GPUS=2 "${run[@]}" --device cuda:7 -e 1
case_ "no cuBLAS" 2 "cuBLAS" "${driver[@]}" "${run[@]}" --device cuda -e 1
case_ "no cuDNN" 2 "cuDNN" "${driver[@]}" SCUMBLE_CUDA_LIBS="$work/broken" "${run[@]}" --device cuda -e 1
# cudarc asks for the name without a number first: another version under it is told, the same one is taken.
mkdir "$work/plain"
for name in cublas:13 curand:10 cudnn:9; do cp "$work/libs/lib${name%%:*}.so.${name#*:}" "$work/plain/lib${name%%:*}.so"; done
plain=(env LD_LIBRARY_PATH="$work/driver:$work/plain" SCUMBLE_CUDA_LIBS="$work/libs")
for old in CUBLAS:12 CURAND:9 CUDNN:8; do
  library=$(tr A-Z a-z <<<"${old%%:*}")
  case_ "lib$library.so of another version" 2 "lib$library.so is of another version" "${plain[@]}" FAKE_${old%%:*}="${old#*:}" "${run[@]}" --device cuda -e 1
done
case_ "plain names of the right versions" 0 "2" "${plain[@]}" "${run[@]}" --device cuda -e "1 + 1"
case_ "doctor lists GPUs" 0 "40.0 GiB of 80.0 GiB free, 40.0 GiB held" "${gpu[@]}" FAKE_GPUS=2 FAKE_FREE=2,40 "${run[@]}" doctor
case_ "auto takes the freest" 0 "cuda:1" "${gpu[@]}" FAKE_GPUS=2 FAKE_FREE=2,40 "${run[@]}" doctor
site=$work/env/lib/python3.12/site-packages/nvidia
mkdir -p "$site" && cp -r "$work/libs" "$site/cu13" && mkdir "$site/cu13/lib" && mv "$site"/cu13/*.so* "$site/cu13/lib/"
case_ "libraries of a virtual environment" 0 "2" "${driver[@]}" VIRTUAL_ENV="$work/env" "${run[@]}" --device cuda -e "1 + 1"

# Everything of a run has a kernel there, and lies on one device.
for dtype in f32 f16 bf16; do
  case_ "text2image in $dtype" 0 "out/text2image" "${gpu[@]}" "${run[@]}" --device cuda --dtype $dtype run text2image steps=2 n=2
  case_ "magicmix in $dtype" 0 "out/magicmix" "${gpu[@]}" "${run[@]}" --device cuda --dtype $dtype run magicmix steps=4
  case_ "magicfusion in $dtype" 0 "out/magicfusion" "${gpu[@]}" "${run[@]}" --device cuda --dtype $dtype run magicfusion prompt_g="a dog" prompt_e="a dog" expert=emoji/expert-ink steps=2
  # Weights, adapters and vectors of tokens are trained in f32 and used in the model's type.
  for what in 'what: "mid_block"' 'what: "attention", lora: 2'; do
    case_ "tune ($what) in $dtype" 0 "[1, 4, 16, 16]" "${gpu[@]}" "${run[@]}" --device cuda --dtype $dtype -e \
      "let m = load(\"emoji\"); let z = m.noise(0); let text = m.encode(\"a dog\"); let o = #{ $what, steps: 2 }; m.tune(o, |m, i| mse(m.predict(z, 500, text), m.noise(i))).predict(z, 500, text).shape"
  done
  case_ "minimize in $dtype" 0 "[1, 4, 16, 16]" "${gpu[@]}" "${run[@]}" --device cuda --dtype $dtype -e \
    'let m = load("emoji"); let t = m.encode("a dog"); minimize(m.noise(0), #{ steps: 2 }, |z, i| mse(m.predict(z, 500, t), z)).x.shape'
  # Zeros have no direction: the message shows that gradient and predictor ran.
  case_ "sketch_guided in $dtype" 1 "gives no direction" "${gpu[@]}" "${run[@]}" --device cuda --dtype $dtype run sketch_guided sketch=sketch-cup.png steps=2
done
case_ "imagic" 0 "out/imagic" "${gpu[@]}" "${run[@]}" --device cuda run imagic image=dog-flat.png target="a cat" embed_steps=2 tune_steps=2 seeds=1 eta='[1.0]' steps=2
case_ "disentangle" 0 "out/disentangle" "${gpu[@]}" "${run[@]}" --device cuda run disentangle neutral="a dog" target="a dog in the snow" steps=2 iters=1
case_ "prompt2prompt" 0 "out/prompt2prompt" "${gpu[@]}" "${run[@]}" --device cuda run prompt2prompt source="a dog" target="a cat" steps=2
case_ "invert" 0 "out/invert" "${gpu[@]}" "${run[@]}" --device cuda run invert image=dog-flat.png prompt="a dog" steps=2
case_ "a full GPU is told, and the session lives" 0 "still here" "${gpu[@]}" FAKE_FULL=60000000 "${run[@]}" --device cuda -e \
  'let m = load("emoji"); let z = m.noise(0); try { m.noise(0, #{ n: 4000 }); print("no error"); } catch (e) { print(e.message); } print(`still here ${z.shape}`);'
exit $failed
