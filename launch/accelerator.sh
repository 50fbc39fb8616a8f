# shellcheck shell=bash
# Which build of jax this machine wants. Sourced by setup.sh. Environment: GANJAX_ACCELERATOR=cpu|cuda12|cuda13|tpu.

has_tpu() { # $1: what stands before /dev and /sys (tests). 0x1ae0 is Google's PCI vendor
  local node
  for node in "$1"/dev/accel[0-9]* "$1"/dev/vfio/[0-9]*; do
    [ -e "$node" ] || continue
    [ -n "${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_ID:-}${TPU_NAME:-}" ] && return
    grep -qs 0x1ae0 "$1"/sys/bus/pci/devices/*/vendor && return
  done
  return 1
}

find_accelerator() { # prints cpu, cuda12, cuda13 or tpu
  local gpu driver capability
  case ${GANJAX_ACCELERATOR:-} in
    cpu | cuda12 | cuda13 | tpu) echo "$GANJAX_ACCELERATOR"; return ;;
    ?*) die "GANJAX_ACCELERATOR=$GANJAX_ACCELERATOR is not one of cpu, cuda12, cuda13, tpu." ;;
  esac
  if gpu=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null); then
    IFS=', ' read -r driver capability _ <<<"$gpu"
    driver=${driver%%.*} capability=${capability//[!0-9]/}
    # CUDA 13 wants driver 580 and a Turing card (compute capability 7.5) or later; CUDA 12 driver 525.
    [[ $driver =~ ^[0-9]+$ ]] || driver=0
    if ((driver >= 580 && ${capability:-75} >= 75)); then echo cuda13; return; fi
    if ((driver >= 525)); then echo cuda12; return; fi
    say "the NVIDIA driver ($gpu) is older than 525, so jax runs on the CPU"
  fi
  if has_tpu ''; then echo tpu; else echo cpu; fi
}
