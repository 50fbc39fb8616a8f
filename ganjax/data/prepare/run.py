"""Runs the preparation: the order of the work, its messages, and what is left when it is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ganjax.data.prepare import records
from ganjax.data.prepare.chunks import Outcome, read_chunk, start_worker, work
from ganjax.data.prepare.plan import CHUNK, Chunk, Options, Plan
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import read_regular, user_error_if_unwritable

PLAIN_SECONDS = 10.0  # between lines where there is no terminal
SHOWN_REASONS = 8


def prepare(options: Options, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Makes the dataset, or goes on with making it. Returns what its `ganjax.json` says.

    Args:
        options: the options, see `Options`.
        say: the function that takes lines for a person.

    Raises:
        UserError: options are out of range, there is nothing to prepare, or a folder cannot be written.
    """
    started = time.monotonic()
    plan = Plan.of(options)
    done = _finished(plan)
    if done is not None:
        say(f"{options.out} holds this dataset already: {done['images']:,} images. Nothing to do.")
        return done
    with plan.begun() as resumed:
        chunks = plan.chunks()
        outcomes = [None if not chunk.file.exists() else _outcomes(chunk) for chunk in chunks]
        left = [chunk for chunk, known in zip(chunks, outcomes, strict=True) if known is None]
        if resumed:
            known = sum(len(outcome) for outcome in outcomes if outcome is not None)
            say(f"Going on: {known:,} of {len(plan.listing.pictures):,} pictures are done.")
        _work(left, sum(len(chunk.names) for chunk in chunks), options.workers, say)
        result = records.judge(
            plan, [_outcomes(c) or [] if o is None else o for c, o in zip(chunks, outcomes, strict=True)]
        )
        unfinished = plan.folder / "dataset"
        facts = records.write_dataset(unfinished, plan, chunks, result)
        with user_error_if_unwritable("the dataset", options.out):
            os.rename(unfinished, options.out)
            shutil.rmtree(plan.folder)
    seconds = time.monotonic() - started
    worked = sum(len(chunk.names) for chunk in left)
    say(summary(options, result, facts, seconds, worked))
    return facts


def _finished(plan: Plan) -> dict[str, Any] | None:
    """Returns what is known of the dataset at the final name where it is this one; None where there is none.

    Raises:
        UserError: something else is at the final name.
    """
    out = plan.options.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        facts: Any = json.loads(read_regular(out / records.FACTS))
        if facts["plan"] == plan.digest:
            return dict(facts)
        raise UserError(
            f"--out={out} holds a dataset of other files or options ({facts['images']:,} images of "
            f"{facts['resolution']} pixels from {facts['source']}). Remove that folder or give another --out."
        )
    raise UserError(f"--out={out} exists and is no dataset of ganjax. Give another --out, or remove it.")


def _outcomes(chunk: Chunk) -> list[Outcome] | None:
    found = read_chunk(chunk.file)
    return None if found is None else found[0]


def _work(chunks: list[Chunk], total: int, workers: int, say: Callable[[str], None]) -> None:
    """Does the chunks in the given number of processes, and shows how far the work is."""
    if not chunks:
        return
    count = min(workers or len(os.sched_getaffinity(0)), len(chunks))
    pool = ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=start_worker
    )
    try:
        with _progress(total, total - sum(len(chunk.names) for chunk in chunks), say) as advance:
            for future in as_completed([pool.submit(work, chunk) for chunk in chunks]):
                advance(future.result())
    except BrokenProcessPool:
        raise UserError(
            "A process that decoded pictures was killed, perhaps for want of memory. What was done is kept: the same "
            "command goes on; --workers=1 needs the least memory."
        ) from None
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"The source cannot be read any more: {error}. The same command goes on.") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _progress(total: int, done: int, say: Callable[[str], None]) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`, which shows a bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    if not (console.is_interactive and console.file.isatty()):
        state = {"done": done, "said": time.monotonic()}

        def advance(n: int) -> None:
            state["done"] += n
            if time.monotonic() - state["said"] > PLAIN_SECONDS:
                state["said"] = time.monotonic()
                say(f"{state['done']:,} of {total:,} pictures")

        yield advance
        return
    columns = (
        TextColumn("Preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, completed=done, rate="")
        start, new = time.monotonic(), 0

        def advance_bar(n: int) -> None:
            nonlocal new
            new += n
            rate = new / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=n, rate=f"{rate:,.0f} img/s")

        yield advance_bar


def summary(
    options: Options, result: records.Result, facts: dict[str, Any], seconds: float, worked: int
) -> str:
    """Returns the outcome of every file, for a person."""
    out, count, side = options.out, len(result.labels), options.resolution
    kind = "grey" if result.channels == 1 else "RGB"
    lines = [
        f"{result.files:,} files: {count:,} images of {side}×{side} ({kind}) in {out}, "
        f"{len(result.left_out):,} left out"
    ]
    for reason, number in result.kinds().items():
        names = [name for name, kind, _ in result.left_out if kind == reason]
        example = next(why for name, kind, why in result.left_out if kind == reason)
        lines.append(f"  {number:>7,} {reason}: {_short(names[0])} ({_short(example, 90)})")
    if result.left_out:
        lines.append(f"  each with its reason: {out / records.LEFT_OUT}")
    if result.classes:
        sizes = facts["classes"]
        largest = sorted(sizes, key=lambda name: -sizes[name])
        some = ", ".join(f"{_short(name)} {sizes[name]:,}" for name in largest[:SHOWN_REASONS])
        more = f" and {len(largest) - SHOWN_REASONS} more" if len(largest) > SHOWN_REASONS else ""
        lines.append(f"{len(largest)} classes: {some}{more}")
    if result.enlarged:
        lines.append(f"{result.enlarged:,} images were smaller than {side} pixels and had to be enlarged")
    rate = f", {worked / seconds:,.0f} pictures a second" if worked > CHUNK else ""
    lines += [
        f"{seconds:.1f} s{rate}. Look at them: {out / records.CONTACT_SHEET}",
        f"Train: --config.data.name=folder --config.data.path={out}",
    ]
    return "\n".join(lines)


def _short(text: str, most: int = 60) -> str:
    from ganjax.data.pictures.listing import shown

    text = shown(text)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"
