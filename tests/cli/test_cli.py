"""The command line: exit codes, messages without tracebacks, dry runs. Training itself is in test_train.py."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paths import ROOT

from ganjax.cli import main as cli
from ganjax.cli.completion import parsers_in
from ganjax.config import recipe as configs
from ganjax.config.options import OPTIONS
from ganjax.config.shipped import FOLDERS, shipped, summary
from ganjax.runtime.errors import DivergedError, UserError, quoted
from ganjax.runtime.signals import StopSignals
from ganjax.runtime.workdir import Workdir

if TYPE_CHECKING:
    from conftest import RunCli

QUICKSTART = f"--config={ROOT / 'configs' / 'quickstart.py'}"
SECONDS = 60  # of patience with a busy machine; alone each takes two or three

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str]) -> Main:
    """`main(*args)`: the exit code, stdout and stderr of a command that ends before it needs JAX."""

    def call(*args: str | Path) -> tuple[int, str, str]:
        try:
            code = cli.main([str(arg) for arg in args])
        except SystemExit as stopped:  # argparse
            code = int(stopped.code or 0)
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


# Options that do not go together, for the quickstart (hinge, spectral norm in D), and words of the reason.
BAD_COMBINATIONS = {
    "loss.label_smoothing=0.1": ["label_smoothing=0.1, loss.name='hinge'", "real target"],
    "loss.label_smoothing=0.1 loss.name=wasserstein": ["loss.name='wasserstein'", "real target"],
    "dis.norm=batch penalty.name=wgan_gp": ["dis.norm='batch', penalty.name='wgan_gp'", "per example"],
    "dis.norm=batch dis.packing=2": ["dis.packing=2", "mix the groups"],
    "penalty.clip_weights=0.01": ["penalty.clip_weights=0.01, dis.spectral_norm=True", "does nothing"],
    "gen.optimizer.warmup_steps=1600": ["warmup_steps=1600, train.steps=1600", "end before it starts"],
    "train.accumulate=3": ["train.batch_size=32, train.accumulate=3", "must divide"],
    "penalty.weight=-1": ["penalty.weight", "at least 0", "-1"],
}


def assert_refused(code: int, stderr: str, *expected: str) -> None:
    assert code == 2, stderr
    assert "Traceback" not in stderr
    assert stderr.startswith("ganjax: ") and stderr.count("ganjax: ") == 1
    for text in expected:
        assert text in stderr


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["train"], ["--config=NAME", "--config=FILE[:ARG]", "for example"]),
        (["train", QUICKSTART], ["--workdir=DIR", "for example"]),
        (["train", "--config=quikstart"], ["'quikstart'", "Did you mean 'quickstart'?", "ganjax recipes"]),
        (["ablate", "--config=ten_lesson", "--workdir=w"], ["'ten_lesson'", "Did you mean 'ten_lessons'?"]),
        (["recipes", "show", "rign"], ["'rign'", "Did you mean 'ring'?"]),
        (["new", "x.py", "--from=rign"], ["'rign'", "Did you mean 'ring'?"]),
        (["train", "--config=configs/quickstrat.py"], ["configs/quickstrat.py", "Did you mean"]),
        (["train", f"--config={'x' * 5000}"], ["There is no recipe 'xxx", "x…'"]),
        (["data", "stats", "x" * 5000], ["of 5,000 letters is too long"]),
        (["train", QUICKSTART, "--config.trian.steps=3"], ["'trian.steps'", "Did you mean 'train.steps'?"]),
        (["train", QUICKSTART, "--config.train.steps=x"], ["train.steps", "an integer", "'x'"]),
        (["train", QUICKSTART, "--config.train.steps"], ["--config.train.steps=VALUE"]),
        (["train", QUICKSTART, "--config.train.steps", "--dry-run"], ["--config.train.steps=VALUE"]),
        (
            ["train", QUICKSTART, "--config.dis.norm=batch", "--config.penalty.name=r1"],
            ["do not go together"],
        ),
        *(
            (["train", QUICKSTART, *(f"--config.{option}" for option in options.split())], expected)
            for options, expected in BAD_COMBINATIONS.items()
        ),
        (["train", QUICKSTART, "--config.data.resolution=2048"], ["data.resolution", "2048", "1024"]),
        (
            ["sample", "--workdir=w", "--out=x.png", "--config.seed=3"],
            ["sample takes its config from the run"],
        ),
    ],
)
def test_bad_options(
    main: Main, monkeypatch: pytest.MonkeyPatch, args: list[str], expected: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    code, out, err = main(*args)
    assert_refused(code, err, *expected)
    assert not out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config.seed=3", "--json"], "COMMAND"),
        (["trian"], "Did you mean 'train'?"),
        (["data", "prepair"], "Did you mean 'prepare'?"),
        (["sample", "--workdir=x", "--out=x.png", "--weights=rwa"], "Did you mean 'raw'?"),
        (["train", "--workdri=x"], "unrecognized arguments: --workdri=x"),
        (["train", "--conf=x"], "unrecognized"),
        (["sample", "--workdir=x"], "--out"),
        (["sample", "--workdir=x", "--out=x.png", "--n=many"], "invalid int value: 'many'"),
    ],
)
def test_bad_arguments(main: Main, args: list[str], expected: str) -> None:
    code, _, err = main(*args)
    assert code == 2 and expected in err and "usage: ganjax" in err


def test_help(main: Main) -> None:
    code, out, _ = main("train", "--help-config")
    assert code == 0 and all(option.key in out for option in OPTIONS)
    assert main("--version")[1].startswith("ganjax ")


def test_without_a_command_three_lines_say_where_to_begin(main: Main) -> None:
    code, out, err = main()
    assert code == 0 and not err and out.count("\n") == 3
    example = shlex.split(out.splitlines()[1].removeprefix("First: ganjax ").partition("    ")[0])
    arguments = cli.make_parser().parse_args(example)
    assert configs.resolve(arguments.config).data.name == "digits"


def test_recipes_are_listed_and_printed(main: Main) -> None:
    code, out, _ = main("recipes")
    assert code == 0
    for function in FOLDERS:
        for name, path in shipped(function).items():
            what, measured = summary(path)
            assert f"\n  {name:<16}{what}\n" in out and measured in " ".join(out.split())
            assert main("recipes", "show", name)[1] == path.read_text()


def test_a_recipe_of_ones_own_is_a_copy_to_edit(main: Main, tmp_path: Path) -> None:
    out = tmp_path / "mine.py"
    code, text, _ = main("new", out, "--from=stylegan2")
    assert code == 0 and f"ganjax train --config={out}" in text
    assert f"--config={out}:msg" in out.read_text() and "--config=stylegan2" not in out.read_text()
    small, own = configs.resolve("stylegan2:small"), configs.resolve(f"{out}:small")
    assert configs.flatten(own) == configs.flatten(small)
    out.write_text("edited")
    assert_refused(*main("new", out)[::2], str(out), "nothing is overwritten")
    assert out.read_text() == "edited"
    assert_refused(*main("new", tmp_path / "mine")[::2], "ending in .py")
    code, text, _ = main("new", tmp_path / "study.py", "--from=msg")
    assert code == 0 and "ganjax ablate" in text and "--config=msg" not in (tmp_path / "study.py").read_text()


def parsers() -> dict[str, Any]:
    """The parser of every command and of those below it, by what is typed to reach it."""
    return {parser.prog.removeprefix("ganjax").strip(): parser for parser in parsers_in(cli.make_parser())}


@pytest.mark.parametrize("command", parsers())
def test_help_begins_with_an_example_and_fits_a_screen(
    main: Main, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = main(*command.split(), "--help")
    shown = out.splitlines()
    assert code == 0 and len(shown) <= 50 and max(map(len, shown)) <= 100
    assert (
        shown[0].startswith(f"Example: ganjax {command}".strip())
        and f"usage: ganjax {command}".strip() in out
    )


@pytest.mark.parametrize("command", parsers())
def test_examples_of_help_are_read(command: str) -> None:
    """Each is a command that the parser takes, and no abbreviation of one."""
    example = parsers()[command].description.splitlines()[0].removeprefix("Example: ganjax ")
    rest, _ = cli.split_overrides(shlex.split(example))
    cli.make_parser().parse_args(rest)


SHELLS = {
    "bash": (["bash", "--norc", "-i"], ["source ./_ganjax"]),
    "zsh": (["zsh", "-f", "-i"], ["fpath=(. $fpath)", "autoload -Uz compinit; compinit -u -d ./dump"]),
}
# What is typed before the tab → what stands there after it.
COMPLETED = {
    "ganjax rep": "ganjax report ",
    "ganjax sample --tru": "ganjax sample --truncation",
    "ganjax sample --weights=e": "ganjax sample --weights=ema ",
    "ganjax sample --weights e": "ganjax sample --weights ema ",
    "ganjax export --workdir=ru": "ganjax export --workdir=runs/",
    "ganjax train --config=quick": "ganjax train --config=quickstart ",
    "ganjax train --config=min": "ganjax train --config=mine.py ",
    "ganjax train --config.model.na": "ganjax train --config.model.name",
    "ganjax train --config.loss.name=hi": "ganjax train --config.loss.name=hinge ",
    "ganjax ablate --config=ten": "ganjax ablate --config=ten_lessons ",
    "ganjax new x.py --from=own": "ganjax new x.py --from=own_images ",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete(main: Main, tmp_path: Path, shell: str) -> None:
    """A real shell in a terminal of its own, where somebody presses the tab."""
    command, before = SHELLS[shell]
    if not shutil.which(command[0]):
        pytest.skip(f"{shell} is not installed")
    code, script, _ = main("--print-completion", shell)
    (tmp_path / "_ganjax").write_text(script)
    (tmp_path / "runs").mkdir()
    (tmp_path / "mine.py").touch()
    terminal, inner = pty.openpty()
    child = subprocess.Popen(
        command,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        cwd=tmp_path,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(inner)
    seen, deadline = "", time.monotonic() + SECONDS
    try:
        for line in (*before, "PS1='$ '"):
            os.write(terminal, f"{line}\n".encode())
        for typed, expected in COMPLETED.items():
            os.write(terminal, f"\x15{typed}\t".encode())  # Ctrl-U: the line anew
            seen = ""
            while expected not in seen and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.2)[0]:
                    seen += os.read(terminal, 65536).decode(errors="replace")
            assert code == 0 and expected in seen, (typed, seen)
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


def test_overrides_in_both_spellings() -> None:
    rest, overrides = cli.split_overrides(["train", "--config.a=1=2", "--config.b", "-3", "--config=f.py"])
    assert rest == ["train", "--config=f.py"]
    assert overrides == [("a", "1=2"), ("b", "-3")]


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "left at once"),
        (DivergedError("It diverged."), 3, "It diverged."),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            2,
            "failed at /x: No space left on device. Free",
        ),
        (OSError(errno.EISDIR, "Is a directory", "/x"), 2, "Check that path"),
        (OSError(errno.EMFILE, "Too many open files"), 2, "(ulimit -n)"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), 2, "allocating 8 bytes"),
        (UserError("\x1b[31m\r\ud800/\u202e"), 2, r"ganjax: \x1b[31m\x0d\xed\xa0\x80/\xe2\x80\xae"),
    ],
)
def test_exit_codes(
    main: Main, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setitem(cli.COMMANDS, "train", fail)
    found, _, err = main("train")
    assert found == code and text in err


def test_a_hook_that_is_set_during_a_run_outlives_it(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    mine = lambda found: None
    with StopSignals():
        sys.unraisablehook = mine
    assert sys.unraisablehook is mine


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([], ""),
        ([signal.SIGTERM], "preempted"),
        ([signal.SIGTERM, signal.SIGTERM], "preempted"),
        ([signal.SIGINT], "interrupted"),
        ([signal.SIGHUP], "preempted"),
    ],
)
def test_signals_ask_to_stop(numbers: Sequence[signal.Signals], reason: str) -> None:
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        with StopSignals() as stop:
            assert not stop
            for number in numbers:
                os.kill(os.getpid(), number)
            assert stop.reason == reason and bool(stop) == bool(numbers)
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "name", ["plain", "a b", "it's", "$(x)", "\x1b[31m;ls\n", "tab\there", "back\\slash\x07", "é"]
)
def test_printed_commands_are_what_bash_reads_back(name: str) -> None:
    told = quoted(Path(name))
    assert not re.search(r"[\x00-\x1f]", told)
    done = subprocess.run(["bash", "-c", f"printf %s {told}"], capture_output=True, check=True)
    assert os.fsdecode(done.stdout) == name


def test_a_second_interrupt_leaves_and_a_third_kills() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), StopSignals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def other_config_in(workdir: Path) -> None:
    """A workdir that holds a run of the quickstart, smaller and with another seed."""
    config = configs.resolve(QUICKSTART.removeprefix("--config="), [("gen.width", "4"), ("seed", "3")])
    workdir.mkdir()
    (workdir / "config.json").write_text(json.dumps(configs.to_json(config)))


def test_a_run_goes_on_by_its_folder_alone(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With options that may change, and with the words of the folder for others."""
    other_config_in(tmp_path / "run")
    trained: list[Any] = []
    monkeypatch.setattr("ganjax.run.train.train", lambda *given, **options: trained.append((given, options)))
    more = ("--config.train.steps=9", "--accept-new-data")
    assert main("train", f"--workdir={tmp_path / 'run'}", *more)[0] == 0
    (((config, workdir), options),) = trained
    assert (config.gen.width, config.seed, config.train.steps) == (4, 3, 9)
    assert workdir == tmp_path / "run" and options == {"accept_new_data": True}
    monkeypatch.undo()
    code, _, err = main("train", f"--workdir={tmp_path / 'run'}", "--config.gen.width=5")
    assert_refused(code, err, "another config", "gen.width: was 4, now 5")
    code, _, err = main("train", f"--workdir={tmp_path / 'new'}")
    assert_refused(code, err, "holds no run", "A new run needs a recipe")
    assert not (tmp_path / "new").exists()


def file_in_the_way(workdir: Path) -> None:
    workdir.write_text("")


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (file_in_the_way, ["cannot be used", "a file of that name is in the way"]),
        (other_config_in, ["another config", "gen.width: was 4, now 32", "seed: was 3, now 0"]),
    ],
)
def test_unusable_workdirs(
    run_cli: RunCli, tmp_path: Path, prepare: Callable[[Path], None], expected: list[str]
) -> None:
    prepare(tmp_path / "run")
    result = run_cli("train", QUICKSTART, f"--workdir={tmp_path / 'run'}", timeout=SECONDS)
    assert_refused(result.returncode, result.stderr, str(tmp_path / "run"), *expected)


def test_a_workdir_in_use(run_cli: RunCli, tmp_path: Path) -> None:
    config = configs.to_json(configs.resolve(QUICKSTART.removeprefix("--config=")))
    with Workdir.open(tmp_path, config=config, allowed=()):
        result = run_cli("train", QUICKSTART, f"--workdir={tmp_path}", timeout=SECONDS)
    assert_refused(result.returncode, result.stderr, "is in use", f"process {os.getpid()}")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["train.batch_size=16", "parallel.devices=3"],
            ["train.batch_size=16", "3 devices", "parallel.devices"],
        ),
        (["data.resolution=12"], ["8, 16, 32, 64 or 128", "digits has 12×12", "data.resolution"]),
        (["data.name=no_such_data"], ["no_such_data"]),
        (["data.name=digitss"], ["digitss", "digits"]),
        (
            ["data.name=fashion_mnist", "data.manual_dir=/nowhere"],
            ["data.manual_dir", "/nowhere", "ubyte.gz"],
        ),
        (["data.split=nowhere"], ["nowhere", "train"]),
    ],
)
def test_what_cannot_be_run(run_cli: RunCli, tmp_path: Path, options: list[str], expected: list[str]) -> None:
    workdir = tmp_path / "run"
    overrides = [f"--config.{option}" for option in [f"data.path={tmp_path}", *options]]
    start = time.monotonic()
    result = run_cli("train", QUICKSTART, f"--workdir={workdir}", *overrides, timeout=SECONDS)
    assert_refused(result.returncode, result.stderr, *expected)
    assert time.monotonic() - start < 30
    assert not (workdir / "config.json").exists(), "the mended command would be refused"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--out=x.png"], ["holds no run"]),
        (["--out=x.jpg"], ["--out takes", ".png or .npz", "'x.jpg'"]),
        (["--out=x"], ["holds no run"]),
        (["--out=."], ["--out=. holds other files than samples of ganjax"]),
        (["--out=x", "--seeds=3-1"], ["--seeds takes numbers and ranges", "'3-1'"]),
        (["--out=x", "--seeds=0-9999999"], ["at most 1,000,000"]),
        (["--out=x", "--seed=-1"], ["from 0 to 2³² - 1", "-1"]),
        (["--out=x.png", "--truncation=1.5"], ["--truncation takes a number from 0 to 1"]),
        (["--out=x.png", "--n=0"], ["--n takes", "at least 1"]),
        (["--out=x.png", "--devices=-1"], ["--devices takes"]),
        (["--out=x.png", "--seed=-1"], ["A seed is a whole number from 0 to 2³² - 1, and got -1."]),
        (["--out=x.png", "--seed=1000000000000"], ["A seed is a whole number", "1000000000000"]),
    ],
)
def test_samples_refused(main: Main, tmp_path: Path, args: list[str], expected: list[str]) -> None:
    code, _, err = main("sample", f"--workdir={tmp_path}", *args)
    assert_refused(code, err, *expected)


def test_samples_of_a_run_without_a_checkpoint(run_cli: RunCli, tmp_path: Path) -> None:
    other_config_in(tmp_path / "run")
    out = tmp_path / "x.png"
    result = run_cli("sample", f"--workdir={tmp_path / 'run'}", f"--out={out}", timeout=SECONDS)
    assert_refused(result.returncode, result.stderr, "holds no checkpoint", "ganjax train")
    assert not out.exists()


def points(*options: str) -> list[str]:
    """The recipe for the grid, which compiles quickly, on two devices."""
    options = ("gen.depth=1", "dis.depth=1", "dis.width=8", "parallel.devices=2", *options)
    return [f"--config={ROOT / 'configs' / 'grid.py'}", *(f"--config.{option}" for option in options)]


@pytest.mark.parametrize("platform", ["cuda", "banana"])
def test_a_platform_that_is_not_here(run_cli: RunCli, platform: str) -> None:
    if platform == "cuda" and importlib.util.find_spec("jax_cuda12_plugin"):
        pytest.skip("it may be here")
    result = run_cli("train", *points(), "--dry-run", env={"JAX_PLATFORMS": platform}, timeout=SECONDS)
    said = result.stderr.removeprefix("Loading grid ... \n")  # what it was busy with
    assert_refused(result.returncode, said, f"JAX_PLATFORMS={platform}: ", "such as cpu")


def test_dry_run_json(run_cli: RunCli) -> None:
    result = run_cli("train", *points("gen.width=8", "seed=5"), "--dry-run", "--json")
    assert result.returncode == 0, result.stderr
    facts: dict[str, Any] = json.loads(result.stdout)
    assert facts["config"]["seed"] == 5 and facts["config"]["gen"]["width"] == 8
    assert facts["changed"]["gen.width"] == 8 and "loss.scale" not in facts["changed"]
    assert set(facts["parameters"]) == {"gen", "dis"} and min(facts["parameters"].values()) > 20
    assert facts["devices"] == 2 and facts["flops_per_step"] > 1e4
    assert facts["bytes"]["state"] > 4 * sum(facts["parameters"].values())
    assert facts["bytes"]["data"] > 0
    gen, dis = facts["networks"]["gen"], facts["networks"]["dis"]
    assert (gen["parameters"], dis["parameters"]) == (2 * 8 + 8 + 8 * 2 + 2, 2 * 8 + 8 + 8 + 1)
    assert (gen["activation_bytes"], dis["activation_bytes"]) == (4 * (8 + 2), 4 * (8 + 1))
    products = 2 * (2 * 8 + 8 * 2)  # a multiplication and an addition for each weight
    assert products <= gen["flops"] <= 1.5 * products
    assert "warning" not in facts


def test_dry_run_in_words_warns_of_a_lopsided_pair(run_cli: RunCli, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    result = run_cli("train", *points("gen.width=512"), "--dry-run", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert "G, forward, one sample" not in result.stdout and "loss.scale" not in result.stdout
    assert re.search(r"^  gen.width +512$", result.stdout, re.MULTILINE)
    assert re.search(r"^  time +[0-9.]+ s at the least", result.stdout, re.MULTILINE)
    assert "Warning: G has" in result.stdout and "times the parameters of D" in result.stdout
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("how", "offline", "code"),
    [("tcp", "1", 2), ("tcp", "0", 0), ("sendto", "1", 2), ("sendmsg", "1", 2), ("name", "1", 2)],
)
def test_offline_connects_to_nothing_but_this_machine(how: str, offline: str, code: int) -> None:
    """To an address of documentation, where nobody answers; the listener on this machine always may be reached."""
    program = """
import socket, sys
from ganjax.cli import main as cli
cli.forbid_network()
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
try:
    if sys.argv[1] == "tcp":
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    elif sys.argv[1] == "name":
        socket.getaddrinfo("192.0.2.1", 80)
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("127.0.0.1", 0))
            sender.sendto(b"", sender.getsockname())
            getattr(sender, sys.argv[1])(*([[b""], [], 0] if sys.argv[1] == "sendmsg" else [b""]), ("192.0.2.1", 9))
except OSError:
    pass
except cli.UserError as error:
    print(error)
    sys.exit(2)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, how],
        env={**os.environ, "GANJAX_OFFLINE": offline},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert ("tried to connect to 192.0.2.1" in done.stdout) == (code == 2)
