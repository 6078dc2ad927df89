#!/usr/bin/env bash
# Train on several GPUs: tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR, and PORT on each.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2; exit 2; }
exec "$(dirname "$0")/dist_run.sh" train.py "$2" "$1" "${@:3}"
