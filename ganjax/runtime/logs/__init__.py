"""Logs of a running run: numbers, pictures and the line on the terminal.

Importing it costs NumPy only: Pillow, matplotlib, tensorboardX and rich are imported at their first use.
"""

from ganjax.runtime.logs.files import LogWarning, MetricsWriter, TensorBoardWriter
from ganjax.runtime.logs.images import write_grid, write_pyramid_grid, write_scatter
from ganjax.runtime.logs.run_writer import RunWriter
from ganjax.runtime.logs.stages import Stages
from ganjax.runtime.logs.terminal import Progress
from ganjax.runtime.logs.trackers import trackers

__all__ = [
    "LogWarning",
    "MetricsWriter",
    "Progress",
    "RunWriter",
    "Stages",
    "TensorBoardWriter",
    "trackers",
    "write_grid",
    "write_pyramid_grid",
    "write_scatter",
]
