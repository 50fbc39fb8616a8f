#!/usr/bin/env bash
# What must be green: bash launch/test.sh [--all | --slow] [--tests-only] [arguments for pytest]
#   without a flag  linters, types, pages, and the tests of every module that take seconds
#   --all           the slow tests too: everything
#   --slow          the slow tests alone
#   --tests-only    leaves out the linters and the type checker
# Exits with 0 only if every check passed. The last lines are pytest's summary. Environment: as for local.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

lint=true markers=(-m 'not slow')
while true; do
  case ${1:-} in
    --all) markers=() ;;
    --slow) markers=(-m slow) ;;
    --tests-only) lint=false ;;
    *) break ;;
  esac
  shift
done

# The four Fashion-MNIST files, for tests that must not need a network, a browser for the pages, a compiler for the
# native convolutions, and the allocator of long commands.
for package in dataset-fashion-mnist chromium g++ libtcmalloc-minimal4; do
  if ! command -v dpkg >/dev/null; then
    say "not a Debian system: tests that need its package $package are skipped"
  elif dpkg -s $package >/dev/null 2>&1; then :
  elif [ "$(id -u)" != 0 ]; then
    say "tests that need the Debian package $package are skipped; as root: apt-get install $package"
  else
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $package; } >/dev/null ||
      say "apt-get could not install $package; tests that need it are skipped"
  fi
done

accelerator=${GANJAX_ACCELERATOR:-cpu} # the tests run on the CPU unless asked otherwise
set_up "$accelerator" dev
cd "$root"
python=$venv/bin/python
failed=()
check() { # name, command…
  local name=$1 start=$SECONDS
  shift
  if "$@"; then say "$name: passed ($((SECONDS - start)) s)"; else say "$name: FAILED" && failed+=("$name"); fi
}

if $lint; then
  check 'ruff check' "$python" -m ruff check .
  check 'ruff format' "$python" -m ruff format --check .
  check mypy "$python" -m mypy
  check 'docs site' env NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict --quiet # into build/site
  check shellcheck "$venv/bin/shellcheck" -x launch/*.sh launch/*.sbatch .ci/run
fi
[ ${#failed[@]} = 0 ] || say "FAILED before pytest: ${failed[*]} (see above)"

# A test compiles on one core, so there is one worker a core; an accelerator is not shared.
workers=(-n auto --dist worksteal)
[ "$accelerator" = cpu ] || workers=(-n 0)
status=0
"$python" -m pytest "${workers[@]}" ${markers[@]+"${markers[@]}"} "$@" || status=$?
[ "$status" = 0 ] && [ ${#failed[@]} = 0 ] || exit 1
