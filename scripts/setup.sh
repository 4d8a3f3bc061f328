#!/usr/bin/env bash
# Makes .venv with what requirements.lock pins; `make venv` calls it when that, pyproject.toml or this file changed.
# Whatever stops it is one line on stderr and exit status 1. Nothing outside the checkout is touched, except uv's cache.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly needed_gb=7 venv=.venv log=.venv/setup.log

fail() {
    echo "setup: $*" >&2
    exit 1
}

python_312() { # the first of these that is Python 3.12; a pyenv shim may exist and still not run
    local candidate
    for candidate in python3.12 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

run() { # run WHAT COMMAND...: the command's words go to the log, its failure is one line
    local what=$1
    shift
    "$@" >>"$log" 2>&1 && return
    if grep -qiE 'no space left|os error 28|disk quota' "$log"; then
        fail "$what failed, the disk is full; see $log"
    fi
    fail "$what failed (no network?); see $log"
}

python=$(python_312) || fail "needs Python 3.12 as python3.12 or python3, found" \
    "$(python3 --version 2>/dev/null | grep -i '^python' || echo 'no Python 3'); get it from your system's packages," \
    "'pyenv install 3.12' or 'uv python install 3.12'"

if [ -e $venv/bin/python ]; then
    $venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1 ||
        fail "$venv holds another Python than 3.12; remove the folder and run this again"
else
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        fail "$python has no venv module; on Debian and Ubuntu: apt-get install python3.12-venv"
fi

present_kb=$({ du -sk $venv 2>/dev/null || true; } | awk '{ print $1 }')
free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
if [ $((free_kb + ${present_kb:-0})) -lt $((needed_gb * 1024 * 1024)) ]; then
    fail "needs $needed_gb GB of disk space in $PWD, there are $((free_kb / 1024 / 1024)) GB free"
fi

mkdir -p $venv 2>/dev/null || fail "can't write to $PWD"
: >$log
if [ ! -e $venv/bin/python ]; then
    echo "setup: $venv with $("$python" --version); the first time this loads about 3 GB, mostly torch"
    run "making $venv" "$python" -m venv $venv
fi
[ -x $venv/bin/uv ] || run "installing uv with pip" $venv/bin/python -m pip install --quiet --constraint requirements.lock uv
# Compiled here and once: by itself every Python does it at its start, where it may not write what it compiled.
run "installing the packages" $venv/bin/uv pip install --compile-bytecode --python $venv/bin/python \
    --constraints requirements.lock --build-constraints requirements.lock --editable '.[dev,ray,viz,bench,lerobot,dds,datasets,bags,vla]'
touch $venv/.ready
echo "setup: $venv is ready"
