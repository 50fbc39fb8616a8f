"""Monitors the health of a run: signals of a fixed batch, verdicts with their evidence, and advice."""

from ganjax.evals.monitor.probe import Probe, ProbeProgram
from ganjax.evals.monitor.reference import Reference, class_spreads, features_of
from ganjax.evals.monitor.verdicts import ADVICE, HEALTHY, Verdict, judge_rows, judge_run
from ganjax.evals.monitor.watch import Stretch, Watch, read_rows, shown, stretches

__all__ = [
    "ADVICE",
    "HEALTHY",
    "Probe",
    "ProbeProgram",
    "Reference",
    "Stretch",
    "Verdict",
    "Watch",
    "class_spreads",
    "features_of",
    "judge_rows",
    "judge_run",
    "read_rows",
    "shown",
    "stretches",
]
