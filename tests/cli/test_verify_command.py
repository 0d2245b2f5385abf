"""`lora-ref verify`: verdicts, exit statuses, refusals, and what is printed where."""

import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import (
    BFLOAT16,
    arguments,
    exact_merge,
    factors,
    float32_merge,
    save_adapter,
    save_model,
    status_of,
    three,
    weights,
)

from lora_ref.cli import failures, main, terminal, verify_command
from lora_ref.verify import verify


def run_python(*args, **options):
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, check=False, **options
    )


def not_applied(base, lora):
    return dict(base)


def twice(base, lora):
    return exact_merge(base, lora, scale=10 / 3)


def test_without_options_it_shows_a_right_merge_and_one_with_diagnosed_bugs(capsys):
    assert status_of("verify") == 0
    out, err = capsys.readouterr()
    right, _, wrong = out.partition("a merge with planted bugs")
    assert "no bug (exit status 0)" in right
    assert "bug in 5 of 21 tensors (exit status 1)" in wrong
    for diagnosis in (
        "α not divided by the rank: 1 of 6 adapted tensors",
        "another module's update: 2 of 6 adapted tensors",
        "applied twice: 1 of 6 adapted tensors",
        "not applied: 1 of 6 adapted tensors",
    ):
        assert diagnosis in wrong
    assert err == ""


def test_the_example_fails_if_a_verdict_is_not_the_expected_one(capsys, monkeypatch):
    monkeypatch.setattr(verify_command, "PLANTED", 4)
    assert status_of("verify") == 1
    assert "NOT what the example was made for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("merge", "dtype", "size", "strict", "status", "said"),
    [
        (exact_merge, "float32", 1.0, False, 0, "exact: all 4 tensors"),
        (float32_merge, "float32", 1.0, False, 0, "the others exact: no bug"),
        (twice, "float32", 1.0, False, 1, "bug in 3 of 4 tensors"),
        (not_applied, BFLOAT16, 1e-7, False, 0, "undecidable in 3 of 4 tensors"),
        (not_applied, BFLOAT16, 1e-7, True, 1, "(exit status 1 under --strict)"),
        (exact_merge, "float32", 1.0, True, 0, "exact: all 4 tensors"),
    ],
)
def test_the_exit_status_says_the_verdict(
    tmp_path, capsys, merge, dtype, size, strict, status, said
):
    strictly = ["--strict"] if strict else []
    assert status_of(*arguments(*three(tmp_path, merge, dtype, size), *strictly)) == status
    assert said in capsys.readouterr().out


def test_a_diagnosis_of_all_tensors_says_that_the_merge_is_the_base(tmp_path, capsys):
    assert status_of(*arguments(*three(tmp_path, not_applied))) == 1
    out = capsys.readouterr().out
    assert "not applied: all 3 adapted tensors; everything else is right, so MERGED is BASE" in out
    assert "layer.{0-2}.q.weight" in out


def test_tensors_that_the_adapter_leaves_alone_are_one_line_unless_all_are_wanted(tmp_path, capsys):
    inputs = three(tmp_path)
    status_of(*arguments(*inputs))
    short = capsys.readouterr().out
    status_of(*arguments(*inputs, "--all"))
    whole = capsys.readouterr().out
    assert "1 tensor that the adapter leaves alone: unchanged" in short
    assert "norm.weight" not in short
    assert "norm.weight" in whole


def unusable(directory):
    """(what, arguments) of every kind of input that cannot be judged."""
    base, adapter, merged = three(directory)
    other = save_adapter(directory / "other", {"block.0.k": factors()["layer.0.q"]})
    no_rank = save_adapter(directory / "no_rank", factors(), r=0)
    nan = {**weights(), "layer.0.q.weight": np.full((11, 7), np.nan, "float32")}
    with_nan = save_model(directory / "nan", nan)
    (directory / "cut.safetensors").write_bytes(b"\x10\x00\x00")
    (directory / "model.bin").write_bytes(b"PK\x03\x04")
    (directory / "latin").mkdir()
    (directory / "latin" / "model.safetensors").write_bytes(
        (directory / "base" / "model.safetensors").read_bytes()
    )
    (directory / "latin" / "config.json").write_bytes(b'{"a": "\xe9"}')
    return {
        "no such path": (str(directory / "nowhere"), adapter, merged),
        "another model's adapter": (base, other, merged),
        "rank 0": (base, no_rank, merged),
        "NaN in the base": (with_nan, adapter, merged),
        "truncated": (base, adapter, str(directory / "cut.safetensors")),
        "a pickle": (base, adapter, str(directory / "model.bin")),
        "config that is no UTF-8": (str(directory / "latin"), adapter, merged),
        "the adapter as a model": (adapter, adapter, merged),
        "a model as the adapter": (base, base, merged),
        "a file as the adapter": (base, os.path.join(base, "model.safetensors"), merged),
        "NUL in a path": ("a\0b", adapter, merged),
    }


def test_unusable_input_is_one_line_and_status_2(tmp_path, capsys):
    for what, inputs in unusable(tmp_path).items():
        assert status_of(*arguments(*inputs)) == 2, what
        out, err = capsys.readouterr()
        assert out == "", what
        assert err.startswith("lora-ref: "), what
        assert err.count("\n") == 1, what


@pytest.mark.parametrize(
    "given",
    [
        ["verify", "--base", "x"],
        ["verify", "--adapter", "x", "--merged", "y"],
        ["verify", "--nonsense"],
        ["verify", "--json"],
        ["verify", "--html", "-"],
        ["verify", "--json", "same", "--html", "same"],
        ["nonsense"],
        ["merge", "--base", "x"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(given, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lora-ref: ")
    assert err.count("\n") == 1


def test_the_version_is_that_of_the_distribution(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lora-ref ")


def test_without_typer_one_line_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; import lora_ref.cli as c; sys.exit(c.main([]))"
    done = run_python("-c", code)
    assert done.returncode == 2
    assert "pip install 'lora-ref[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


HOSTILE = (
    "<script>alert(1)</script>.0",
    "[red]a[/red]",
    "[/]",
    "esc\x1b[31m.0",
    "line\nend",
    "turn\u202eed",
    ":smile: & \"'",
)


def hostile_three(directory):
    base = weights() | {name: np.ones((3, 2), "float32") for name in HOSTILE}
    merged = exact_merge(base, factors()) | {name: np.zeros((3, 2), "float32") for name in HOSTILE}
    return (
        save_model(directory / "base", base),
        save_adapter(directory / "adapter", factors()),
        save_model(directory / "merged", merged),
    )


def test_hostile_names_are_shown_and_never_obeyed(tmp_path, capsys):
    assert status_of(*arguments(*hostile_three(tmp_path))) == 1
    out = capsys.readouterr().out
    for shown in ("<script>alert(1)</script>.0", "[red]a[/red]", "[/]", ":smile: & \"'"):
        assert shown in out
    for escaped in ("esc\\x1b[31m.0", "line\\nend", "turn\\u202eed"):
        assert escaped in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_piped_output_is_plain_whole_and_the_same_every_time(tmp_path):
    inputs = arguments(*three(tmp_path))
    runs = [
        run_python("-m", "lora_ref", *inputs, env={**os.environ, "COLUMNS": columns})
        for columns in ("20", "200")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stderr == ""
    assert "\x1b" not in runs[0].stdout
    assert "layer.0.q.weight  exact" in runs[0].stdout


def test_a_reader_that_has_gone_is_no_error_message():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "lora_ref", "verify"],
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (failures.NO_READER, b"")


def test_a_terminal_that_has_no_greek_gets_escapes(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run_python("-m", "lora_ref", *arguments(*three(tmp_path)), env=environment)
    assert done.returncode == 0
    assert "\\u03c1" in done.stdout


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("columns", [60, 100, 200])
def test_a_table_fits_its_terminal_and_keeps_layer_numbers(tmp_path, monkeypatch, columns):
    report = verify(*three(tmp_path))
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.print_report(report, strict=False, every=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    rows = [line for line in lines if line.startswith("tensor ") or " exact " in line]
    assert [row for row in rows if len(row) > columns] == []
    assert all(any(f"layer.{k}" in row for row in rows) for k in range(3))


def raising(error):
    def verify(*args, **options):
        raise error

    return verify


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (
            PermissionError(13, "Permission denied", "weights\n.bin"),
            2,
            "weights\\n.bin: Permission",
        ),
        (ZeroDivisionError("oops"), 3, "nothing was decided"),
    ],
)
def test_no_failure_can_be_taken_for_a_verdict(tmp_path, monkeypatch, capsys, error, status, said):
    monkeypatch.setattr(verify_command, "verify", raising(error))
    assert status_of(*arguments(*three(tmp_path))) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err.splitlines()[-1]
