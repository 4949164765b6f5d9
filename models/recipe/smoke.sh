#!/usr/bin/env bash
# The whole recipe on a tiny budget: a few concepts, a few steps. Shows that every script starts, runs and hands on what
# the next one needs; the model that comes out knows nothing. Ten minutes on two cores, most of them imports and sheets.
#
#   models/recipe/smoke.sh NPM WORK        NPM: folder with the node_modules of package.json; WORK: new folder
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
run() { printf '\n== %s\n' "$*"; "${PYTHON:-python3}" "$here/$1" "${@:2}"; }
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1

echo 'dog, cat, rabbit' >concepts.txt
run build_dataset.py "$npm" data --limit 40
run make_tokenizer.py data "$npm" model/tokenizer --size 600
run train_vae.py data vae --steps 3
run normalize_vae.py data vae model/vae
run train_clip.py data model/tokenizer clip-plain --steps 2 --batch 8
run make_scenes.py "$npm" data concepts.txt scenes
run finetune_vae.py data scenes model/vae vae-scenes --steps 2
cp vae-scenes/* model/vae
run train_clip.py data model/tokenizer clip --steps 2 --batch 8 --resume clip-plain --scenes scenes
run make_pairs.py "$npm" data concepts.txt 20 pairs
run train_unet.py data model clip concepts.txt unet.pt --steps 2 --batch 2 --composed scenes:0.4 pairs:0.2 --blank
cp -r model/unet unet-before
run train_unet.py data model clip concepts.txt unet.pt --steps 1 --batch 2 --composed scenes:0.4 --blank --resume unet.pt --processes 1
run average_weights.py model/unet unet-before model/unet --share 0.75
run blank_padding.py data model scenes pairs --steps 2
run train_expert.py data model concepts.txt expert --steps 2
run finalize.py model clip expert emoji
cp -r "$here/../emoji/pictures" emoji/pictures
run fit_preview.py data emoji
run evaluate.py data emoji sheets --steps 4 --only mixes
ls -R emoji | head -40
echo "smoke: all scripts ran"
