"""How fast does ganjax train beside PyTorch? Images a second of the same game, in turn, on one machine.

    python benchmarks/train_speed.py --torch-python=PYTHON_WITH_TORCH --games=dcgan32,msg_dcgan64,sngan32,stylegan2_64

ganjax and each PyTorch variant run in processes of their own, which wait while another has its turn. The ratio is that
of ganjax to a PyTorch variant, the median over rounds of the ratio within a round; the best variant counts. Parameters
are asserted to be as many on both sides. Rounds in which other programs took more than 0.15 of a core (`elsewhere`) are
made again, `--again` of them at most. Images are reals that a step's D updates see; memory is the most that a process
held. Prints a JSON line when a game has ended, and a table at the end of all. On a GPU both sides take it: `--together`
starts all processes at once, which saves minutes of compiling where there are many cores, and `--of-peak` tells how
much of the measured rate of matrix products ganjax uses.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from breakdown import peak, step_products
from measure import (
    CASES,
    SMALL,
    Worker,
    load_config,
    machine,
    serve,
    spread,
    start,
    table,
    turns,
    whole_calls,
)

from ganjax.runtime.allocator import start_with_allocator, tcmalloc

HERE = Path(__file__).resolve().parent
PRECISIONS = ("float32", "bfloat16")
TURN_SECONDS = 120.0  # the first turn of a side that takes longer has failed
VARIANTS = {
    "eager": {"compile": False, "channels_last": True},
    "eager_nchw": {"compile": False, "channels_last": False},
    "eager_joined": {"compile": False, "channels_last": True, "joined": True},
    "compile": {"compile": True, "channels_last": True},
    "compile_joined": {"compile": True, "channels_last": True, "joined": True},
    "compile_nchw": {"compile": True, "channels_last": False},
    "graphs": {"compile": True, "channels_last": True, "graphs": True},  # CUDA graphs
}
PRELOADED = "_tcmalloc"  # at the end of a variant's name: with the allocator that ganjax starts itself with


def twin_options(config: Any, resolution: int) -> dict[str, Any]:
    """What the twin has to know of a config."""
    return {
        "model": config.model.name,
        "msg": config.model.msg != "none",
        "resolution": resolution,
        "latent": config.model.latent_dim,
        "gen_width": config.gen.width,
        "gen_max": config.gen.max_width,
        "dis_width": config.dis.width,
        "dis_max": config.dis.max_width,
        "style": config.gen.style_dim,
        "mapping": config.gen.mapping_layers,
        "mapping_rate": config.gen.mapping_rate,
        "mixing": config.gen.style_mixing,
        "loss": config.loss.name,
        "r1": config.penalty.weight if config.penalty.name == "r1" else 0.0,
        "r1_every": config.penalty.every,
        "path": config.loss.path_length,
        "path_every": config.loss.path_length_every,
        "batch": config.train.batch_size,
        "dis_steps": config.train.dis_steps,
        "gen_rate": config.gen.optimizer.learning_rate,
        "dis_rate": config.dis.optimizer.learning_rate,
        "beta2": config.gen.optimizer.beta2,
        "ema": 0.999,
    }


def work(game: str, changes: list[tuple[str, str]], *, count_products: bool) -> None:
    """ganjax's side, in a process of its own."""
    config = load_config(game, changes)
    running = start(config, CASES[game].resolution)
    import jax

    from ganjax.training.state import count_parameters

    about = {net: count_parameters(getattr(running.state, net).params) for net in ("gen", "dis")}
    if count_products:
        about["flops"] = 2 * step_products(config, CASES[game].resolution)
    about |= {"devices": len(running.devices), "device": running.devices[0].device_kind}
    serve(running.advance, **about, version=jax.__version__, per_call=running.per_call)


def tell_peaks() -> None:
    """The measured rates of matrix products, in a process of its own."""
    import jax

    rates = {precision: peak(jax.local_devices(), precision) for precision in PRECISIONS}
    print(json.dumps(rates), flush=True)


def await_all(workers: Sequence[Worker], patience: float) -> None:
    """Waits until all are ready, or so many seconds, and ends those that are not."""

    def touch(worker: Worker) -> None:
        with contextlib.suppress(RuntimeError):
            _ = worker.ready
            print(f"{time.monotonic() - begin:5.0f} s  {worker.name}", file=sys.stderr)

    begin = time.monotonic()
    threads = [threading.Thread(target=touch, args=(worker,), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    end = begin + patience
    for worker, thread in zip(workers, threads, strict=True):
        thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            worker.give_up()
            thread.join()
    print(f"{len(workers)} processes: {time.monotonic() - begin:.0f} s to start", file=sys.stderr)


@dataclasses.dataclass
class Contest:
    """One game in one precision, and the processes that play it."""

    game: str
    precision: str
    config: Any
    workers: dict[str, Worker]
    failed: dict[str, str]

    @classmethod
    def open(cls, game: str, precision: str, options: argparse.Namespace) -> Contest:
        """Starts the processes, one after another unless they may compile at once."""
        changes = [("train.precision", precision), *(tuple(item.split("=", 1)) for item in options.set)]
        config = load_config(game, changes)
        own = [
            sys.executable,
            __file__,
            "--worker",
            game,
            *(f"--set={key}={value}" for key, value in changes),
        ]
        twin = {
            "options": twin_options(config, CASES[game].resolution),
            "amp": precision == "bfloat16",
            "threads": options.threads,
        }
        commands = {"ganjax": [*own, "--of-peak"] if options.of_peak else own}
        has_twin = options.torch_python and game in options.twins.split(",")
        for name in options.variants.split(",") if has_twin else ():
            request = json.dumps({**twin, **VARIANTS[name.removesuffix(PRELOADED)]})
            commands[f"torch {name}"] = [options.torch_python, str(HERE / "torch_twins.py"), request]
        workers = {
            name: Worker(
                command,
                {"LD_PRELOAD": str(tcmalloc())} if name.endswith(PRELOADED) else None,
                wait=not options.together,
                name=f"{game} {precision} {name}",
            )
            for name, command in commands.items()
        }
        return cls(game, precision, config, workers, {})

    def check(self) -> None:
        """Waits for all, leaves out who did not start, and compares the numbers of parameters."""
        for name, worker in list(self.workers.items()):
            try:
                _ = worker.ready
            except RuntimeError as error:
                self.leave_out(name, error)
        own = self.workers["ganjax"].ready
        for name, worker in self.workers.items():
            theirs = worker.ready
            for net in ("gen", "dis"):
                assert own[net] == theirs[net], (
                    f"{self.game}: {net} of {name} has {theirs[net]} parameters, of ganjax {own[net]}"
                )

    def leave_out(self, name: str, error: RuntimeError) -> None:
        """A side that failed; without ganjax there is no contest."""
        if name == "ganjax":
            self.close()
            raise RuntimeError(f"{self.game} in {self.precision}: {error}") from error
        self.failed[name] = str(error)
        del self.workers[name]

    def warm_up(self, steps: dict[str, int]) -> None:
        """A first turn, which a side may fail at."""
        for name, worker in list(self.workers.items()):
            try:
                worker.ask(steps=steps[name], limit=TURN_SECONDS)
            except RuntimeError as error:
                self.leave_out(name, error)

    def close(self) -> None:
        """Ends the processes."""
        for worker in self.workers.values():
            worker.close()

    def play(self, options: argparse.Namespace) -> dict[str, Any]:
        """Rounds: images a second of each side, and the ratios."""
        self.check()
        train, own = self.config.train, self.workers["ganjax"].ready
        steps = dict.fromkeys(self.workers, options.steps or CASES[self.game].steps)
        steps["ganjax"] = whole_calls(steps["ganjax"], own["per_call"])
        self.warm_up(steps)
        calls = {
            name: (lambda worker=worker, steps=steps[name]: worker.ask(steps=steps))
            for name, worker in self.workers.items()
        }
        rounds, dropped = turns(calls, options.repeats, clean=0.15, most=options.repeats + options.again)
        self.close()
        images = {name: steps[name] * train.batch_size * train.dis_steps for name in rounds}
        rate = {name: [images[name] / row["seconds"] for row in rows] for name, rows in rounds.items()}
        result: dict[str, Any] = {
            "game": self.game,
            "precision": self.precision,
            "parameters": {net: own[net] for net in ("gen", "dis")},
            "devices": own["devices"],
            "device": own["device"],
            "versions": {name: worker.ready["version"] for name, worker in self.workers.items()},
            "images_per_second": {name: spread(rates) for name, rates in rate.items()},
            "elsewhere": max(row["elsewhere"] for rows in rounds.values() for row in rows),
            "rounds_made_again": dropped,
            "peak_mib": {name: rows[-1]["peak_mib"] for name, rows in rounds.items()},
            "failed": self.failed,
        }
        if options.of_peak:
            seconds = statistics.median(row["seconds"] for row in rounds["ganjax"])
            result["flops_per_second"] = own["flops"] * steps["ganjax"] / seconds
        others = [name for name in rate if name != "ganjax"]
        if others:
            best = max(others, key=lambda name: statistics.median(rate[name]))
            result["best"] = best
            result["ratio"] = {
                name: spread([a / b for a, b in zip(rate["ganjax"], rate[name], strict=True)])
                for name in others
            }
        return result


def rows_of(result: dict[str, Any], peaks: dict[str, float]) -> Iterator[list[str]]:
    """The table's rows of one game."""
    for name, rates in result["images_per_second"].items():
        ratio = result.get("ratio", {}).get(name)
        best = " best" if name == result.get("best") else ""
        used = ""
        if name == "ganjax" and peaks:
            reached, most = result["flops_per_second"], peaks[result["precision"]]
            used = f"{reached / 1e12:.3g} of {most / 1e12:.3g} TFLOP/s, {100 * reached / most:.0f} %"
        yield [
            result["game"],
            result["precision"],
            name + best,
            f"{rates['median']:.1f}",
            f"{rates['min']:.1f}-{rates['max']:.1f}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else "",
            used,
        ]
    for name, why in result["failed"].items():
        yield [result["game"], result["precision"], name, "failed", "", why[:60], ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--games", default=",".join(SMALL), help=f"{', '.join(CASES)}; GAME:PRECISION for one of its own"
    )
    parser.add_argument("--torch-python", default="", help="a Python with torch; without one, only ganjax")
    parser.add_argument(
        "--twins", default=",".join(SMALL), help="games that PyTorch plays too: of DCGAN, ResNet, StyleGAN2"
    )
    parser.add_argument(
        "--variants",
        default="eager,compile",
        help=f"{', '.join(VARIANTS)}; each also with {PRELOADED} behind",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--again", type=int, default=3, help="most rounds made again for noise")
    parser.add_argument("--steps", type=int, default=0, help="of a turn; 0 takes the game's own")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--precision", default="float32", help=f"of {', '.join(PRECISIONS)}, or both")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of ganjax's config")
    parser.add_argument("--together", action="store_true", help="let all processes compile at once")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to start, with --together")
    parser.add_argument(
        "--of-peak", action="store_true", help="how much of the rate of matrix products is used"
    )
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker == "peaks":
        tell_peaks()
        return
    if options.worker:
        start_with_allocator()
        changes = [tuple(item.split("=", 1)) for item in options.set]
        work(options.worker, changes, count_products=options.of_peak)
        return
    order = [
        (game, each)
        for game, _, own in (item.partition(":") for item in options.games.split(","))
        for each in (own or options.precision).split(",")
    ]
    contests: Iterable[Contest] = (Contest.open(game, precision, options) for game, precision in order)
    if options.together:
        contests = list(contests)
        await_all([worker for each in contests for worker in each.workers.values()], options.patience)
    results = []
    for contest in contests:
        try:
            results.append(contest.play(options))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            continue
        print(json.dumps(results[-1]), flush=True)  # what follows may fail
    peaks = Worker([sys.executable, __file__, "--worker", "peaks"]).ready if options.of_peak else {}
    head = ["game", "precision", "side", "img/s", "range", "ganjax / it", "of the peak"]
    print(table([row for result in results for row in rows_of(result, peaks)], head))
    print(json.dumps({"machine": machine(), "peaks": peaks}))


if __name__ == "__main__":
    main()
