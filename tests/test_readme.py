"""The README and the pages say what the code does: the commands, the output, the tables."""

import re
import shlex
from pathlib import Path

import pytest

from lora_ref.verify.catalogue import CATALOGUE
from lora_ref.verify.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
VERIFY = (ROOT / "docs" / "verify.md").read_text("utf-8")


def block_after(marker):
    """The first code block after <!-- marker -->."""
    found = re.search(rf"<!-- {marker} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, marker
    return found[1]


@pytest.mark.parametrize("marker", ["first command", "test command"])
def test_a_marked_command_is_one_line_that_installs_from_the_clone(marker):
    [line] = block_after(marker).splitlines()
    words = shlex.split(line)
    assert words[:2] == ["pip", "install"]
    assert "&&" in words


def test_the_marked_commands_are_what_ci_runs():
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    assert 'readme "test command"' in run
    assert 'readme "first command"' in run


def test_the_output_in_the_readme_is_what_the_first_command_prints(capsys):
    pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")
    from lora_ref.cli import main

    assert main(["verify"]) == 0
    assert block_after("real output") in capsys.readouterr().out


def test_every_recipe_is_in_the_table_with_its_formula():
    rows = set(re.findall(r"^\| (.+) \| (.+) \|$", VERIFY, re.MULTILINE))
    assert {(r.name, r.formula) for r in RECIPES} <= rows


def test_the_table_of_bugs_has_every_entry_of_the_catalogue_and_no_other():
    table = VERIFY.partition("## The catalogue of bugs")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(entry.__name__ for entry in CATALOGUE)


@pytest.mark.parametrize("page", [README, VERIFY, (ROOT / "docs" / "index.md").read_text("utf-8")])
def test_links_inside_the_repository_lead_somewhere(page):
    here = ROOT if page is README else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (here / target).exists(), target
