#!/usr/bin/env bash
# magicmix at defaults, scumble against PyTorch with diffusers: cold process start to saved picture, one side after the
# other, N times each; then seconds per guided step on both sides in the same minutes. Prints medians and ratios.
#
#   PYTHON=/tmp/parity/bin/python benches/compare.sh [N]        N: 5
#
# PYTHON     an interpreter with tests/parity/requirements.txt installed (benches/README.md)
# SCUMBLE    the binary: target/release/scumble, built when it is missing
# SAMPLING   a command that prints seconds per guided step of scumble, one per line: cargo's benchmark `sampling`
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-5}
python=${PYTHON:?say with PYTHON= which interpreter has torch and diffusers (benches/README.md)}
[[ $runs =~ ^[1-9][0-9]*$ ]] || { echo "compare.sh: N must be a positive whole number, not $runs" >&2; exit 2; }
if [[ -z ${SCUMBLE:-} ]]; then
  cargo build --release --locked --quiet
  SCUMBLE=target/release/scumble
fi
sampling=${SAMPLING:-cargo bench --locked --quiet --bench sampling}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=2

median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
column() { awk -v c="$2" '{ print $c }' "$1"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2f", a / b }'; }

echo "cold start to saved picture, $runs runs each, alternating (seconds, MB)"
for ((i = 1; i <= runs; i++)); do
  "$python" benches/measure.py "$SCUMBLE" run magicmix --threads 2 --quiet --out "$work/out" 2>"$work/log" >>"$work/scumble" ||
    { cat "$work/log" >&2; exit 1; }
  "$python" benches/measure.py "$python" benches/magicmix_diffusers.py --out "$work/mix.png" 2>"$work/log" >>"$work/torch" ||
    { cat "$work/log" >&2; exit 1; }
  echo "  run $i: scumble $(tail -1 "$work/scumble"), PyTorch $(tail -1 "$work/torch")"
done
ours=$(column "$work/scumble" 1 | median)
theirs=$(column "$work/torch" 1 | median)
echo "median: scumble $ours s, PyTorch $theirs s: $(ratio "$theirs" "$ours") times as fast"
echo "peak memory: scumble $(column "$work/scumble" 2 | median) MB, PyTorch $(column "$work/torch" 2 | median) MB"

echo "sampling, seconds per guided step"
for ((i = 1; i <= 3; i++)); do
  $sampling 2>"$work/log" >>"$work/step.scumble" || { cat "$work/log" >&2; exit 1; }
  "$python" benches/magicmix_diffusers.py --time-sampling 2>"$work/log" >>"$work/step.torch" || { cat "$work/log" >&2; exit 1; }
done
ours=$(median <"$work/step.scumble")
theirs=$(median <"$work/step.torch")
echo "median: scumble $ours s, PyTorch $theirs s: $(ratio "$ours" "$theirs") times PyTorch's time"
