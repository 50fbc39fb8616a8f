#!/usr/bin/env bash
# Cloud TPU VMs: bash launch/tpu_vm.sh [FLAGS] COMMAND [ARGUMENTS], on a machine with gcloud.
#   create   the TPU VM; with --queued a queued resource, which waits its turn
#   setup    this checkout's last commit and its environment, on every worker
#   run      ganjax ARGUMENTS on every worker, detached:  run train --config=… --workdir=…
#   study    ganjax ablate ARGUMENTS --shard=I/N on the I-th of N single-host VMs:  --name='a b c' study --config=… …
#   logs     the log of worker 0 (or --worker=1, all), followed    status  state of the VM, last line of each worker
#   stop     SIGTERM: the run saves and ends                       delete  the VM and its queued resource
#   ssh      ARGUMENTS as a command line of every worker
# Flags, or the environment variable of the same name in capitals: --name, --zone, --project, --type (v4-8, v5litepod-8),
# --version (of the image: tpu-ubuntu2204-base, v2-alpha-tpuv5-lite), --worker, --spot, --queued, --dry-run (prints only).
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf 'ganjax: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

while [[ ${1:-} = --* ]]; do
  case $1 in
    --spot | --queued | --dry-run) variable=${1#--} value=1 ;;
    --name=* | --zone=* | --project=* | --type=* | --version=* | --worker=*) variable=${1%%=*} variable=${variable#--} value=${1#*=} ;;
    *) die "unknown flag $1; see the head of ${BASH_SOURCE[0]}" ;;
  esac
  variable=${variable//-/_}
  printf -v "${variable^^}" %s "$value"
  shift
done
command=${1:-}
shift || true
: "${NAME:?is missing: of the TPU VM, --name=NAME}"
: "${ZONE:?is missing: of the TPU VM, --zone=us-central2-b}"

# gcloud, printed instead of run with --dry-run; the place is appended to what is called.
gcloud_tpu() { # $1: tpu-vm or queued-resources; the rest: the call
  local place=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
  if [ -n "${DRY_RUN:-}" ]; then printf '%q ' gcloud compute tpus "$@" "${place[@]}" && echo && return; fi
  gcloud compute tpus "$@" "${place[@]}"
}
on_workers() { # $1: VM, $2: worker or all, $3: command line
  gcloud_tpu tpu-vm ssh "$1" --worker="$2" --command="$3" ||
    die "worker $2 of $1 did not do it (see above); is it READY? launch/tpu_vm.sh status"
}
start() { # $1: VM, $2: variables for it; the rest: arguments of ganjax
  local vm=$1 variables=$2
  shift 2
  # A trap, unlike an ignored signal, is not inherited: SIGTERM to the group reaches ganjax, and its exit code the log.
  # shellcheck disable=SC2016 # it is expanded on the worker
  on_workers "$vm" all "$(printf '%s' \
    'cd ganjax || exit 1; if [ -s ~/ganjax.pid ] && kill -0 -- "-$(cat ~/ganjax.pid)" 2>/dev/null; then ' \
    'echo "ganjax runs here already" >&2; exit 1; fi; ' \
    'setsid nohup bash -c '\''trap : TERM INT; "$@"; echo "exit code $?"'\'' - ' \
    "env $variables bash launch/local.sh $(printf '%q ' "$@")" \
    '>~/ganjax.log 2>&1 </dev/null & echo $! >~/ganjax.pid')"
}

case $command in
  create)
    : "${TYPE:?is missing: the accelerator, --type=v4-8}" "${VERSION:?is missing: the image, --version=tpu-ubuntu2204-base}"
    if [ -n "${QUEUED:-}" ]; then
      gcloud_tpu queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" \
        --runtime-version="$VERSION" ${SPOT:+--spot}
    else
      gcloud_tpu tpu-vm create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" ${SPOT:+--spot}
    fi ;;
  setup)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    git -C "$root" archive --format=tar.gz -o "$archive" HEAD
    for vm in $NAME; do
      gcloud_tpu tpu-vm scp "$archive" "$vm:ganjax.tgz" --worker=all || die "$vm cannot be reached; is it READY?"
      on_workers "$vm" all "mkdir -p ganjax && tar -xzf ganjax.tgz -C ganjax && bash ganjax/launch/local.sh --version"
    done ;;
  run)
    [ $# -gt 0 ] || die "run needs a command of ganjax: run train --config=… --workdir=…"
    start "$NAME" GANJAX_COORDINATOR=auto "$@" ;;
  study)
    read -ra vms <<<"$NAME"
    for i in "${!vms[@]}"; do start "${vms[i]}" GANJAX_COORDINATOR= ablate "$@" --shard="$i/${#vms[@]}"; done ;;
  logs) on_workers "$NAME" "${WORKER:-0}" 'tail -n 50 -F ganjax.log' ;;
  status)
    for vm in $NAME; do
      if [ -n "${QUEUED:-}" ]; then gcloud_tpu queued-resources describe "$vm" --format='value(state.state)'; fi
      gcloud_tpu tpu-vm describe "$vm" --format='value(state,health)' || die "there is no TPU VM $vm, or not yet"
      on_workers "$vm" all 'tail -n 1 ganjax.log'
    done ;;
  stop) for vm in $NAME; do on_workers "$vm" all "kill -TERM -- \"-\$(cat ganjax.pid)\""; done ;;
  delete)
    for vm in $NAME; do
      if [ -n "${QUEUED:-}" ]; then gcloud_tpu queued-resources delete "$vm" --force --quiet
      else gcloud_tpu tpu-vm delete "$vm" --quiet; fi
    done ;;
  ssh) on_workers "$NAME" "${WORKER:-all}" "$*" ;;
  *) die "unknown command '$command': one of create, setup, run, study, logs, status, stop, delete, ssh" ;;
esac
