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
from paths import ROOT

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

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    def stub(self, name: str, text: str) -> None:
        (self.stubs / name).write_text(text)
        (self.stubs / name).chmod(0o755)

    def gpu(self, driver: str, capability: str = "9.0") -> None:
        self.stub("nvidia-smi", f"#!/bin/bash\nprintf '{driver}, {capability}\\n{driver}, {capability}\\n'\n")

    def popen(self, *args: str, script: str = "local.sh", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / "launch" / script), *args],
            cwd=self.cwd,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def start(self, *args: str, script: str = "local.sh", **env: str) -> tuple[int, list[str], str]:
        """Exit code, lines of stdout (of local.sh: cwd, platforms, the arguments), stderr."""
        with self.popen(*args, script=script, **env) as process:
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
    scripts = [
        *sorted(ROOT.glob("launch/*.*sh")),
        *sorted(ROOT.glob("launch/*.sbatch")),
        ROOT / ".ci" / "run",
    ]
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


def test_gpus_are_chosen(machine: Machine) -> None:
    machine.gpu("580.65.06")
    machine.stub("python3", PYTHON.replace('"platforms=$JAX_PLATFORMS"', '"gpus=$CUDA_VISIBLE_DEVICES"'))
    _, out, err = machine.start("--gpus=0,2", "train", "--dry-run")
    assert out[1:] == ["gpus=0,2", "train", "--dry-run"], err
    code, out, _ = machine.start("--gpus=1", "--dry-run", "train", "--workdir=a b")
    assert code == 0 and out == [
        f"env CUDA_VISIBLE_DEVICES=1 {quoted(machine.venv)}/bin/ganjax train --workdir=a\\ b "
    ]
    code, _, err = machine.start("--gpus=all", "train")
    assert code == 1 and "--gpus takes numbers joined by commas, and got 'all'" in err
    code, _, err = machine.start("--gpus=0", "train", GANJAX_ACCELERATOR="cpu")
    assert code == 1 and "there is no GPU" in err


# Records its arguments, one line a call, and fails when a call holds the text in GCLOUD_FAIL.
GCLOUD = """#!/bin/bash
printf '%q ' "$@" >>"$LOG" && echo >>"$LOG"
[ -z "$GCLOUD_FAIL" ] || [[ "$*" != *$GCLOUD_FAIL* ]]
"""


def tpu(machine: Machine, *args: str, **env: str) -> tuple[int, list[str], str]:
    """tpu_vm.sh with a stub of gcloud: exit code, the calls of gcloud, stderr."""
    machine.stub("gcloud", GCLOUD)
    machine.log.unlink(missing_ok=True)
    code, out, err = machine.start(*args, script="tpu_vm.sh", **env)
    return code, out if "--dry-run" in args else machine.calls, err


PLACE = ("--name=pod", "--zone=us-x")


@pytest.mark.parametrize(
    ("args", "calls"),
    [
        (
            ("--type=v4-8", "--version=img", "create"),
            ["tpu-vm create pod --accelerator-type=v4-8 --version=img --zone=us-x"],
        ),
        (
            ("--type=v4-8", "--version=img", "--queued", "--spot", "--project=p", "create"),
            [
                "queued-resources create pod --node-id=pod --accelerator-type=v4-8 --runtime-version=img --spot"
                " --zone=us-x --project=p"
            ],
        ),
        (("delete",), ["tpu-vm delete pod --quiet --zone=us-x"]),
        (("--queued", "delete"), ["queued-resources delete pod --force --quiet --zone=us-x"]),
        (("logs",), [r"tpu-vm ssh pod --worker=0 --command=tail\ -n\ 50\ -F\ ganjax.log --zone=us-x"]),
        (("--worker=2", "ssh", "df", "-h"), [r"tpu-vm ssh pod --worker=2 --command=df\ -h --zone=us-x"]),
        (
            ("status",),
            [
                r"tpu-vm describe pod --format=value\(state\,health\) --zone=us-x",
                r"tpu-vm ssh pod --worker=all --command=tail\ -n\ 1\ ganjax.log --zone=us-x",
            ],
        ),
    ],
)
def test_tpu_vm_calls_gcloud(machine: Machine, args: tuple[str, ...], calls: list[str]) -> None:
    code, found, err = tpu(machine, *PLACE, *args)
    assert code == 0, err
    assert [call.strip() for call in found] == [f"compute tpus {call}" for call in calls]
    code, printed, _ = tpu(machine, *PLACE, "--dry-run", *args)
    assert code == 0 and not machine.calls
    assert [line.strip() for line in printed] == [f"gcloud compute tpus {call}" for call in calls]


def test_tpu_vm_runs_the_same_command_on_every_worker(machine: Machine) -> None:
    """What a worker would be sent is run here, in a home with a checkout, and stopped."""
    worker = machine.cwd
    (worker / "ganjax" / "launch").mkdir(parents=True)
    (worker / "ganjax" / "launch" / "local.sh").write_text(
        'printf "%s\\n" "$GANJAX_COORDINATOR" "$@"; trap "echo saved; exit 0" TERM; while :; do sleep .1; done\n'
    )
    machine.stub(
        "gcloud",
        '#!/bin/bash\ncd "$HOME"\nfor a; do [[ $a != --command=* ]] || bash -c "${a#--command=}" || exit 1; done\n',
    )
    run = ("run", "train", "--workdir=my runs/a", "--config.x=(1, 2)")
    home = {"HOME": str(worker)}
    log = worker / "ganjax.log"
    code, _, err = machine.start(*PLACE, *run, script="tpu_vm.sh", **home)
    assert code == 0, err
    wait_for(log, "--config.x=(1, 2)")
    assert log.read_text().splitlines() == ["auto", "train", "--workdir=my runs/a", "--config.x=(1, 2)"]
    code, _, err = machine.start(*PLACE, *run, script="tpu_vm.sh", **home)
    assert code == 1 and "ganjax runs here already" in err and "worker all of pod did not do it" in err
    assert machine.start(*PLACE, "stop", script="tpu_vm.sh", **home)[0] == 0
    wait_for(log, "exit code 0")
    assert "saved" in log.read_text()


def wait_for(log: Path, text: str) -> None:
    deadline = time.monotonic() + 10
    while not log.exists() or text not in log.read_text():
        assert time.monotonic() < deadline, log.exists() and log.read_text()
        time.sleep(0.02)


def test_tpu_vm_shares_a_study_among_machines(machine: Machine) -> None:
    code, calls, err = tpu(machine, "--name=a b", "--zone=z", "study", "--config=s.py", "--workdir=w")
    assert code == 0, err
    for i, (name, call) in enumerate(zip("ab", calls, strict=True)):
        assert call.startswith(f"compute tpus tpu-vm ssh {name} --worker=all")
        assert f"--shard={i}/2" in call.replace("\\", "") and "GANJAX_COORDINATOR= bash" in call.replace(
            "\\", ""
        )


def test_tpu_vm_sets_up_the_last_commit(machine: Machine) -> None:
    machine.stub("git", '#!/bin/bash\necho "git ${*:1:4}" >>"$LOG"\n')
    code, calls, err = tpu(machine, *PLACE, "setup")
    assert code == 0, err
    assert calls[0].startswith("git -C") and "scp" in calls[1] and "pod:ganjax.tgz --worker=all" in calls[1]
    assert "tar" in calls[2] and "launch/local.sh" in calls[2]
    code, calls, err = tpu(machine, *PLACE, "setup", GCLOUD_FAIL="scp")
    assert code == 1 and "pod cannot be reached" in err and len(calls) == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--zone=z", "create"), "NAME: is missing"),
        (("--name=n", "create"), "ZONE: is missing"),
        ((*PLACE, "create"), "TYPE: is missing"),
        ((*PLACE, "fly"), "unknown command 'fly'"),
        ((*PLACE, "--fast", "run"), "unknown flag --fast"),
        ((*PLACE, "run"), "run needs a command of ganjax"),
    ],
)
def test_tpu_vm_says_what_is_missing(machine: Machine, args: tuple[str, ...], said: str) -> None:
    code, calls, err = tpu(machine, *args)
    assert code == 1 and said in err and not calls


def slurm(machine: Machine, *args: str, **env: str) -> tuple[int, list[str], str]:
    """slurm.sbatch as SLURM would start it: exit code, calls of srun and scontrol, stderr."""
    machine.stub("srun", '#!/bin/bash\necho "srun $*" >>"$LOG"\nexit ${SRUN_FAIL:-0}\n')
    machine.stub("scontrol", '#!/bin/bash\necho "scontrol $*" >>"$LOG"\n')
    machine.log.unlink(missing_ok=True)
    given = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(machine.root), **env}
    code, out, err = machine.start(*args, script="slurm.sbatch", **given)
    found = [call for call in machine.calls if call.startswith("s")]
    return code, out if "--dry-run" in args else found, err


def test_slurm_starts_a_step_and_queues_again(machine: Machine) -> None:
    step = f"srun --kill-on-bad-exit=1 --gpu-bind=none bash {machine.root}/launch/local.sh"
    code, calls, err = slurm(machine, "train", "--workdir=w")
    assert (code, calls) == (0, [f"{step} train --workdir=w"]), err
    code, calls, err = slurm(machine, "train", SRUN_FAIL="3", GANJAX_REQUEUE="1")
    assert code == 1 and len(calls) == 1 and "exit code 3" in err
    workdir = machine.cwd / "w"
    workdir.mkdir()
    for reason, number in (("preempted", 2), ("completed", 1)):
        (workdir / "summary.json").write_text(f'{{\n  "reason": "{reason}"\n}}')
        code, calls, err = slurm(machine, "train", f"--workdir={workdir}", GANJAX_REQUEUE="1")
        assert code == 0 and len(calls) == number, err
    assert slurm(machine, "--dry-run", "train")[1][1].startswith("srun ")


def test_slurm_shares_a_study_among_an_array(machine: Machine) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_TASK_MIN": "0"}
    code, calls, err = slurm(machine, "ablate", "--workdir=w", **array)
    assert code == 0 and calls[0].endswith("local.sh ablate --workdir=w --shard=3/8"), err
    code, calls, err = slurm(machine, "train", **array)
    assert code == 1 and not calls and "an array is for studies" in err
    code, calls, err = slurm(machine, "ablate", **{**array, "SLURM_ARRAY_TASK_MIN": "1"})
    assert code == 1 and not calls and "--array=0-7" in err


def test_slurm_says_what_is_missing(machine: Machine) -> None:
    code, _, err = slurm(machine, "train", SLURM_JOB_ID="")
    assert code == 1 and "SLURM_JOB_ID: is missing" in err
    code, _, err = slurm(machine, "train", SLURM_SUBMIT_DIR="/")
    assert code == 1 and "no checkout of ganjax" in err
    code, _, err = slurm(machine)
    assert code == 1 and "no command" in err


def quoted(path: Path) -> str:
    """As `printf %q` writes it."""
    return str(path).replace(" ", "\\ ")
