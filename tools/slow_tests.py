"""Which tests are slow? Those that take longest, until the rest fits a budget: writes `tests/slow_tests.txt`.

    bash launch/test.sh --all --junitxml=build/junit.xml
    python tools/slow_tests.py build/junit.xml --budget=1000

The budget is in seconds of one process, over all tests that are not marked slow; on two cores they take half of it. A
test that its own file marks as slow stays so. Every file keeps its quickest test in the quick tier.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "slow_tests.txt"
HEAD = "# Tests beyond the quick tier, by tools/slow_tests.py from measured times: path::name[parameters], seconds.\n"


def durations(path: Path) -> dict[str, float]:
    """Returns node id → seconds, set-up included, of the tests that passed."""
    found: dict[str, float] = {}
    for case in ElementTree.parse(path).iter("testcase"):
        if case.find("skipped") is None:
            file = case.attrib["classname"].replace(".", "/") + ".py"
            found[f"{file}::{case.attrib['name']}"] = float(case.attrib["time"])
    return found


def choose(seconds: dict[str, float], budget: float) -> list[str]:
    """Returns the slowest tests, so many that the others take at most `budget` seconds."""
    of_file: dict[str, int] = defaultdict(int)
    for name in seconds:
        of_file[name.partition("::")[0]] += 1
    chosen, rest = [], sum(seconds.values())
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        if rest <= budget:
            break
        if of_file[name.partition("::")[0]] > 1:
            of_file[name.partition("::")[0]] -= 1
            chosen.append(name)
            rest -= seconds[name]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("junit", type=Path, help="pytest's --junitxml of all tests")
    parser.add_argument(
        "--budget", type=float, default=1000.0, help="seconds of the quick tier, in one process"
    )
    options = parser.parse_args()
    seconds = durations(options.junit)
    chosen = choose(seconds, options.budget)
    LIST.write_text(HEAD + "".join(f"{name}  # {seconds[name]:.0f} s\n" for name in sorted(chosen)))
    total = sum(seconds.values())
    print(
        f"{len(chosen)} of {len(seconds)} tests are slow: {sum(seconds[n] for n in chosen):.0f} of {total:.0f} s"
    )


if __name__ == "__main__":
    main()
