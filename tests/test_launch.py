"""launch/: which jax build is chosen, that the environment is made once, and that arguments arrive unchanged.

The Python, pip and nvidia-smi that the scripts meet here are stubs which record how they were called.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the launch scripts are for bash")

PYTHON = """#!/bin/bash
# The base interpreter and, through a link, the one of the environment it makes.
case "$1 $2" in
  '-m venv')
    mkdir -p "$3/bin" && ln -sf "$STUBS/python3" "$3/bin/python" && echo venv >>"$LOG" ;;
  '-m pip')
    echo "pip ${*:3}" >>"$LOG"
    [ -z "$PIP_SLEEP" ] || sleep "$PIP_SLEEP"
    [ -z "$PIP_FAIL" ] || exit 1
    printf '#!/bin/bash\\nprintf "%%s\\\\n" "$PWD" "platforms=$JAX_PLATFORMS" "$@"\\n' >"${0%/*}/ganjax"
    chmod +x "${0%/*}/ganjax" ;;
  '-c import ensurepip'*) [ -z "$NO_VENV" ] || [ -e "$STUBS/venv-module" ] ;;
  '-c '*version) echo 3.12.0 stub ;;
  '-c '* | '-V '*) echo 3.12 ;;
esac
"""


class Machine:
    """A copy of the checkout's launch files in a folder with a space, and a PATH with stubs before the system's."""

    def __init__(self, folder: Path) -> None:
        self.root, self.stubs, self.log = folder / "a checkout", folder / "stubs", folder / "log"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        for name in ["pyproject.toml", "constraints.txt"]:
            shutil.copy(ROOT / name, self.root / name)
        self.stubs.mkdir()
        self.cwd = folder / "elsewhere"
        self.cwd.mkdir()
        self.stub("python3", PYTHON)
        for name in ["python3.11", "python3.12", "python3.13"]:  # like pyenv's shims of absent versions
            self.stub(name, "#!/bin/bash\nexit 127\n")
        self.stub("nvidia-smi", "#!/bin/bash\nexit 9\n")
        self.env = {
            "PATH": f"{self.stubs}:/usr/bin:/bin",
            "HOME": str(folder),
            "STUBS": str(self.stubs),
            "LOG": str(self.log),
        }

    def stub(self, name: str, text: str) -> None:
        (self.stubs / name).write_text(text)
        (self.stubs / name).chmod(0o755)

    def gpu(self, driver: str, capability: str = "9.0") -> None:
        self.stub("nvidia-smi", f"#!/bin/bash\nprintf '{driver}, {capability}\\n{driver}, {capability}\\n'\n")

    def popen(self, *args: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / "launch" / "local.sh"), *args],
            cwd=self.cwd,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, *args: str, **env: str) -> tuple[int, list[str], str]:
        """Exit code, lines of stdout (cwd, platforms, the arguments), stderr."""
        with self.popen(*args, **env) as process:
            out, err = process.communicate(timeout=30)
        return process.returncode, out.splitlines(), err

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def installed(self) -> str:
        """The last thing that pip was asked to install."""
        return self.calls[-1].rpartition(" ")[2]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_shellcheck_passes() -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    scripts = [*sorted(ROOT.glob("launch/*.sh")), ROOT / ".ci" / "run"]
    done = subprocess.run([shellcheck, "-x", *map(str, scripts)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("driver", "capability", "extra"),
    [
        ("580.65.06", "9.0", ".[cuda13]"),
        ("610.10", "7.5", ".[cuda13]"),
        ("580.65.06", "7.0", ".[cuda12]"),  # CUDA 13 dropped Volta
        ("575.57.08", "9.0", ".[cuda12]"),
        ("525.60.13", "8.0", ".[cuda12]"),
        ("470.82.01", "8.0", "."),
        ("N/A", "N/A", "."),
    ],
)
def test_cuda_build_follows_driver_and_card(
    machine: Machine, driver: str, capability: str, extra: str
) -> None:
    machine.gpu(driver, capability)
    code, _, err = machine.start("train")
    assert code == 0, err
    assert machine.installed == extra
    assert ("older than 525" in err) == (extra == ".")


def test_cpu_without_accelerator(machine: Machine) -> None:
    code, out, err = machine.start("train")
    assert code == 0, err
    assert machine.installed == "."
    assert "platforms=cpu" in out


def test_tpu_needs_device_and_google(machine: Machine, tmp_path: Path) -> None:
    def has_tpu(**env: str) -> bool:
        script = f'. "{machine.root}/launch/setup.sh"; has_tpu "{tmp_path}/sysroot"'
        return subprocess.run(["bash", "-c", script], env={**machine.env, **env}).returncode == 0

    assert not has_tpu(TPU_WORKER_ID="0")
    device = tmp_path / "sysroot" / "dev" / "vfio" / "0"
    device.parent.mkdir(parents=True)
    device.touch()
    assert not has_tpu()
    assert has_tpu(TPU_WORKER_ID="0")
    vendor = tmp_path / "sysroot" / "sys" / "bus" / "pci" / "devices" / "0000:00:05.0" / "vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x1ae0\n")
    assert has_tpu()


def test_accelerator_can_be_named(machine: Machine) -> None:
    machine.gpu("580.65.06")
    machine.start("train", GANJAX_ACCELERATOR="tpu")
    assert machine.installed == ".[tpu]"
    machine.start("train")
    assert machine.calls[-2] == "venv" and machine.installed == ".[cuda13]"  # builds of jax are not mixed
    _, out, _ = machine.start("train", GANJAX_ACCELERATOR="cpu")
    assert len(machine.calls) == 4 and "platforms=cpu" in out  # any build runs on the CPU too
    code, _, err = machine.start("train", GANJAX_ACCELERATOR="gpu")
    assert code == 1 and "gpu is not one of cpu, cuda12, cuda13, tpu" in err


def test_arguments_arrive_unchanged(machine: Machine) -> None:
    args = ["train", "--workdir=my runs/a", "--config.x=(1, 2)", "", "*", "a'b\"c", "$HOME"]
    code, out, err = machine.start(*args)
    assert code == 0, err
    assert out == [str(machine.cwd), "platforms=cpu", *args]


def test_second_start_uses_neither_pip_nor_search(machine: Machine) -> None:
    machine.start("train")
    calls = machine.calls
    assert calls[0] == "venv" and len(calls) == 2
    machine.stub("python3", "#!/bin/bash\nexit 1\n")
    code, out, err = machine.start("sample")
    assert (code, out[2:], err) == (0, ["sample"], "")
    assert machine.calls == calls


def test_changed_requirements_install_again(machine: Machine) -> None:
    machine.start("train")
    with (machine.root / "constraints.txt").open("a") as file:
        file.write("# newer\n")
    machine.start("train")
    assert [call.split()[0] for call in machine.calls] == ["venv", "pip", "pip"]


def test_failed_installation_is_repaired(machine: Machine) -> None:
    code, out, err = machine.start("train", PIP_FAIL="1")
    assert code == 1 and not out and "installation failed" in err
    code, out, err = machine.start("train")
    assert code == 0 and out[2:] == ["train"], err
    assert [call.split()[0] for call in machine.calls] == ["venv", "pip", "venv", "pip"]


def test_killed_installation_is_repaired(machine: Machine) -> None:
    with machine.popen("train", PIP_SLEEP="20") as process:
        while not any(call.startswith("pip") for call in machine.calls):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert machine.start("train")[0] == 0
    assert [call.split()[0] for call in machine.calls] == ["venv", "pip", "venv", "pip"]


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_two_first_starts_install_once(machine: Machine) -> None:
    with machine.popen("train", PIP_SLEEP="0.5") as one, machine.popen("train", PIP_SLEEP="0.5") as two:
        out = [process.communicate(timeout=30) for process in (one, two)]
    assert [one.returncode, two.returncode] == [0, 0], out
    assert len(machine.calls) == 2
    assert sum("waiting for another start" in err for _, err in out) == 1


def test_missing_venv_module_is_fetched_as_root_on_debian(machine: Machine) -> None:
    machine.stub(
        "apt-get", '#!/bin/bash\necho "apt-get $*" >>"$LOG"\n[ $1 = update ] || touch "$STUBS/venv-module"\n'
    )
    machine.stub("id", "#!/bin/bash\necho 1000\n")
    code, _, err = machine.start("train", NO_VENV="1")
    assert code == 1 and "cannot make virtual environments; as root: apt-get install" in err
    assert not machine.calls
    machine.stub("id", "#!/bin/bash\necho 0\n")
    code, _, err = machine.start("train", NO_VENV="1")
    assert code == 0, err
    assert [call.split()[0] for call in machine.calls] == ["apt-get", "apt-get", "venv", "pip"]


def test_foreign_folder_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    code, _, err = machine.start("train", GANJAX_VENV=str(tmp_path / "mine"))
    assert code == 1 and "was not made by launch/" in err
    assert (tmp_path / "mine" / "precious").exists() and not machine.calls


def test_relative_environment_belongs_to_the_caller(machine: Machine) -> None:
    assert machine.start("train", GANJAX_VENV="here/env")[0] == 0
    assert (machine.cwd / "here" / "env" / "bin" / "ganjax").exists()


def test_no_python_says_so(machine: Machine) -> None:
    machine.stub("python3", "#!/bin/bash\nexit 1\n")
    code, _, err = machine.start("train")
    assert code == 1 and "no working Python >= 3.11" in err
    code, _, err = machine.start("train", PYTHON="python9")
    assert code == 1 and "PYTHON=python9 does not run" in err
