"""Imports go one way, peers are never imported, and kernels name no array library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lora_ref

ROOT = Path(lora_ref.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# From the bottom up. A room may import the rooms below it, and itself.
ROOMS = (
    {"arrays"},
    {"shapes", "trees", "pages", "mismatch", "late", "values"},
    {"layers"},
    {"adapters"},
    {"quant"},
    {"rank", "init", "compose", "optim"},
    {"models", "verdict"},
    {"checkpoint"},
    {"verify", "plan"},
    {"cli"},
    {"__main__"},
)
# What lora_ref.testing may import besides the foundations.
KIT = {"layers", "adapters", "quant", "verdict"}
STRATEGIES = {
    f"testing/{name}.py" for name in ("strategies", "case_strategies", "array_strategies")
}
PEERS = {"torch", "peft", "transformers", "jax", "bitsandbytes", "jaxtyping", "beartype", "dask"}
HEAVY = (
    PEERS,
    {"scipy", "array_api_compat", "typer", "rich", "matplotlib", "hypothesis", "pytest"},
)
KERNELS = [f for f in FILES if f.relative_to(ROOT).parts[0] in ("layers", "adapters")]


def name_of(path):
    return str(path.relative_to(ROOT))


def level(room):
    return next(i for i, rooms in enumerate(ROOMS) if room in rooms)


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    """The rooms of lora_ref that a file imports, anywhere in it."""
    package = ["lora_ref", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            names = [[*module, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == "lora_ref" and len(name) > 1)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path):
    room = room_of(path)
    found = {r for r in imported_rooms(path) if (ROOT / r).exists() or (ROOT / f"{r}.py").exists()}
    if room == "__init__":
        return
    if room == "testing":
        allowed = {"testing", *KIT, *set.union(*ROOMS[:2])}
    else:
        allowed = {room}.union(*ROOMS[: level(room)])
    assert found <= allowed


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_imports_a_peer_not_even_late(path):
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots.add(node.module.split(".")[0])
    assert roots & PEERS == set()
    assert "hypothesis" not in roots or name_of(path) in STRATEGIES


def dotted(node):
    """`np.random.Generator` for its syntax tree; None for what is no dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else None
    return f"{inner}.{node.attr}" if inner else None


@pytest.mark.parametrize("path", KERNELS, ids=name_of)
def test_a_kernel_names_no_array_library(path):
    """NumPy only as the type of a random generator or of an array that comes from one."""
    tree = ast.parse(path.read_text())
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = {dotted(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n not in inner}
    used = {name for name in names if name and name.startswith("np.")}
    assert used <= {"np.random.Generator", "np.ndarray"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_check_is_an_assert_which_optimised_python_drops(path):
    assert [
        n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)
    ] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_function_is_longer_than_a_screen(path):
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= 60] == []


def modules_after(statement):
    """The top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import lora_ref",
        "import lora_ref.adapters, lora_ref.layers",
        "import lora_ref.testing",
        "import lora_ref.verdict",
        "import lora_ref.verify",
    ],
)
def test_an_import_loads_numpy_and_nothing_heavy(statement):
    assert modules_after(statement) & set.union(*HEAVY) == set()


def test_the_verdict_loads_what_is_asked_for_and_not_before():
    assert "ml_dtypes" not in modules_after("import lora_ref.verdict")
    assert "ml_dtypes" in modules_after("from lora_ref.verdict import judge")


def test_the_pytest_plugin_loads_pytest_and_neither_numpy_nor_hypothesis():
    loaded = modules_after("import lora_ref.testing.plugin")
    assert loaded & (set.union(*HEAVY) | {"numpy"}) == {"pytest"}
