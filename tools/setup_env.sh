#!/usr/bin/env bash
# Make or update a virtual environment with PyTorch, OpenMMLab and mmpelk (editable).
#
#   tools/setup_env.sh VENV STACK [--compiled-ops]
#
# STACK is onedl (the maintained forks) or openmmlab (the originals). mmdet needs mmcv's compiled operators; mmseg and mmpretrain do
# not. Built mmcv wheels are kept in $MMPELK_CACHE (default ~/.cache/mmpelk), one folder for each torch, Python and mmcv version.
# TORCH and TORCHVISION name another pair of versions than the tested one, PYTHON another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=$1 STACK=$2 OPS=${3:-}
TORCH=${TORCH:-2.13.0}
TORCHVISION=${TORCHVISION:-0.28.0}
PYTHON=${PYTHON:-python3}
case $STACK in
    onedl) MMCV=onedl-mmcv==2.3.6 ;;
    openmmlab) MMCV=mmcv==2.1.0 ;;
    *) echo "error: STACK is '$STACK'; expected onedl or openmmlab" >&2; exit 1 ;;
esac
case $OPS in
    '' | --compiled-ops) ;;
    *) echo "error: unknown option '$OPS'; expected --compiled-ops" >&2; exit 1 ;;
esac

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
say() { echo "[setup $SECONDS s] $*"; }

stamp=$(cat setup.py mmpelk/ops/backends/native/*.cpp mmpelk/ops/backends/native/*.h "$0" | sha256sum | cut -c1-16)-$TORCH
have=$(cat "$VENV/mmpelk-env" 2>/dev/null || true)
if [ "$have" = "$stamp --compiled-ops" ] || [ "$have" = "$stamp " -a -z "$OPS" ]; then
    exit 0
fi

[ -x "$VENV/bin/python" ] || { say "making $VENV"; "$PYTHON" -m venv "$VENV"; }
rm -f "$VENV/mmpelk-env"
say "installing torch $TORCH"
pip install -q --upgrade 'pip>=25.3' 'setuptools>=64,<81' wheel ninja
pip install -q "torch==$TORCH" numpy

# The wheel: a compiled one serves everybody; without one, a wheel without operators takes seconds.
key=$("$VENV/bin/python" -c 'import sys, torch; print(f"torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}")')
wheels=${MMPELK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmpelk}/wheels/$key-$MMCV
kind=compiled
if [ -z "$OPS" ] && ! compgen -G "$wheels/compiled/*.whl" >/dev/null; then kind=lite; fi
if ! compgen -G "$wheels/$kind/*.whl" >/dev/null; then
    mkdir -p "$wheels"
    build=$(mktemp -d "$wheels/building-XXXX")
    trap 'rm -rf "$build"' EXIT
    if [ $kind = compiled ]; then
        say "compiling $MMCV: about 10 minutes on 2 cores, once for this torch; log: $wheels/build.log"
        MAX_JOBS=${MAX_JOBS:-$(nproc)} FORCE_CUDA=0 pip wheel -v --no-deps --no-cache-dir --no-build-isolation -w "$build" "$MMCV" \
            >"$wheels/build.log" 2>&1 &
        while kill -0 $! 2>/dev/null; do
            sleep 5
            if [ $((SECONDS % 60)) -lt 5 ]; then say "compiling: $(grep -c '^ *\[[0-9]*/[0-9]*\]\|building\|c++ ' "$wheels/build.log" || true) steps"; fi
        done
        wait $! || { tail -n 20 "$wheels/build.log" >&2; echo "error: $MMCV did not compile; see $wheels/build.log" >&2; exit 1; }
    else
        say "building $MMCV without compiled operators"
        # In isolation there is no torch, and mmcv's build then leaves the operators out.
        echo 'setuptools<81' >"$build/constraint.txt"
        pip wheel -q --no-deps --no-cache-dir --build-constraint "$build/constraint.txt" -w "$build" "$MMCV"
        rm "$build/constraint.txt"
    fi
    rm -rf "${wheels:?}/$kind"
    mv "$build" "$wheels/$kind"
fi
pip install -q --no-deps --force-reinstall "$wheels/$kind"/*.whl

# The index's torchvision requires the CUDA build of torch, which a CPU-only machine does not need (mmpelk/torchvision_operators.py).
say "installing torchvision $TORCHVISION"
pip install -q --no-deps "torchvision==$TORCHVISION"

say "installing $STACK's packages"
pip install -q --no-build-isolation "torch==$TORCH" -e ".[$STACK,dev]"
if [ $kind = compiled ]; then
    "$VENV/bin/python" -c 'import torch, mmcv._ext'
    OPS=--compiled-ops
fi
echo "$stamp $OPS" >"$VENV/mmpelk-env"
say "$VENV is ready"
