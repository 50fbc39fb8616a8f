#!/usr/bin/env bash
# Speed on a GPU, in one go of some ten minutes: bash benchmarks/gpu.sh PYTHON_WITH_TORCH OUTPUT_FOLDER
# Four small games against PyTorch in both precisions, three large networks with the share of the GPU's own rate of matrix
# products that they use, and eight members of a population in one program. What fails does not stop the rest.
# Environment: PYTHON (with ganjax), PARTS (of small, large and population), PATIENCE (seconds for compiling).
set -uo pipefail
torch=${1:?a Python with torch} out=${2:?a folder for the results}
cd "$(dirname "$0")/.." || exit
mkdir -p "$out"
# Processes wait for their turn on one GPU, each with its own share; inductor's compilers would take all cores each.
# XLA tries its kernels out, without comparing their results; level 0 saves seconds and costs far more in the steps.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_autotune_level=1"
export XLA_PYTHON_CLIENT_PREALLOCATE=false TORCHINDUCTOR_COMPILE_THREADS=2 PYTHONUNBUFFERED=1
python=${PYTHON:-python3}

measure() { # NAME SECONDS COMMAND…: the table to the screen, everything to a file
  local name=$1 limit=$2
  shift 2
  local begin=$SECONDS
  timeout "$limit" "$@" >"$out/$name.txt" 2>"$out/$name.err" || { echo "$name: failed"; tail -n 5 "$out/$name.err"; }
  grep -v '^{' "$out/$name.txt"
  echo "($name: $((SECONDS - begin)) s)"
}
speed() { # NAME OPTIONS…
  local name=$1 patience=${PATIENCE:-370}
  shift
  measure "$name" $((patience + 200)) "$python" benchmarks/train_speed.py --together --of-peak --again=0 --repeats=3 \
    --patience="$patience" "$@"
}
for part in ${PARTS:-small large population}; do
  case $part in
    small) speed small --precision=float32,bfloat16 --torch-python="$torch" --variants=eager,graphs ;;
    large) speed large --games=sngan32_full,stylegan2_256,biggan128 --precision=bfloat16 ;;
    population)
      measure population 200 "$python" benchmarks/population.py --config=configs/sngan.py:data=fashion_mnist --sizes=1,8 \
        --set=data.resolution=32 --set=gen.width=256 --set=dis.width=128
      ;;
  esac
done
