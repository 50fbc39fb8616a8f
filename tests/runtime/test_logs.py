"""What a run writes: pixels, strict JSON, TensorBoard records, the terminal; and what a full disk does."""

import errno
import io
import json
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ganjax.evals.monitor import read_rows
from ganjax.runtime.errors import UserError
from ganjax.runtime.logs import (
    LogWarning,
    MetricsWriter,
    Progress,
    RunWriter,
    Stages,
    TensorBoardWriter,
    write_grid,
    write_pyramid_grid,
    write_scatter,
)

RING = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1).astype(
    np.float32
)


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


def some_images(count, height, width, channels):
    key = np.random.default_rng(0)
    return key.integers(0, 255, (count, height, width, channels), dtype=np.uint8)  # 255 is the lines' alone


# Pictures


def test_a_small_grid_pixel_by_pixel(tmp_path):
    images = np.array([[[1, 2]], [[3, 4]], [[5, 6]]], np.uint8)[..., None]
    write_grid(tmp_path / "new" / "grid.png", images, columns=2, scale=2, padding=1)
    expected = [
        [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        [255, 1, 1, 2, 2, 255, 3, 3, 4, 4, 255],
        [255, 1, 1, 2, 2, 255, 3, 3, 4, 4, 255],
        [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        [255, 5, 5, 6, 6, 255, 255, 255, 255, 255, 255],
        [255, 5, 5, 6, 6, 255, 255, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
    ]
    np.testing.assert_array_equal(picture(tmp_path / "new" / "grid.png"), expected)
    assert os.listdir(tmp_path / "new") == ["grid.png"]


@pytest.mark.parametrize(
    ("side", "cell"), [(1, 64), (8, 64), (16, 64), (28, 84), (32, 64), (64, 64), (128, 128)]
)
def test_small_images_are_enlarged_until_one_can_see_them(tmp_path, side, cell):
    images = some_images(4, side, side, 3)
    write_grid(tmp_path / "grid.png", images)
    grid = picture(tmp_path / "grid.png")
    assert grid.shape == (2 * cell + 6, 2 * cell + 6, 3)
    tile = grid[2 : 2 + cell, 4 + cell : 4 + 2 * cell]
    np.testing.assert_array_equal(tile[:: cell // side, :: cell // side], images[1])


@pytest.mark.parametrize(("channels", "kept"), [(1, 1), (2, 1), (3, 3), (4, 3), (7, 3)])
def test_channels_that_a_png_cannot_show_are_dropped(tmp_path, channels, kept):
    images = some_images(1, 64, 70, channels)
    write_grid(tmp_path / "grid.png", images, padding=0)
    shown = picture(tmp_path / "grid.png").reshape(64, 70, kept)
    np.testing.assert_array_equal(shown, images[0, ..., :kept])


def test_a_pyramid_has_a_row_a_scale_all_equally_large(tmp_path):
    scales = [some_images(10, side, side, 3) for side in (4, 8, 16)]
    write_pyramid_grid(tmp_path / "pyramid.png", scales, columns=5, scale=1, padding=1)
    grid = picture(tmp_path / "pyramid.png")
    assert grid.shape == (3 * 17 + 1, 5 * 17 + 1, 3)
    for row, images in enumerate(scales):
        for column in range(5):
            tile = grid[row * 17 + 1 : row * 17 + 17, column * 17 + 1 : column * 17 + 17]
            factor = 16 // images.shape[1]
            np.testing.assert_array_equal(
                tile, np.kron(images[column], np.ones((factor, factor, 1), np.uint8))
            )


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 8, 8, 1), np.float32), np.zeros((2, 8, 8), np.uint8), np.zeros((0, 8, 8, 1), np.uint8)],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match="uint8 images"):
        write_grid(tmp_path / "grid.png", images)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"columns": 0}, {"scale": 0}, {"padding": -1}])
def test_grid_options_out_of_range_are_refused(tmp_path, option):
    with pytest.raises(ValueError, match="columns"):
        write_grid(tmp_path / "grid.png", some_images(2, 8, 8, 1), **option)


@pytest.mark.parametrize("shapes", [[], [(2, 3, 3, 1), (2, 8, 8, 1)], [(1, 4, 4, 1), (2, 8, 8, 1)]])
def test_scales_that_do_not_fit_are_refused(tmp_path, shapes):
    with pytest.raises(ValueError, match="scale"):
        write_pyramid_grid(tmp_path / "pyramid.png", [np.zeros(shape, np.uint8) for shape in shapes])


def test_a_scatter_shows_points_and_modes_and_keeps_its_frame(tmp_path):
    clouds = {
        "tight": RING.repeat(50, axis=0),
        "far": RING[:1] * 1e6,
        "broken": np.full((3, 2), np.nan),
        "no": RING[:0],
    }
    for name, points in clouds.items():
        write_scatter(tmp_path / f"{name}.png", points, RING, std=0.05, title="step 100")
    shown = {name: picture(tmp_path / f"{name}.png")[..., :3].astype(int) for name in clouds}
    assert len({image.shape for image in shown.values()}) == 1
    blue = {name: int(np.sum((image[..., 2] - image[..., 0]) > 60)) for name, image in shown.items()}
    red = {name: int(np.sum((image[..., 0] - image[..., 2]) > 60)) for name, image in shown.items()}
    assert blue["tight"] > 2 * blue["no"] > 0  # the legend has one dot
    assert blue["far"] == blue["broken"] == blue["no"]
    assert min(red.values()) > 100
    # Points do not move the axes: the frame's left and lower lines stay where they are.
    np.testing.assert_array_equal(
        shown["tight"][:600, 20:60].min(axis=2), shown["far"][:600, 20:60].min(axis=2)
    )


@pytest.mark.parametrize(
    ("points", "modes", "std"), [((5, 3), (8, 2), 0.1), ((5, 2), (0, 2), 0.1), ((5, 2), (8, 2), 0)]
)
def test_points_that_are_not_plane_are_refused(tmp_path, points, modes, std):
    with pytest.raises(ValueError, match="points"):
        write_scatter(tmp_path / "scatter.png", np.zeros(points), np.zeros(modes), std=std)


def test_a_picture_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    write_grid(path, some_images(1, 8, 8, 1))
    before = path.read_bytes()

    def full(self, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"a picture to .*grid\.png: No space left.*Free some space"):
        write_grid(path, some_images(4, 8, 8, 1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["grid.png"]


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "samples").write_text("")
    with pytest.raises(UserError, match="Check that path"):
        write_grid(tmp_path / "samples" / "grid.png", some_images(1, 8, 8, 1))


# metrics.jsonl


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def lines(path):
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_metrics_are_strict_json_in_a_fixed_order(tmp_path):
    metrics = {
        "loss/gen": np.float32(0.1),
        "images_per_second": 1204.123456789,
        "verdict": "steady",
        "loss/dis": float("nan"),
        "images": np.int64(2**40),
        "seconds": np.float64(1e-9 / 3),
        "grad/dis": -np.inf,
        "ok": np.bool_(True),
        "array": np.array(2.5, np.float32),
        "none": None,
        "step": 99,
    }
    with MetricsWriter(tmp_path / "run" / "metrics.jsonl") as writer:
        writer.write(7, metrics)
        # On the disk already, before anything is closed.
        assert (tmp_path / "run" / "metrics.jsonl").read_text() == (
            '{"step": 7, "images": 1099511627776, "seconds": 3.333333e-10, "images_per_second": 1204.123, '
            '"array": 2.5, "grad/dis": null, "loss/dis": null, "loss/gen": 0.1, "none": null, "ok": true, '
            '"verdict": "steady"}\n'
        )
    writer.close()


def test_seven_digits_hold_a_float32(tmp_path):
    values = np.random.default_rng(0).normal(size=200).astype(np.float32)
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        for step, value in enumerate(values):
            writer.write(step, {"loss/dis": value})
    np.testing.assert_allclose(
        [line["loss/dis"] for line in lines(tmp_path / "metrics.jsonl")], values, rtol=5e-7
    )


def test_vectors_are_no_metrics(tmp_path):
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer, pytest.raises(TypeError):
        writer.write(1, {"loss/dis": np.zeros(2)})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("tear", [b'{"step": 5, "loss/d', b'{"step": 5}'[:1], b"\xff\xfe", b"5\n"])
def test_a_torn_last_line_is_mended(tmp_path, tear):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 3}\n{"step": 4}\n' + tear)
    with MetricsWriter(path) as writer:
        writer.write(5, {})
    assert lines(path) == [{"step": 3}, {"step": 4}, {"step": 5}]


@pytest.mark.parametrize(
    "bad",
    [
        b'{"step": 2, "loss/dis": \xff}',
        b'{"step": 2, "loss/dis": "x"}',
        b'{"step": 2, "loss/dis": NaN}',
        b'{"step": 2, "loss/dis": 1e999}',
        b'{"step": 2, "loss/dis": [1]}',
        b'{"step": 2, "images": "many"}',
        b'{"step": 2, "\\ud800": 1}',
        b'{"step": 2.5}',
        b'{"step": true}',
        b'{"step": -1}',
        b'{"step": 9007199254740993}',
        b'{"step": 1' + b"0" * 5000 + b"}",
        b'{"loss/dis": 2}',
        b"[" * 100_000,
        b"null",
    ],
)
def test_damaged_lines_are_left_out_counted_and_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 3, "loss/dis": null, "verdict": "x"}\n{"st')
    with pytest.warns(LogWarning, match=r"metrics\.jsonl: 1 damaged line left out: 2\."):
        assert [row["step"] for row in read_rows(path)] == [1, 3]
    MetricsWriter(path).close()  # opening makes the file anew from what is left
    assert read_rows(path) == [{"step": 1}, {"step": 3, "loss/dis": None, "verdict": "x"}]


def test_a_resumed_run_writes_the_lines_after_its_checkpoint_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for start_step, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        with MetricsWriter(path, start_step=start_step) as writer:
            for step in steps:
                writer.write(step, {"start": start_step})
    assert [(line["step"], line["start"]) for line in lines(path)] == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 2)]


def test_a_killed_run_leaves_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys; from ganjax.runtime.logs import MetricsWriter\n"
        "writer = MetricsWriter(sys.argv[1])\n"
        "for step in range(10**9): writer.write(step, {'loss/dis': 1 / (step + 1), 'text': 'x' * 200})"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size > 50_000):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    MetricsWriter(path).close()
    assert [line["step"] for line in lines(path)] == list(range(len(lines(path))))
    assert len(lines(path)) > 100


def test_a_full_disk_is_told_with_place_and_remedy(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        MetricsWriter(tmp_path / "metrics.jsonl") as writer,
        pytest.raises(
            UserError, match=r"metrics to .*metrics\.jsonl: No space left.*Free some space.*last checkpoint"
        ),
    ):
        writer.write(1, {})


# TensorBoard


def events(path):
    """Reads an event file: records of length, its checksum, the message, its checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        header, message, checksum = struct.unpack(f"<I{length}sI", data[8 : 16 + length])
        assert (header, checksum) == (masked_crc32c(data[:8]), masked_crc32c(message))
        found.append(Event.FromString(message))
        data = data[16 + length :]
    return found


def test_tensorboard_records_hold_scalars_and_pictures(tmp_path):
    write_grid(tmp_path / "grid.png", some_images(4, 8, 8, 3))
    png = (tmp_path / "grid.png").read_bytes()
    with TensorBoardWriter(tmp_path / "run", start_step=100) as writer:
        writer.scalars(
            150, {"loss/dis": np.float32(0.5), "loss/gen": float("nan"), "verdict": "steady", "none": None}
        )
        writer.image(150, "samples", png)
        (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
        version, start, scalars, image = events(path)  # on the disk before closing
    assert version.file_version == "brain.Event:2"
    assert (start.session_log.status, start.step) == (1, 101)
    assert scalars.step == image.step == 150
    assert [value.tag for value in scalars.summary.value] == ["loss/dis", "loss/gen"]
    assert scalars.summary.value[0].simple_value == 0.5
    assert np.isnan(scalars.summary.value[1].simple_value)
    (value,) = image.summary.value
    assert (value.tag, value.image.encoded_image_string) == ("samples", png)
    assert (value.image.width, value.image.height, value.image.colorspace) == (134, 134, 3)


def test_tensorboard_reads_it_and_hides_what_a_resumed_run_repeats(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own imports
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_grid(tmp_path / "grid.png", some_images(4, 8, 8, 1))
    for start_step, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        with TensorBoardWriter(tmp_path / "run", start_step) as writer:
            for step in steps:
                writer.scalars(step, {"loss/dis": 10 * start_step + step})
                writer.image(step, "samples", (tmp_path / "grid.png").read_bytes())
    accumulator = reader.EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0}).Reload()
    scalars = [(event.step, event.value) for event in accumulator.Scalars("loss/dis")]
    assert scalars == [(1, 1), (2, 2), (3, 23), (4, 24), (5, 25)]
    assert [event.step for event in accumulator.Images("samples")] == [1, 2, 3, 4, 5]


def test_a_full_disk_stops_the_run_with_a_message_and_closes_everything(tmp_path):
    code = """if True:
        import resource, sys
        from ganjax.runtime.errors import UserError
        from ganjax.runtime.logs import RunWriter
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            with RunWriter(sys.argv[1], total_steps=1000, start_step=0) as writer:
                for step in range(1, 1001):
                    writer.log(step, {f"metric/{i}": i for i in range(step % 20)})
        except UserError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (2, "")
    assert re.search(
        r"Could not write (metrics|TensorBoard events) to .*: File too large\. Free some", ended.stdout
    )
    MetricsWriter(tmp_path / "metrics.jsonl").close()
    assert 0 < len(lines(tmp_path / "metrics.jsonl")) < 100


# The terminal


METRICS = {
    "images_per_second": 1204.4,
    "loss/dis": np.float32(0.512),
    "loss/gen": 1.2034,
    "verdict": "steady",
}


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def shown(width=100, total_steps=6000, live=True, clock=None, script=lambda progress: None, **terminal):
    """What a `Progress` wrote while `script(progress)` ran."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=25, force_terminal=live, **terminal)
    with Progress(total_steps, console=console, live=live, clock=clock or Clock()) as progress:
        script(progress)
    return file.getvalue()


def test_plain_lines_are_aligned_and_foresee_the_end():
    clock = Clock()

    def run(progress):
        for step, seconds in ((100, 60), (1200, 82), (2300, 104)):
            clock.seconds = seconds  # the first one holds the compilation, and then it is forgotten
            progress.log(step, METRICS)
        progress.message("saved [step] 2300")
        progress.log(6000, {"loss/dis": 123456.0, "loss/gen": float("nan")})

    assert shown(live=False, clock=clock, width=40, script=run).splitlines() == [
        "step  100/6000    1%   1,204 img/s  D  0.512  G  1.203  left 0:59:00  steady",
        "step 1200/6000   20%   1,204 img/s  D  0.512  G  1.203  left 0:01:36  steady",
        "step 2300/6000   38%   1,204 img/s  D  0.512  G  1.203  left 0:01:14  steady",
        "saved [step] 2300",
        "step 6000/6000  100%       - img/s  D 1.23e+05  G    nan  left 0:00:00",
    ]


def test_a_terminal_shows_two_lines_and_gets_its_cursor_back():
    clock = Clock()

    def run(progress):
        clock.seconds = 10
        progress.log(1200, METRICS)
        clock.seconds = 15  # the time left goes on counting down between two log lines
        progress.message("saved [bold] at 1200")

    text = shown(clock=clock, script=run, color_system="standard")
    assert "\x1b[?25l" in text and text.rstrip().endswith("\x1b[?25h")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "saved [bold] at 1200" in plain
    first, second = plain.rstrip().splitlines()[-2:]
    assert re.fullmatch(r"step 1200/6000  [━╸╺]+  20%  0:00:35 left  0:00:15 elapsed\s*", first)
    assert second.rstrip() == "1,204 img/s  D 0.512  G 1.203  steady"


@pytest.mark.parametrize("width", [1, 2, 10, 30, 45, 60, 80, 200])
@pytest.mark.parametrize("total_steps", [0, 3, 10**9])
def test_no_width_is_too_narrow(width, total_steps):
    text = shown(
        width, total_steps, script=lambda progress: progress.log(total_steps, METRICS), color_system=None
    )
    for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("\n"):
        assert len(line.split("\r")[-1]) <= width


@pytest.mark.parametrize("colour", [True, False])
def test_no_color_is_respected(monkeypatch, colour):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    text = shown(script=lambda progress: progress.log(10, METRICS), color_system="truecolor")
    assert bool(re.search(r"\x1b\[(3|38;)", text)) is colour


def test_a_pipe_gets_plain_lines_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    with Progress(10, console=Console(file=file)) as progress:
        progress.log(5, METRICS)
    assert file.getvalue().startswith("step  5/10   50%") and "\x1b" not in file.getvalue()


class GoneTerminal(io.StringIO):
    def write(self, text):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("live", [True, False])
def test_a_terminal_that_went_away_does_not_stop_the_run(live, monkeypatch):
    file = io.StringIO()
    with Progress(10, console=Console(file=file, force_terminal=live), live=live) as progress:
        progress.log(1, METRICS)
        monkeypatch.setattr(file, "write", GoneTerminal().write)
        progress.log(2, METRICS)
        progress.message("still there")
        progress.log(3, METRICS)
    progress.close()


def test_text_that_the_stream_cannot_say_is_replaced():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    with Progress(10, console=Console(file=file), live=False) as progress:
        progress.message("Größe ≤ 3")
    assert raw.getvalue() == b"Gr??e ? 3\n"


PTY_RUN = """if True:
    import logging, sys, warnings
    logging.basicConfig(level=logging.INFO, format="LOG %(message)s")  # holds the stderr of now
    handler = logging.root.handlers[0]
    before = handler.stream
    from ganjax.runtime.logs import Progress
    with Progress(100) as progress:
        progress.log(10, {"loss/dis": 0.5, "loss/gen": 1.5, "images_per_second": 10.0, "verdict": "steady"})
        logging.info("from logging")
        warnings.warn("from warnings")
        print("from print")
        progress.message("from message")
        progress.log(20, {"loss/dis": 0.5, "loss/gen": 1.5, "images_per_second": 10.0, "verdict": "steady"})
    assert handler.stream is before and sys.stderr is sys.__stderr__
"""


def run_in_terminal(code, **environment):
    """Runs Python `code` on a terminal of its own; returns the exit code and what came."""
    ours, theirs = pty.openpty()
    variables = {"TERM": "xterm-256color", "COLUMNS": "90", "LINES": "24", **environment}
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TTY_INTERACTIVE")
    }
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**inherited, **variables}
    )
    os.close(theirs)
    came = b""
    with open(ours, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # Linux says EIO where the other side is closed
                break
            if not part:
                break
            came += part
    return child.wait(timeout=30), came.decode()


def screen(text):
    """The lines that a terminal shows after `text`: carriage return, line feed, cursor up, erase line."""
    rows, row = [""], 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif part.startswith("\x1b["):
            row -= int(part[2:-1] or 1) if part.endswith("A") else 0
            if part == "\x1b[2K":
                rows[row] = ""
        elif part != "\r":
            rows[row] += part
    return [row.rstrip() for row in rows if row.strip()]


def test_what_is_printed_meanwhile_stands_above_the_live_lines():
    code, text = run_in_terminal(PTY_RUN)
    rows = screen(text)
    assert code == 0, text
    assert rows[0] == "LOG from logging"
    assert any("UserWarning: from warnings" in row for row in rows)
    assert rows[-4:-2] == ["from print", "from message"]
    assert rows[-2].startswith("step 20/100  ━") and rows[-1] == "10 img/s  D 0.500  G 1.500  steady"
    assert sum("img/s" in row for row in rows) == 1


def test_a_dumb_terminal_gets_plain_lines():
    code, text = run_in_terminal(PTY_RUN, TERM="dumb")
    assert code == 0 and "\x1b" not in text
    assert "step  10/100   10%" in text


# All together


def test_a_run_writes_everything_in_its_folder(tmp_path):
    file = io.StringIO()
    progress = Progress(200, console=Console(file=file), live=False)
    with RunWriter(tmp_path / "run", total_steps=200, start_step=0, progress=progress) as writer:
        writer.log(100, {"images": 3200, "loss/dis": 0.5, "loss/gen": 1.5, "images_per_second": 10.0})
        write_grid(tmp_path / "run" / "samples" / "step_00000100.png", some_images(4, 8, 8, 1))
        writer.image(100, tmp_path / "run" / "samples" / "step_00000100.png")
        writer.message("saved")
    writer.close()
    assert lines(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 100, "images": 3200, "images_per_second": 10.0, "loss/dis": 0.5, "loss/gen": 1.5}
    ]
    (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
    tags = [value.tag for event in events(path) for value in event.summary.value]
    assert tags == ["images", "loss/dis", "loss/gen", "images_per_second", "samples"]
    assert file.getvalue().splitlines()[0].startswith("step 100/200   50%      10 img/s")
    assert file.getvalue().splitlines()[1] == "saved"


def test_other_processes_write_nothing(tmp_path, capsys):
    with RunWriter(tmp_path / "run", total_steps=10, start_step=0, enabled=False) as writer:
        writer.log(1, METRICS)
        writer.image(1, tmp_path / "none.png")
        writer.message("nothing")
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


def test_a_workdir_that_cannot_be_made_is_told_before_the_display_starts(tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match=r"metrics to .*run/metrics\.jsonl"):
        RunWriter(tmp_path / "run", total_steps=10, start_step=0)
    assert capsys.readouterr().out == ""


def test_a_stage_says_what_it_does_and_then_how_long_it_took():
    file, clock = io.StringIO(), Clock()
    stages = Stages(file, clock=clock)
    with stages("Loading digits"):
        assert file.getvalue() == "Loading digits ... "
        clock.seconds += 2.5
    assert file.getvalue() == "Loading digits ... 2.5 s\n"
    with pytest.raises(ValueError, match="no such data"), stages("Loading cats"):
        raise ValueError("no such data")
    assert file.getvalue().endswith("\nLoading cats ... \n")
    with Stages(file, enabled=False)("Compiling"):
        pass
    assert "Compiling" not in file.getvalue()
    file.close()
    with stages("Loading dogs"):  # the stream is gone: the command goes on
        pass


def test_the_time_left_does_not_count_what_was_prepared():
    file, clock = io.StringIO(), Clock()
    with Progress(100, console=Console(file=file, width=80), live=False, clock=clock) as progress:
        with progress.stage("Compiling the training step"):
            clock.seconds += 60
        for step in (10, 20):
            clock.seconds += 1
            progress.log(step, {})
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("Compiling the training step ... ")
    assert "left -:--:--" in lines[1] and "left 0:00:08" in lines[2]


def test_importing_the_writers_is_quick():
    heavy = ("jax", "rich", "matplotlib", "PIL", "tensorboardX")
    code = f"import sys, ganjax.runtime.logs; print([name for name in {heavy} if name in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_absl_logging_goes_above_the_live_lines_too(monkeypatch):
    logging_absl = pytest.importorskip("absl.logging")
    handler = logging_absl.get_absl_handler()
    stream = handler.python_handler.stream
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers, handler])
    file = io.StringIO()
    file.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", file)
    handler.python_handler.setStream(file)
    try:
        with Progress(10, console=Console(file=file, force_terminal=True, width=80), live=True):
            assert handler.python_handler.stream is sys.stderr is not file
        assert handler.python_handler.stream is file
    finally:
        handler.python_handler.setStream(stream)
