"""The pages in docs/ say what the code says."""

from __future__ import annotations

import re
import runpy
import shlex

import pytest
from paths import ROOT

from ganjax.cli import main as cli
from ganjax.config import names
from ganjax.config import recipe as configs
from ganjax.config.options import BY_KEY
from ganjax.config.rules import RULES
from ganjax.config.techniques import LESSONS, TECHNIQUES
from ganjax.evals.monitor import ADVICE

RECIPE = ROOT / "configs" / "technique.py"
PEERS = runpy.run_path(str(ROOT / "docs" / "make_peers.py"))


def test_the_page_of_techniques_is_up_to_date():
    script = runpy.run_path(str(ROOT / "docs" / "make_techniques.py"))
    page = script["PAGE"].read_text()
    assert script["updated"](page) == page, "run python docs/make_techniques.py"


def test_techniques_name_options_that_exist_and_lessons():
    for technique in TECHNIQUES:
        assert set(technique.keys) <= BY_KEY.keys() and technique.lesson in LESSONS
    assert {technique.lesson for technique in TECHNIQUES} == set(LESSONS)
    for rule in RULES:
        assert set(rule.keys) <= BY_KEY.keys()


def test_every_option_of_losses_penalties_noise_and_augmentation_belongs_to_a_technique():
    named = {key for technique in TECHNIQUES for key in technique.keys}
    groups = ("loss.", "penalty.", "noise.", "augment.", "ema.", "gen.optimizer.", "dis.optimizer.")
    assert {key for key in BY_KEY if key.startswith(groups)} <= named


@pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda technique: technique.name)
def test_every_technique_has_a_recipe_that_switches_it(technique):
    base = configs.flatten(configs.resolve(f"{RECIPE}:name=base", []))
    with_it = configs.flatten(configs.resolve(f"{RECIPE}:name={technique.name}", []))
    assert any(base[key] != with_it[key] for key in technique.keys)


def test_the_page_of_the_monitor_names_every_verdict_and_action():
    page = (ROOT / "docs" / "monitor.md").read_text()
    for text in (page, (ROOT / "docs" / "trouble.md").read_text()):
        assert all(f"| **{name}** |" in text or f"| *{name}* |" in text for name in ADVICE)
    assert all(f"`{choice}`" in page for choice in BY_KEY["monitor.action"].choices)


def test_the_remedies_are_options_with_values_that_they_take():
    """Each `--config.…` in a table of docs/trouble.md, one by one, on a recipe that it goes with."""
    text = (ROOT / "docs" / "trouble.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    found = re.findall(r"--config\.([\w.]+)=([\w.]+)", " ".join(rows))
    assert len(found) > 10
    for key, value in found:
        base = [("loss.name", "non_saturating")] if key == "loss.label_smoothing" else []
        base += [("model.conditional", "False")] if key == "dis.packing" else []
        configs.resolve(str(ROOT / "configs" / "quickstart.py"), [*base, (key, value)])


@pytest.mark.parametrize("page", ["README.md", "docs/own_images.md", "docs/monitor.md", "docs/trouble.md"])
def test_the_commands_of_the_pages_are_understood(page, monkeypatch):
    """Every `ganjax …` of a page: its options exist, its recipe too, and what it sets."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text().replace("\\\n", " ")
    commands = [
        line.partition("ganjax ")[2].partition("#")[0]
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        for line in block.splitlines()
        if line.startswith("ganjax ")
    ]
    assert commands
    for command in commands:
        rest, overrides = cli.split_overrides(shlex.split(command))
        arguments = cli.make_parser().parse_args(rest)
        if arguments.command == "train":
            configs.resolve(arguments.config, overrides)


def test_the_page_of_peers_is_up_to_date():
    page = PEERS["PAGE"].read_text(encoding="utf-8")
    assert PEERS["updated"](page) == page, "run python docs/make_peers.py"


def test_the_page_of_peers_says_of_ganjax_what_the_code_says():
    cells = {row["name"]: row["ganjax"] for row in PEERS["load"]()[1]}
    for cell in cells.values():
        assert all((ROOT / place).exists() for place in cell.get("where", []) if " " not in place)
        assert not [key for key in BY_KEY if any(word in key for word in cell.get("absent", []))]
    assert cells["Adversarial losses"]["value"].startswith(f"{len(names.LOSSES)}: ")
    assert cells["Gradient penalties"]["value"].startswith(f"{len(names.PENALTIES)}: ")
    assert f" {len(ADVICE)} verdicts" in cells["Says in words that a run has collapsed"]["value"]
    assert set(re.findall(r"`(\w+)`", cells["Families"]["value"])) == set(names.FAMILIES)


def test_a_cell_about_a_peer_that_names_no_source_is_refused(tmp_path, monkeypatch):
    data = tmp_path / "peers.toml"
    data.write_text(
        re.sub(r"^absent = .*\n", "", PEERS["DATA"].read_text("utf-8"), flags=re.MULTILINE), "utf-8"
    )
    monkeypatch.setitem(PEERS["load"].__globals__, "DATA", data)
    with pytest.raises(SystemExit, match="mimicry needs a value, and `where` or `absent`"):
        PEERS["load"]()


PARTS = re.findall(
    r"## ([^\n]*)\n(?:(?!## ).)*?```python\n(.*?)```", (ROOT / "docs" / "parts.md").read_text(), re.S
)


@pytest.mark.parametrize("code", [pytest.param(code, id=title) for title, code in PARTS])
def test_the_parts_work_in_code_of_ones_own(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "parts.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


def test_every_section_of_the_parts_has_an_example() -> None:
    text = (ROOT / "docs" / "parts.md").read_text()
    assert [title for title, _ in PARTS] == re.findall(r"^## (.*)$", text, re.M)
