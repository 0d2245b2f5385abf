"""Targets and paths that must be refused, and streams that are not there."""

import os
import stat
import subprocess
import sys

import pytest

from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.atomic import new_file
from lora_ref.cli import main

pytest.importorskip("typer", reason="the command line needs the [cli] extra")


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_or_device_is_never_replaced_even_with_overwrite(tmp_path, linked):
    # A pipe stands for /dev/null: a test that fails must not take the machine's own away.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    target = tmp_path / "link" if linked else pipe
    if linked:
        target.symlink_to(pipe)
    with pytest.raises(CheckpointError, match="never replaced"), new_file(target, overwrite=True):
        pass
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert target.is_symlink() == linked


def test_a_report_onto_a_pipe_is_refused_before_anything_is_judged(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert main(["verify", "--json", str(pipe), "--force"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "never replaced" in said.err
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("option", ["--base", "--adapter", "--merged", "--json", "--html"])
def test_an_empty_path_is_wrong_usage_and_not_the_current_directory(option, capsys):
    given = {"--base": "b", "--adapter": "a", "--merged": "m", option: ""}
    arguments = [word for pair in given.items() for word in pair]
    assert main(["verify", *arguments]) == 2
    assert capsys.readouterr().err == f"lora-ref: {option} must be a path, got an empty one\n"


def test_an_empty_target_of_a_merge_is_wrong_usage(capsys):
    assert main(["merge", "--base", "b", "--adapter", "a", "--out", ""]) == 2
    assert "--out must be a path" in capsys.readouterr().err


def test_a_closed_stdout_does_not_change_the_exit_status():
    program = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "lora_ref", "verify"]
    done = subprocess.run(
        [sys.executable, "-c", program, *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
