"""Pages can be read where nobody builds them: links lead somewhere, and the source is linked."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# What a build leaves in docs/_build is no page.
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
DERIVATIONS = sorted((DOCS / "derivations").glob("*.md"))
LINK = re.compile(r"(?<!\w)\[[^]]*\]\(([^)\s]+)\)")  # array[2](x) is none
INCLUDE = re.compile(
    r"(?:^(?P<above>.*)\n\n)?```\{literalinclude\} (?P<file>\S+)\n(?::pyobject: (?P<name>\S+)\n)?",
    re.MULTILINE,
)


def name_of(page):
    return str(page.relative_to(ROOT))


def prose(page):
    """The page without its blocks of code, where brackets are not links."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def links(page):
    """The targets of the links, not those of brackets and parentheses in code within a line."""
    return LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page)))


def anchors(page):
    """The anchors of the headings, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def objects(file):
    """The names that an include can ask for: functions, classes and their methods."""
    found = set()

    def visit(node, prefix):
        for child in getattr(node, "body", ()):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(file.read_text("utf-8")), "")
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name_of)
def test_every_link_inside_the_repository_leads_to_a_file_and_a_heading_that_exist(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_include_names_what_exists_and_has_a_plain_link_to_its_file_above_it(page):
    for found in INCLUDE.finditer(page.read_text("utf-8")):
        file, name = found["file"], found["name"]
        target = (page.parent / file).resolve()
        assert target.is_file(), file
        assert name is None or name in objects(target), f"{file}: {name}"
        shown = f"[{target.relative_to(ROOT)}]({file})" + (f", `{name}`" if name else "")
        assert found["above"] == shown, found[0]


@pytest.mark.parametrize("page", DERIVATIONS, ids=name_of)
def test_every_derivation_says_after_its_title_where_it_comes_from(page):
    # The layout of PEFT's files has a Source at its end, of many files.
    opening = page.read_text("utf-8").split("\n\n")[1]
    assert opening.startswith("*Source:* ") or page.stem == "peft_layout"
    named = re.findall(r"arXiv:(\d{4}\.\d{5})", opening)
    assert re.findall(r"\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", opening) == named
