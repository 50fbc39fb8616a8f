# shellcheck shell=bash
# What local.sh and test.sh share: find a Python, keep the virtual environment ready. Sourced, not run.
# Environment: PYTHON, GANJAX_VENV, and what accelerator.sh takes.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${GANJAX_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
stamp=$venv/.ganjax-installed

say() { printf 'ganjax: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
# shellcheck source-path=SCRIPTDIR source=accelerator.sh
. "$root/launch/accelerator.sh"

# Shims can exist and still fail, so a Python counts only if it runs.
usable() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

find_python() { # prints a Python >= 3.11, one that can make virtual environments if there is any
  local candidate spare=
  if [ -n "${PYTHON:-}" ]; then
    usable "$PYTHON" || die "PYTHON=$PYTHON does not run, or is older than 3.11."
    echo "$PYTHON"; return
  fi
  for candidate in python3.13 python3.12 python3.11 python3; do
    usable "$candidate" || continue
    if has_venv "$candidate"; then echo "$candidate"; return; fi
    spare=${spare:-$candidate}
  done
  [ -n "$spare" ] || die "no working Python >= 3.11 on PATH; install one, or name it: PYTHON=/path/to/python3.12"
  echo "$spare"
}

need_venv_module() { # Debian and Ubuntu package it apart from Python
  has_venv "$1" && return
  local package
  package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $package, which $1 lacks"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } >/dev/null || true
  fi
  has_venv "$1" || die "$1 cannot make virtual environments; as root: apt-get install $package"
}

ready() { # $1: the accelerator, $2: - or dev. Any build of jax can also run on the CPU
  local key accelerator dev
  [ -x "$venv/bin/python" ] && read -r key accelerator dev 2>/dev/null <"$stamp" || return
  [ "$key" = "$(install_key)" ] && [[ $1 = cpu || $1 = "$accelerator" ]] && [[ $2 = - || $2 = "$dev" ]] || return
  [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version "$venv/bin/python")" ]
}
version() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }
install_key() { { echo "$root" && cat "$root/pyproject.toml" "$root/constraints.txt"; } | cksum | tr ' ' -; }

install() { # $1, $2 as above. The stamp says `building` until all is done, so what was cut short is made anew
  local key='' accelerator='' dev='' python extras
  if [ -e "$stamp" ]; then read -r key accelerator dev <"$stamp" || true
  elif [ -n "$(ls -A "$venv")" ]; then die "$venv was not made by launch/; move it away or set GANJAX_VENV."; fi
  [ "$1" = cpu ] && [ -n "$accelerator" ] && set -- "$accelerator" "$2"
  [ "$2" = - ] && [ "$dev" = dev ] && set -- "$1" dev
  if [ ! -x "$venv/bin/python" ] || [ "$key" = building ] || [ "${accelerator:-cpu}" != "$1" ] ||
    [ "${PYTHON:+$(version "$PYTHON")}" != "${PYTHON:+$(version "$venv/bin/python")}" ]; then
    python=$(find_python)
    need_venv_module "$python"
    echo building >"$stamp"
    find "$venv" -mindepth 1 ! -path "$stamp" -delete
    "$python" -m venv "$venv"
  fi
  echo building >"$stamp"
  extras=$1,$2 extras=${extras/cpu/} extras=${extras/,-/} extras=${extras#,}
  say "installing into $venv ($("$venv/bin/python" -V), jax for $1); this takes some minutes, once"
  (cd "$root" && "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt \
    -e ".${extras:+[$extras]}") || die "the installation failed (see above); the next start begins anew."
  echo "$(install_key) $1 $2" >"$stamp.new" && mv "$stamp.new" "$stamp"
}

set_up() { # set_up ACCELERATOR [dev]: leaves $venv ready; several at once wait for each other
  if [ "$1" = cpu ]; then export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}; fi
  ready "$1" "${2:--}" && return
  mkdir -p "$venv"
  (
    if command -v flock >/dev/null; then
      flock -n 9 || { say "waiting for another start to finish its installation" && flock 9; }
    fi
    ready "$1" "${2:--}" || install "$1" "${2:--}"
  ) 9<"$venv"
}
