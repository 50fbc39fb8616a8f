"""What a run writes while it goes: numbers, pictures and the line on the terminal.

Importing it costs NumPy only: Pillow, matplotlib, tensorboardX and rich are imported at their first use.
"""

from ganjax.writers.files import MetricsWriter, TensorBoardWriter
from ganjax.writers.pictures import write_grid, write_pyramid_grid, write_scatter
from ganjax.writers.run import RunWriter
from ganjax.writers.terminal import Progress, format_dry_run
from ganjax.writers.trackers import trackers

__all__ = [
    "MetricsWriter",
    "Progress",
    "RunWriter",
    "TensorBoardWriter",
    "format_dry_run",
    "trackers",
    "write_grid",
    "write_pyramid_grid",
    "write_scatter",
]
