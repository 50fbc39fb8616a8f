"""Evaluates at regular intervals while a run trains, and keeps the best checkpoints besides the newest ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from ganjax.config.names import HIGHER_IS_BETTER, MEASURE_OF
from ganjax.evals.evaluator import Evaluator
from ganjax.evals.metrics.measures import check_names
from ganjax.evals.sampler import Sampler
from ganjax.models import revisions
from ganjax.run.callbacks import Boundary
from ganjax.run.evaluate import write_results
from ganjax.run.open import BEST
from ganjax.run.setup import Setup
from ganjax.runtime import processes
from ganjax.runtime.checkpoint import Checkpointer
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, is_number
from ganjax.training.divergence import faults_of
from ganjax.training.state import GanState


class Evaluation:
    """Evaluates the averaged weights at log lines, `eval.every_kimg` apart, and adds the measures to the line.

    It keeps `eval.keep_best` checkpoints.
    """

    def __init__(self, config: ConfigDict, folder: Path, setup: Setup, sampler: Sampler) -> None:
        """Prepares without any computation.

        Raises:
          UserError: metrics do not exist, or `eval.best` is not among them.
        """
        options = config.eval
        self._names = [name for name in options.metrics.split(",") if name]
        self._options, self._split, self._setup = options, config.data.split, setup
        self._folder, self._sampler = folder, sampler
        self._labelled = config.model.conditional
        self._noted = revisions.noted(config.model.name)
        self._images = setup.build.images_per_step
        self._log_steps = config.log.every_steps
        if options.every_kimg:
            check_names(self._names, "eval.metrics")
            needed = MEASURE_OF[options.best]
            if options.keep_best and needed not in self._names:
                raise UserError(
                    f"eval.best={options.best!r} needs {needed!r} in eval.metrics={options.metrics!r}."
                )

    @property
    def judge(self) -> Evaluator:
        """The evaluator of samples, made at its first use; runs of one program and data set share it."""
        dataset, split = self._setup.dataset, self._split
        return self._setup.build.programs.get(
            ("evaluation", id(dataset), split), lambda: Evaluator(dataset, split)
        )

    def due(self, step: int, *, last: bool) -> bool:
        """Returns True if an evaluation is due: at the first log line after each `eval.every_kimg`, and at the last."""
        every = 1000 * self._options.every_kimg
        if not every or (step % self._log_steps and not last):
            return False
        images, before = step * self._images, max(0, step - self._log_steps) * self._images
        return last or images // every > before // every

    def __call__(self, at: Boundary) -> None:
        """Measures, adds `eval/NAME` to the log line, and keeps the state if it is among the best.

        All processes make samples. The main process evaluates them, and the lines of the others get nothing.
        A state that has diverged is left alone.
        """
        if faults_of(at.state):
            return
        sampler, shares = self._sampler, self._options.class_shares if self._labelled else ""
        if shares == "data":
            sampler = sampler.at_shares(self._setup.dataset.class_counts)
        blocks = sampler.blocks(at.state.ema, self._options.samples)
        if processes.is_main():
            results = self.judge(
                blocks,
                self._names,
                weights="ema",
                class_shares=shares,
                seed=self._sampler.seed,
                step=at.step,
                origin=str(self._folder),
                quick=True,
            )
            write_results(self._folder / "evaluations" / f"step_{at.step:08d}.json", results)
            values = {result.name: result.value for result in results}
            if self._options.keep_best:
                self._keep(at.step, at.state, values)
            at.row.update({f"eval/{name}": value for name, value in values.items()})
        else:
            for _ in blocks:
                pass
        at.clock.skip()

    def _keep(self, step: int, state: GanState, values: Mapping[str, float]) -> None:
        """Saves the state unless `keep_best` others are better.

        Removes the checkpoints that are no longer among the best.
        """
        name = self._options.best
        if name not in values:
            raise UserError(f"eval.best={name!r} is no number of this data; there are {', '.join(values)}.")
        sign = -1 if HIGHER_IS_BETTER[name] else 1
        with Checkpointer(self._folder / BEST, keep=0) as best:
            known = {at: best.metadata(at) for at in best.steps() if at != step}
            found = {at: of.get(name) for at, of in known.items()} | {step: values[name]}
            scores = {at: float(value) for at, value in found.items() if is_number(value)}
            ranked = sorted(scores, key=lambda at: (sign * scores[at], at))
            kept = ranked[: self._options.keep_best]
            if step in kept:
                best.save(step, state, metadata={name: values[name], **self._noted}, block=True)
            for other in best.steps():
                if other not in kept and known.get(other, True):  # a damaged one is nobody's to delete
                    best.remove(other)
        if kept:  # for people: what counts stands in the checkpoints
            index = {"measure": name, "steps": {str(at): scores[at] for at in kept}}
            atomic_write_json(self._folder / BEST / "index.json", index)
