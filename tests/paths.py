"""Where the checkout and the stored numbers are, for tests in any room."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORACLE_FILES = ROOT / "tests" / "oracles"
