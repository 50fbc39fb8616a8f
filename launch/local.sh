#!/usr/bin/env bash
# Runs ganjax on this machine: bash launch/local.sh [FLAGS] train --config=configs/quickstart.py --workdir=runs/quickstart
#   --gpus=0,2  only these GPUs (default: all of them)    --dry-run  prints what would run
# The first start makes a virtual environment with jax for the GPU, TPU or CPU found here; later ones use it.
# Environment: GANJAX_VENV (default: .venv in the checkout), PYTHON, GANJAX_ACCELERATOR=cpu|cuda12|cuda13|tpu.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

dry_run=
while true; do # flags after the command belong to ganjax
  case ${1:-} in
    --gpus=*)
      gpus=${1#--gpus=}
      [[ $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--gpus takes numbers joined by commas, and got '$gpus'."
      export CUDA_VISIBLE_DEVICES=$gpus ;;
    --dry-run) dry_run=1 ;;
    *) break ;;
  esac
  shift
done

accelerator=$(find_accelerator)
case ${gpus:+$accelerator} in cpu | tpu) die "--gpus=$gpus, and there is no GPU that jax can use here." ;; esac
if [ -n "$dry_run" ]; then
  if ! ready "$accelerator" -; then say "would install into $venv, with jax for $accelerator"; fi
  printf '%q ' ${gpus:+env "CUDA_VISIBLE_DEVICES=$gpus"} "$venv/bin/ganjax" "$@" && echo
  exit 0
fi
set_up "$accelerator"
exec "$venv/bin/ganjax" "$@"
