"""Break our own formulas one token at a time and see which mistakes no test notices.

    python tests/mutation.py [lora_ref/adapters/lora.py ...] [--sample 200] [--json FILE]

Without files: every room of TESTS. Every mutant is tried in a process of its own, forked from
this one, which replaces one module by its mutated text and runs the fast tests of that room on
NumPy arrays, stopping at the first failure. Survivors are printed as they are found. It is slow
and needs `os.fork`, so it is a command and no test. `docs/testing.md` lists the known survivors.
"""

import argparse
import functools
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import random
import signal
import sys
import time
import tokenize
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parent.parent
# Loaded once here, so that no child has to.
PRELOADED = ("scipy.special", "hypothesis", "array_api_compat.numpy", "ml_dtypes")
TIMEOUT = 180  # seconds a mutant: one that hangs is noticed, a slow machine is no hang
TESTS = {
    "adapters": ["tests/test_adapters.py", "tests/adapters", "tests/test_properties.py"],
    "layers": ["tests/test_layers.py", "tests/layers", "tests/test_adapters.py", "tests/adapters"],
    "generators": [
        "tests/adapters/test_hyperlora_golden.py",
        "tests/adapters/test_hyperlora.py",
        "tests/adapters/test_generators.py",
    ],
    "compose": [
        "tests/compose/test_mixed_batch.py",
        "tests/compose/test_mixed_batch_inputs.py",
        "tests/compose/test_dropout.py",
        "tests/compose/test_strength.py",
        "tests/compose/test_combining.py",
        "tests/compose/test_combining_inputs.py",
        "tests/compose/test_combining_golden.py",
        "tests/test_attention_grid.py",
    ],
    "init": [
        "tests/init/test_initialisations.py",
        "tests/init/test_initialisations_recorded.py",
        "tests/init/test_from_the_weight.py",
        "tests/init/test_from_the_inputs.py",
        "tests/init/test_from_the_gradient.py",
    ],  # by name: collecting the peers' file would import PyTorch for every mutant
    "plan": [
        "tests/plan/test_plan.py",
        "tests/plan/test_plan_published.py",
        "tests/plan/test_plan_inputs.py",
    ],
    "rank": [
        "tests/rank/test_spectra_of_updates.py",
        "tests/rank/test_choosing_ranks.py",
        "tests/rank/test_allocation.py",
        "tests/rank/test_extreme_updates.py",
        "tests/rank/test_rank_refusals.py",
        "tests/rank/test_allocation_refusals.py",
    ],
    "checkpoint": [
        "tests/checkpoint/test_peft_dora.py",
        "tests/checkpoint/test_peft_adalora.py",
        "tests/checkpoint/test_ranks_of_files.py",
        "tests/cli/test_extract_command.py",
        "tests/checkpoint/test_peft.py",
        "tests/checkpoint/test_peft_config.py",
        "tests/checkpoint/test_peft_directory.py",
        "tests/checkpoint/test_peft_hostile.py",
        "tests/checkpoint/test_ranks_at_the_limits.py",
        "tests/checkpoint/test_inputs_first.py",
        "tests/checkpoint/test_combined.py",
        "tests/checkpoint/test_tuners.py",
        "tests/checkpoint/test_checkpoint.py",
        "tests/checkpoint/test_checkpoint_write.py",
        "tests/checkpoint/test_safetensors.py",
        "tests/checkpoint/test_safetensors_write.py",
        "tests/checkpoint/test_hostile.py",
    ],
    "tuners": [
        "tests/checkpoint/test_tuners.py",
        "tests/checkpoint/test_tuner_refusals.py",
        "tests/checkpoint/test_inputs_first.py",
    ],
}
NUMPY_ONLY = "not read_only and not strict and not torch and not jax and not cupy"
SWAPS = {
    "+": "-", "-": "+", "*": "/", "/": "*", "<": "<=", ">": ">=", "<=": "<", ">=": ">",
    "==": "!=", "A": "B", "B": "A", "min": "max", "max": "min", "True": "False", "False": "True",
    "0": "1", "1": "2", "2": "1", "0.5": "1", "dx": "dy", "du": "dy",
}  # fmt: skip
SCALES = {"s", "scale"}


@dataclass(frozen=True)
class Mutant:
    """One token changed: the file, the line, what stood there and what stands there now."""

    path: str
    line: int
    old: str
    new: str
    text: str  # the whole mutated source

    def __str__(self) -> str:
        changed = self.text.splitlines()[self.line - 1].strip()
        return f"{self.path}:{self.line}: {self.old!r} -> {self.new!r}: {changed}"


def mutants(path: Path) -> Iterator[Mutant]:
    """All single-token mutants of a file, outside docstrings, comments, imports and messages."""
    source = path.read_text()
    lines = source.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    skipped = _skipped_lines(tokens)
    for i, token in enumerate(tokens):
        if token.start[0] in skipped:
            continue
        for start, end, new in _changes(tokens, i):
            row = start[0]
            if end[0] != row:
                continue
            line = lines[row - 1]
            changed = line[: start[1]] + new + line[end[1] :]
            text = "".join([*lines[: row - 1], changed, *lines[row:]])
            old = line[start[1] : end[1]]
            if _is_program(text):
                yield Mutant(str(path.relative_to(ROOT)), row, old, new, text)


def _is_program(text: str) -> bool:
    """Whether the text compiles: one that does not would count as noticed."""
    try:
        compile(text, "a mutant", "exec")
    except SyntaxError:
        return False
    return True


def _skipped_lines(tokens: list[tokenize.TokenInfo]) -> set[int]:
    """Lines of imports, decorators, raised errors and signatures' annotations."""
    skipped: set[int] = set()
    first = None
    for token in tokens:
        if first is None and token.type in (tokenize.NAME, tokenize.OP):
            first = token
        if token.type == tokenize.NEWLINE and first is not None:
            if first.string in ("from", "import", "raise", "@", "def", "class"):
                skipped |= set(range(first.start[0], token.end[0] + 1))
            first = None
    return skipped


def _changes(
    tokens: list[tokenize.TokenInfo], i: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int], str]]:
    """(start, end, replacement) for every mutation that begins at token i."""
    token, before, after = tokens[i], tokens[i - 1], tokens[min(i + 1, len(tokens) - 1)]
    if token.type not in (tokenize.NAME, tokenize.OP, tokenize.NUMBER):
        return
    keyword = after.string == "=" and before.string in ("(", ",")  # f(A=...): a name, no value
    if (
        token.string in SWAPS
        and not keyword
        and not (token.string == "*" and before.string in "(,")
    ):
        yield token.start, token.end, SWAPS[token.string]
    if token.type == tokenize.NUMBER and token.string not in SWAPS:
        yield token.start, token.end, f"({token.string} + 1)"
    if token.string in SCALES and after.string == "*":
        owned = before.string == "." and tokens[i - 2].type == tokenize.NAME
        yield (tokens[i - 2] if owned else token).start, tokens[i + 2].start, ""
    if token.string == "." and after.string in ("T", "mT"):
        yield token.start, after.end, ""
    if token.string in ("A", "B", "W", "dW") and after.string not in (".", "=", ":"):
        yield token.end, token.end, ".mT"
    if token.string == "**":  # an exponent with its sign, or a mapping among arguments
        yield token.start, tokens[i + 1 + (after.string == "-")].end, ""


class _Replaced(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module another text."""

    def __init__(self, name: str, mutant: Mutant) -> None:
        self.name, self.mutant = name, mutant

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(
            fullname, ROOT / self.mutant.path, loader=self
        )

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(compile(self.mutant.text, self.mutant.path, "exec"), vars(module))


def room_of(mutant: Mutant) -> str:
    """The innermost room that a mutant's file is in."""
    return next(part for part in reversed(Path(mutant.path).parts) if part in TESTS)


def survives(room: str, mutant: Mutant | None = None) -> bool:
    """Whether the room's tests pass, with the mutant in place if there is one."""
    child = os.fork()
    if child == 0:
        signal.alarm(TIMEOUT)
        name = mutant and mutant.path.removesuffix(".py").replace("/", ".")
        if mutant is not None and name is not None:
            sys.meta_path.insert(0, _Replaced(name, mutant))
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            os._exit(_run(room, name))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _run(room: str, mutated: str | None) -> int:
    found = [path for path in TESTS[room] if (ROOT / path).exists()]
    rewritten = "ignore::pytest.PytestAssertRewriteWarning"  # Hypothesis is loaded already
    quiet = ["-x", "-q", "-W", rewritten, "-p", "no:cacheprovider", "-p", "no:doctest"]
    try:
        if mutated:  # before pytest, which puts an importer of its own in front
            importlib.import_module(mutated)
        if room in ("adapters", "layers"):
            _public_checks(room)
        return int(
            pytest.main([*quiet, "-o", "addopts=", "-k", NUMPY_ONLY, "-m", "not peers", *found])
        )
    except BaseException:
        return 1


def _public_checks(room: str) -> None:
    """The checks that find nearly everything, without the time that pytest takes to start."""
    from lora_ref.adapters import ADAPTERS
    from lora_ref.testing import ADAPTER_CHECKS, LAYER_CHECKS
    from lora_ref.testing.adapter_examples import adapter_example
    from lora_ref.testing.layer_examples import LAYER_EXAMPLES

    layers = LAYER_EXAMPLES.values() if room == "layers" else ()
    calls = [(check, make) for make in layers for check in LAYER_CHECKS]
    for cls in ADAPTERS:
        for square in (None, 4):
            make = functools.partial(adapter_example, cls, square=square)
            calls += [(check, make) for check in ADAPTER_CHECKS]
    for check, make in calls:
        check(make, numpy.random.default_rng(0))


def main() -> int:
    """Try the mutants, print the survivors and the score."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", help="default: every room of TESTS")
    parser.add_argument("--sample", type=int, help="try this many, drawn evenly")
    parser.add_argument("--json", help="write the survivors to this file")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    rooms = [d for room in TESTS for d in (ROOT / "lora_ref").rglob(room) if d.is_dir()]
    files = [Path(f).resolve() for f in options.files] or [
        f for room in rooms for f in sorted(room.glob("*.py")) if f.name != "__init__.py"
    ]
    todo = [mutant for f in files for mutant in mutants(f)]
    if options.sample and options.sample < len(todo):
        todo = sorted(random.Random(0).sample(todo, options.sample), key=lambda m: (m.path, m.line))
    for name in PRELOADED:
        importlib.import_module(name)
    if broken := [room for room in sorted({room_of(m) for m in todo}) if not survives(room)]:
        sys.stdout.write(
            f"the tests of {', '.join(broken)} fail without any mutation: mend them first\n"
        )
        return 2
    start, alive = time.monotonic(), []
    for count, mutant in enumerate(todo, start=1):
        if survives(room_of(mutant), mutant):
            alive.append(mutant)
            sys.stdout.write(f"\r\x1b[Ksurvivor {mutant}\n")
        rate = (time.monotonic() - start) / count
        left = f"{rate * (len(todo) - count):.0f} s left"
        sys.stdout.write(f"\r\x1b[K{count}/{len(todo)}, {len(alive)} alive, {left}")
        sys.stdout.flush()
    sys.stdout.write(f"\n{len(todo) - len(alive)} of {len(todo)} mutants were noticed\n")
    if options.json:
        rows = [{k: v for k, v in asdict(m).items() if k != "text"} for m in alive]
        Path(options.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
