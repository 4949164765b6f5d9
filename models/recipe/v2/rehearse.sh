#!/usr/bin/env bash
# The second model's recipe on a tiny budget: a few concepts, seconds for each stage, small networks, on the CPU. Shows that every part
# starts, stops at its time, goes on from what it left, and hands on what the next one needs; the model that comes out knows nothing.
#
#   models/recipe/v2/rehearse.sh NPM WORK        NPM: folder with the node_modules of package.json; WORK: new folder
#
# PYTHON says which interpreter has requirements.txt installed (python3).
set -euo pipefail
if [[ $# -ne 2 || ! -d $1 || -e $2 ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
npm=$(cd "$1" && pwd)
mkdir -p "$2" && cd "$2"
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONPATH=$here/..
run() { printf '\n== %s\n' "$*"; "${PYTHON:-python3}" "$here/$1" "${@:2}"; }
tiny() { run "$1" pack "${@:2}" --tiny --device cpu; }

run pack.py "$npm" pack --limit 44 --vocabulary 700
# Part 1 twice: the first run is cut off in the autoencoder.
tiny part1.py work --seconds 2 --total 12 && { echo "part 1 did not say that it is to be continued" >&2; exit 1; }
tiny part1.py work --seconds 60 --total 12
# The UNet in two runs, the second one from the small state, as on another machine.
tiny part2.py work --seconds 3 --total 6 && { echo "part 2 did not say that it is to be continued" >&2; exit 1; }
rm work/unet.pt
tiny part2.py work --seconds 60 --total 6 --run 2
tiny finish.py work --seconds 9 model
run judge.py pack model work/judge.pt sheets --steps 3 --few --device cpu
ls -lR model
echo "rehearsal: all parts ran"
