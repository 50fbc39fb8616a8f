#!/usr/bin/env bash
# Runs ganjax on this machine: bash launch/local.sh train --config=configs/quickstart.py --workdir=runs/quickstart
# The first start makes a virtual environment with jax for the GPU, TPU or CPU found here; later ones use it.
# Environment: GANJAX_VENV (default: .venv in the checkout), PYTHON, GANJAX_ACCELERATOR=cpu|cuda12|cuda13|tpu.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

accelerator=$(find_accelerator)
set_up "$accelerator"
exec "$venv/bin/ganjax" "$@"
