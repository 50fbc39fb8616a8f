"""A run's folder with damaged files: every command ends in a result or in one message.

The many random ones are in tests/stress/fuzz_runs.py; these are single cases, without a run that was trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small import points_config

from ganjax.cli import main as cli
from ganjax.config.recipe import from_workdir, to_json
from ganjax.evals.metrics.protocol import Measurement, Protocol
from ganjax.run import evaluate as judging
from ganjax.run.recovery import Remedy
from ganjax.runtime.errors import UserError
from ganjax.runtime.logs import LogWarning
from ganjax.runtime.workdir import Workdir

ROWS = [
    {
        "step": step,
        "images": 16 * step,
        "seconds": 0.1 * step,
        "loss/gen": 1.0,
        "loss/dis": 1.0,
        "verdict": "healthy",
    }
    for step in range(10, 101, 10)
]
SUMMARY = {"reason": "completed", "steps": 100, "images": 1600, "seconds": 10.0}
REMEDY = vars(Remedy(1, "restart_lower_lr", 20, "mode collapse", "made up", 0, 0.25, 0.25, 7))
MEASUREMENT = Measurement(
    "fid", 1.0, 0.9, 1.1, None, Protocol("points", "", "none", "ring", "train", "ab", 100, 50, "ema")
)
DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run has that ended, but for its checkpoints."""
    (tmp_path / "config.json").write_text(json.dumps(to_json(points_config(train__steps=100))))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "remedies.json").write_text(json.dumps([REMEDY]))
    (tmp_path / "environment.json").write_text(json.dumps({"versions": {"jax": "1"}, "devices": ["cpu"]}))
    return tmp_path


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(folder: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Gives a command on the folder; the exit code, what was printed, and the message."""

    def call(name: str, *options: str) -> tuple[int, str, str]:
        code = cli.main([name, f"--workdir={folder}", *options])
        written = capsys.readouterr()
        return code, written.out, written.err

    return call


def test_the_folder_is_whole(say: Say) -> None:
    code, out, err = say("doctor")
    assert (code, err) == (0, "") and "completed, step 100 of 100" in out and "1. at step 20" in out
    assert say("report")[0] == 0


def test_doctor_names_a_diverged_run(folder: Path, say: Say) -> None:
    """Its fault came after the last line, or was too short to last."""
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, "reason": "diverged"}))
    code, out, _ = say("doctor")
    assert code == 0 and "diverged, step 100" in out and "Verdict: divergence (since step 100)" in out
    assert (
        "healthy" not in out and json.loads(say("doctor", "--json")[1])["verdicts"][0]["name"] == "divergence"
    )
    page = Path(say("report")[1].strip()).read_text()
    assert "divergence" in page.split("<main")[1].split("</main>")[0]
    (folder / "metrics.jsonl").unlink()
    assert "Verdict: divergence" in say("doctor")[1]


@pytest.mark.parametrize(
    ("samples", "why"), [(64, "nothing has been measured yet"), (0, "monitor.samples=0")]
)
def test_doctor_says_why_nothing_was_measured(folder: Path, say: Say, samples: int, why: str) -> None:
    config = points_config(train__steps=100, monitor__samples=samples)
    (folder / "config.json").write_text(json.dumps(to_json(config)))
    assert f"Only the losses were logged ({why})" in say("doctor")[1].replace("\n ", "")


def test_a_bad_byte_in_the_log_costs_its_line(folder: Path, say: Say) -> None:
    content = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(content.replace(b'"step": 50', b'"st\xffp": 50'))
    with pytest.warns(LogWarning, match="1 damaged line left out: 5"):
        code, out, _ = say("doctor")
    assert code == 0 and "step 100 of 100" in out
    with pytest.warns(LogWarning):
        assert say("report")[0] == 0


ODD: list[Any] = [
    b"\xff\xfe",
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"1",
    b'{"a": ' + b"1" * 5000,
    DEEP.encode(),
]
ODD += [b'{"\\ud800": 1}', b'{"reason": ["x"], "steps": "many"}', b'{"reason": "x", "steps": 1e999}', None]


@pytest.mark.parametrize(
    "name", ["summary.json", "remedies.json", "environment.json", "config.json", "metrics.jsonl"]
)
@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
@pytest.mark.filterwarnings("ignore::ganjax.runtime.logs.LogWarning")
def test_odd_files_end_in_a_message(folder: Path, say: Say, name: str, content: bytes | None) -> None:
    """None is a folder in the file's place."""
    (folder / name).unlink()
    if content is None:
        (folder / name).mkdir()
    else:
        (folder / name).write_bytes(content)
    for command in ("doctor", "report"):
        code, _, err = say(command)
        assert code == 0 or (code == 2 and err.startswith("ganjax: ") and name in err + "metrics.jsonl"), err


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", 10**400),
        ("train.steps", None),
        ("gen.width", "x"),
        ("gen.optimizer.learning_rate", 10**400),
        ("gen", 3),
        ("gen.width.x", 3),
        ("items", 1),
        ("", 3),
        ("loss.name", ["hinge"]),
        ("seed", True),
    ],
    ids=range(10),
)
def test_odd_values_in_the_config_are_refused(folder: Path, say: Say, key: str, value: Any) -> None:
    stored = json.loads((folder / "config.json").read_text())
    node = stored
    *groups, name = key.split(".")
    for group in groups:
        node[group] = node[group] if isinstance(node.get(group), dict) else {}
        node = node[group]
    node[name] = value
    (folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"config\.json"):
        from_workdir(folder)
    assert say("doctor")[0] == 2
    assert say("report")[0] in (0, 2)
    with pytest.raises(UserError):
        Workdir.open(folder, config=to_json(points_config(train__steps=100)), allowed=())


@pytest.mark.parametrize(
    "changed",
    [
        {"value": "1"},
        {"value": 10**400},
        {"low": None},
        {"name": 3},
        {"protocol": []},
        {"protocol": {**MEASUREMENT.protocol.to_json(), "step": "x"}},
        {"protocol": {**MEASUREMENT.protocol.to_json(), "settings": {"k": float("inf")}}},
        {"extra": 1},
    ],
)
def test_odd_results_are_refused_with_their_file(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "results.json"
    judging.write_results(path, [MEASUREMENT])
    assert judging.read_results(path) == [MEASUREMENT]
    path.write_text(json.dumps([{**MEASUREMENT.to_json(), **changed}]))
    with pytest.raises(
        UserError, match=r"results\.json: This is not a measurement|results\.json: This is not a protocol"
    ):
        judging.read_results(path)
