#!/usr/bin/env bash
# Create or update a virtual environment with PyTorch, OpenMMLab, and mmpelk (editable).
#
#   tools/setup_env.sh VENV STACK [--compiled-ops] [EXTRA ...]
#
# STACK is onedl (the maintained forks) or openmmlab (the originals). mmdet needs mmcv's compiled operators, and so does the original
# mmseg, so they are always compiled for openmmlab. An EXTRA is one of setup.py's: demo, export, app, docs, dev, or triton. Parts that an
# earlier call installed are kept, and a call that asks for nothing new does nothing.
#
# Built mmcv wheels are kept in $MMPELK_CACHE (default: ~/.cache/mmpelk), one folder for each torch, Python, and mmcv version.
# TORCH selects one of the versions in requirements/, and PYTHON selects the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -ge 2 ] || { echo "usage: $0 VENV STACK [--compiled-ops] [EXTRA ...]" >&2; exit 2; }
VENV=$1 STACK=$2
shift 2
TORCH=${TORCH:-2.13.0}
REQUIREMENTS=requirements/torch-$TORCH.txt
PYTHON=${PYTHON:-python3}
[ -f "$REQUIREMENTS" ] || { echo "error: TORCH is '$TORCH', but there is no $REQUIREMENTS; expected one of" requirements/* >&2; exit 1; }
case $STACK in
    onedl) MMCV=onedl-mmcv==2.3.6 ;;
    openmmlab) MMCV=mmcv==2.1.0 && set -- --compiled-ops "$@" ;;
    *) echo "error: STACK is '$STACK'; expected onedl or openmmlab" >&2; exit 1 ;;
esac
for part in "$@"; do
    case $part in
        --compiled-ops | demo | export | app | docs | dev | triton) ;;
        *) echo "error: '$part' is unknown; expected --compiled-ops, demo, export, app, docs, dev, or triton" >&2; exit 1 ;;
    esac
done

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
say() { echo "[setup $SECONDS s] $*"; }

# The stamp records what the environment was created from, and the parts that are installed. The parts are read even if the first line
# is outdated, so that an update installs them again.
stamp=$VENV/mmpelk-env
sources=$(cat setup.py "$REQUIREMENTS" mmpelk/ops/backends/native/*.cpp mmpelk/ops/backends/native/*.h "$0" | sha256sum | cut -c1-16)
version="$STACK $TORCH $sources"
installed=$(sed -n 2p "$stamp" 2>/dev/null || true)
wanted=$(printf '%s\n' $installed "$@" | sort -u | xargs)
case $STACK:$(sed -n 1p "$stamp" 2>/dev/null || true) in
    onedl:openmmlab\ * | openmmlab:onedl\ *) echo "error: $VENV has the other STACK's packages, which install the same modules; use another VENV" >&2; exit 1 ;;
esac
if [ "$(cat "$stamp" 2>/dev/null)" = "$(printf '%s\n%s\n' "$version" "$wanted")" ]; then
    exit 0
fi

[ -x "$VENV/bin/python" ] || { say "creating $VENV"; "$PYTHON" -m venv "$VENV"; }
# An interrupted update leaves a stamp with the parts but without a version, so that the next call repeats the update.
printf '\n%s\n' "$wanted" >"$stamp"
say "installing torch $TORCH"
pip install -q --upgrade 'pip>=25.3' 'setuptools>=70.1,<81' wheel ninja
pip install -q torch numpy -c "$REQUIREMENTS"

# A wheel with compiled operators serves every purpose. If the cache has none, a wheel without operators takes only seconds to build.
key=$("$VENV/bin/python" -c 'import sys, torch; print(f"torch{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}")')
wheels=${MMPELK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmpelk}/wheels/$key-$MMCV
kind=lite
if [[ " $wanted " = *' --compiled-ops '* ]] || compgen -G "$wheels/compiled/*.whl" >/dev/null; then kind=compiled; fi
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
        # With build isolation there is no torch, and mmcv's build then omits the operators.
        echo 'setuptools<81' >"$build/constraint.txt"
        pip wheel -q --no-deps --no-cache-dir --build-constraint "$build/constraint.txt" -w "$build" "$MMCV"
        rm "$build/constraint.txt"
    fi
    rm -rf "${wheels:?}/$kind"
    mv "$build" "$wheels/$kind"
fi
pip install -q --no-deps --force-reinstall "$wheels/$kind"/*.whl

# The torchvision on the package index requires the CUDA build of torch, which a CPU-only machine does not need
# (mmpelk/utils/torchvision_compat.py).
say 'installing torchvision'
pip install -q --no-deps torchvision -c "$REQUIREMENTS"

extras=$(printf ',%s' "$STACK" $wanted)
extras=${extras/,--compiled-ops/}
say "installing mmpelk[${extras#,}]"
pip install -q --no-build-isolation -c "$REQUIREMENTS" -e ".[${extras#,}]"
if [ $kind = compiled ]; then
    "$VENV/bin/python" -c 'import torch, mmcv._ext'
    wanted=$(printf '%s\n' --compiled-ops $wanted | sort -u | xargs)
fi
printf '%s\n%s\n' "$version" "$wanted" >"$stamp"
say "$VENV is ready"
