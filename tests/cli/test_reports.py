"""The JSON and HTML reports: what is in them, and that they are safe and never half there."""

import html.parser
import json
import os
import re

import numpy as np
import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import arguments, exact_merge, factors, save_adapter, save_model, status_of, three
from small_models import weights as base_weights
from test_verify_command import HOSTILE, hostile_three, not_applied, twice

from lora_ref.cli import verify_command
from lora_ref.verify.error_map import bounds_for, draw
from lora_ref.verify.report_json import SCHEMA, SCHEMA_VERSION


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def read_json(text):
    return json.loads(text, parse_constant=refuse_constant)


def with_infinity(base, lora):
    merged = exact_merge(base, lora)
    merged["layer.1.q.weight"][2, 3] = np.inf
    return merged


def test_json_has_every_figure_of_every_tensor(tmp_path, capsys):
    out = tmp_path / "report.json"
    assert status_of(*arguments(*three(tmp_path, twice), "--json", out)) == 1
    fields = read_json(out.read_text("ascii"))
    assert (fields["schema"], fields["schema_version"]) == (SCHEMA, SCHEMA_VERSION)
    assert fields["verdict"] == "bug"
    assert fields["exit_status"] == 1
    assert fields["counts"] == {"exact": 1, "rounding": 0, "undecidable": 0, "bug": 3}
    assert fields["adapter"]["r"] == 3
    [tensor] = [t for t in fields["tensors"] if t["name"] == "layer.0.q.weight"]
    assert (tensor["dtype"], tensor["shape"], tensor["verdict"]) == ("F32", [11, 7], "bug")
    assert tensor["measure"]["c"] == pytest.approx(2, abs=1e-6)
    assert tensor["diagnoses"][0]["name"] == "applied twice"
    assert set(tensor["diagnoses"][0]) == {"name", "formula", "explained", "how", "proved"}
    assert fields["diagnoses"][0]["summary"] == "applied twice: all 3 adapted tensors"
    assert len(fields["diagnoses"][0]["cases"][0]["names"]) == 3


def test_json_on_stdout_is_nothing_but_json_and_the_same_as_the_file(tmp_path, capsys):
    inputs, out = three(tmp_path, not_applied), tmp_path / "report.json"
    status_of(*arguments(*inputs, "--json", out))
    capsys.readouterr()
    status_of(*arguments(*inputs, "--json", "-"))
    printed = capsys.readouterr().out
    assert printed == out.read_text("ascii")
    read_json(printed)


def test_json_has_no_infinity(tmp_path, capsys):
    assert status_of(*arguments(*three(tmp_path, with_infinity), "--json", "-")) == 1
    fields = read_json(capsys.readouterr().out)
    [worst] = [
        t["measure"]["worst_ulps"] for t in fields["tensors"] if t["name"] == "layer.1.q.weight"
    ]
    assert worst == "Infinity"


class Page(html.parser.HTMLParser):
    """All tags, and the text outside the style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    def handle_data(self, data):
        self.text.append(data)


def page_of(inputs, path):
    status_of(*arguments(*inputs, "--html", path))
    return Page(path.read_text("utf-8"))


def test_the_page_draws_a_map_for_each_wrong_tensor_and_says_the_diagnosis(tmp_path):
    page = page_of(three(tmp_path, twice), tmp_path / "report.html")
    assert page.tags.count("svg") == 3
    assert "applied twice: all 3 adapted tensors" in page.text
    assert "script" not in page.tags
    assert "link" not in page.tags


def test_the_map_has_one_dark_cell_for_one_wrong_element():
    errors = np.zeros((4, 8))
    errors[2, 5] = 300.0
    svg = draw(errors, bounds_for([300.0]), rows=4, columns=8)
    cells = dict(re.findall(r'<path class="e(\d)" d="([^"]*)"', svg))
    assert set(cells) == {"0", "5"}
    side = 24  # of a cell where the tensor is small
    assert cells["5"] == f"M{5 * side} {2 * side}h{side}v{side}h-{side}z"


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 96), (96, 3), (70_000, 33)])
def test_the_axes_of_a_map_are_numbered_from_zero_within_the_tensor(rows, columns):
    svg = draw(np.zeros((min(rows, 32), min(columns, 32))), bounds_for([]), rows, columns)
    numbers = [int(n) for n in re.findall(r">(\d+)</text>", svg)]
    assert numbers.count(0) == 2
    assert max(numbers) < max(rows, columns)


def test_the_page_of_a_right_merge_has_no_map(tmp_path):
    assert "svg" not in page_of(three(tmp_path), tmp_path / "report.html").tags


def test_the_page_escapes_hostile_names(tmp_path):
    page = page_of(hostile_three(tmp_path), tmp_path / "report.html")
    assert "script" not in page.tags
    assert "red" not in page.tags
    text = "".join(page.text)
    for name in HOSTILE:
        assert name.isprintable() == (name in text)
    assert "\x1b" not in text


def test_a_tensor_of_any_number_of_axes_has_a_map(tmp_path):
    base = base_weights() | {
        "scalar": np.float32(1).reshape(()),
        "empty": np.ones((0, 3), "float32"),
        "cube": np.ones((2, 3, 4), "float32"),
    }
    merged = exact_merge(base, factors()) | {
        "scalar": np.float32(2).reshape(()),
        "cube": np.full((2, 3, 4), 2, "float32"),
    }
    inputs = (
        save_model(tmp_path / "base", base),
        save_adapter(tmp_path / "adapter", factors()),
        save_model(tmp_path / "merged", merged),
    )
    assert page_of(inputs, tmp_path / "report.html").tags.count("svg") == 2


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_report_that_exists_is_kept_without_force(tmp_path, capsys, option):
    path = tmp_path / "report"
    path.write_text("mine")
    inputs = three(tmp_path)
    assert status_of(*arguments(*inputs, option, path)) == 2
    assert path.read_text() == "mine"
    assert status_of(*arguments(*inputs, option, path, "--force")) == 0
    assert path.read_text() != "mine"


def test_a_report_never_replaces_a_part_of_the_input(tmp_path, capsys):
    inputs = three(tmp_path)
    for part in ("base/model.safetensors", "base/config.json", "adapter/adapter_config.json"):
        before = (tmp_path / part).read_bytes()
        assert status_of(*arguments(*inputs, "--json", tmp_path / part, "--force")) == 2
        assert (tmp_path / part).read_bytes() == before


def test_a_report_that_exists_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify_command, "verify", None)
    (tmp_path / "report").write_text("mine")
    assert status_of(*arguments(*three(tmp_path), "--json", tmp_path / "report")) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_file_that_appears_during_the_work_is_kept(tmp_path, capsys, monkeypatch):
    inputs, path = three(tmp_path), tmp_path / "report"
    judge = verify_command.verify

    def slow(*args, **options):
        path.write_text("mine")
        return judge(*args, **options)

    monkeypatch.setattr(verify_command, "verify", slow)
    assert status_of(*arguments(*inputs, "--json", path)) == 2
    assert path.read_text() == "mine"


def test_a_report_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify_command, "verify", None)
    path = tmp_path / "no" / "report.json"
    assert status_of(*arguments(*three(tmp_path), "--json", path)) == 2
    assert "its directory does not exist" in capsys.readouterr().err


def test_a_report_is_there_whole_or_not_at_all(tmp_path, capsys, monkeypatch):
    inputs = three(tmp_path)
    before = set(os.listdir(tmp_path))

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert status_of(*arguments(*inputs, "--html", tmp_path / "report.html")) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert set(os.listdir(tmp_path)) == before
