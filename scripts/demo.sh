#!/usr/bin/env bash
# The main job on this machine: learn to lift a cube, then measure what was learnt on new seeds. `make demo` calls it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run=runs/demo
[ ! -e $run ] || run=runs/demo-$(date +%Y%m%d-%H%M%S) # an earlier demo stays as it is

video=(--video "$run/lift.gif")
if ! .venv/bin/python -c 'import sys; from robotlearn import gl; sys.exit(not gl.choose())'; then
    echo "demo: no video, for want of a library to draw with; on Debian and Ubuntu: apt-get install libegl1 libgl1"
    video=()
fi
.venv/bin/robotlearn train configs/laptop.yaml --run "$run"
.venv/bin/robotlearn eval "$run" --episodes 200 --seed 1000 "${video[@]}"
echo "demo: everything about this run is in $run"
