"""Write docs/coverage.md from tests/coverage_rows.toml and from what is in the tree.

python tests/coverage_page.py
"""

import importlib
import inspect
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "coverage.md"
ROWS = tomllib.loads((ROOT / "tests" / "coverage_rows.toml").read_text())
HEAD = """\
# What is covered

Every system that the four source texts name ([which they are](source_texts.md)), every method of
PEFT 0.21.2, and every setting of its LoRA that changes a number. *Built* is what has its files and
its test in the tree; the rest is not there yet. `python tests/coverage_page.py` writes this page
from `tests/coverage_rows.toml` and from what exists, and a test compares them. Beside the test that
is named, `tests/test_adapters.py` runs all checks on every adapter.
"""


def is_built(files: str) -> bool:
    """Whether all files of a row are there."""
    return all((ROOT / "lora_ref" / name).exists() for name in files.split())


def has_test(test: str) -> bool:
    """Whether the test of a row is there."""
    return (ROOT / "tests" / test).exists()


def row(*cells: str) -> str:
    """A line of a table: the last two cells are files and test, and the state follows."""
    *what, files, test = cells
    if not is_built(files):
        return f"| {' | '.join(what)} | | | not yet |"
    named = ", ".join(f"`{name}`" for name in files.split())
    if not has_test(test):
        return f"| {' | '.join(what)} | {named} | | built, its own test is missing |"
    return f"| {' | '.join(what)} | {named} | `{test}` | built |"


def registered() -> list[str]:
    """A line for each adapter of the registry."""
    rows = []
    for adapter in importlib.import_module("lora_ref.adapters").ADAPTERS:
        module = inspect.getmodule(adapter)
        what = (module.__doc__ or "").partition("\n")[0].rstrip(".")
        file = Path(module.__file__).relative_to(ROOT / "lora_ref")
        rows.append(f"| `{adapter.__name__}` | {what} | `{file}` |")
    return rows


def page() -> str:
    """The page as it should be now."""
    methods = {name: row(name, *cells) for name, cells in ROWS["methods"].items()}
    methods |= {
        name: f"| {name} | | | not yet; no map of a weight but of prompts or a cache |"
        for name in ROWS["prompts"]
    }
    tables = (
        ("The source texts", "system|text|files|test|state", [row(*r) for r in ROWS["texts"]]),
        ("PEFT's methods", "PeftType|files|test|state", [methods[x] for x in sorted(methods)]),
        (
            "Settings of PEFT's LoRA",
            "setting|files|test|state",
            [row(*r) for r in ROWS["settings"]],
        ),
        ("All adapters of the registry", "class|what|file", registered()),
    )
    lines = [HEAD]
    for title, columns, rows in tables:
        names = columns.split("|")
        lines += [f"## {title}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        lines += [*rows, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page())
