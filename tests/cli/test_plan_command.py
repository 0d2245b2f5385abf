"""`lora-ref plan`: what it prints, its JSON, the choice, and refusals."""

import json

import pytest

pytest.importorskip("typer", reason="typer and rich are in the [cli] extra")

from small_models import status_of

from lora_ref.plan import DTYPES

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32000,
}  # fmt: skip
TABLE = """\
gpt3-175b: 174,604,259,328 parameters, base in float16 (--dtype)
lora of rank 4 on 192 of 577 linear weights: attn.q_proj, attn.v_proj
trainable: 18,874,368 parameters, 0.0108% of all; saved: 18,874,368
adamw, adapter in float16, 1 x 512 tokens a step
bytes                                   lora        full fine-tuning
base                         349,208,518,656         349,208,518,656
trained                           37,748,736                the base
gradients                         37,748,736         349,208,518,656
optimizer                         75,497,472         698,417,037,312
sum                          349,359,513,600       1,396,834,074,624
sum in GB                            349.360               1,396.834
checkpoint                        37,748,736         349,208,518,656
FLOPs                                   lora        full fine-tuning
forward                  180,009,541,042,176     179,990,213,689,344
backward                 181,265,818,976,256     359,980,427,378,688
forward, merged          179,990,213,689,344     179,990,213,689,344
forward, W' formed       180,222,141,923,328     179,990,213,689,344
backward, W' formed      211,377,834,688,512     359,980,427,378,688
weights and optimizer states: 66.66% less than full fine-tuning
not counted: activations, workspaces, a float32 copy of trained 16-bit weights
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    return str(path)


def planned(capsys, *arguments):
    """The JSON of a plan."""
    assert status_of("plan", *arguments, "--json", "-") == 0
    return json.loads(capsys.readouterr().out)


def test_the_table_has_every_figure(capsys):
    half = ("--dtype", "float16", "--adapter-dtype", "float16")
    assert status_of("plan", "--model", "gpt3-175b", "--rank", "4", *half) == 0
    assert capsys.readouterr().out == TABLE


@pytest.mark.parametrize(
    ("written", "options", "said"),
    [
        ({"dtype": "float32"}, (), "float32 (config.json)"),
        ({"torch_dtype": "float32"}, (), "float32 (config.json)"),
        ({"dtype": None, "torch_dtype": "float16"}, (), "float16 (config.json)"),
        ({"dtype": "float16", "torch_dtype": "float32"}, (), "float16 (config.json)"),
        ({"dtype": "float32"}, ("--dtype", "float64"), "float64 (--dtype)"),
        ({"dtype": "float8_e4m3fn"}, ("--dtype", "float16"), "float16 (--dtype)"),
        ({"dtype": None}, (), "bfloat16 (default)"),
        ({}, (), "bfloat16 (default)"),
    ],
)
def test_the_dtype_is_the_options_or_the_configs_and_the_first_line_says_whose(
    tmp_path, capsys, written, options, said
):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, **written}))
    assert status_of("plan", "--config", path, *options) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"llama: 6,738,415,616 parameters, base in {said}"
    found = planned(capsys, "--config", path, *options)
    dtype, _, source = said.rstrip(")").partition(" (")
    assert found["base"] == {"dtype": dtype, "from": source, "bits": None}
    assert found["bytes"]["base"] == DTYPES[dtype] * 6_738_415_616


def test_a_dtype_of_the_config_that_no_plan_has_is_refused_with_the_way_out(tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**LLAMA, "dtype": "float8_e4m3fn"}))
    assert status_of("plan", "--config", path) == 2
    said = capsys.readouterr().err
    assert f"{path}: dtype must be one of float64, float32, bfloat16, float16" in said
    assert "got 'float8_e4m3fn'; --dtype overrides it" in said


def test_a_report_is_written_beside_the_text_or_instead_of_it(tmp_path, capsys):
    shape = ("plan", "--shape", "q:30x20")
    assert status_of(*shape) == 0
    text = capsys.readouterr().out
    assert status_of(*shape, "--json", tmp_path / "plan.json") == 0
    done = capsys.readouterr()
    assert (done.out, done.err) == (text, f"written: {tmp_path / 'plan.json'}\n")
    assert status_of(*shape, "--json", "-") == 0
    assert capsys.readouterr().out == (tmp_path / "plan.json").read_text()


def test_the_report_names_its_schema_and_what_it_was_asked(capsys, config):
    found = planned(capsys, "--config", config, "--batch", "3", "--tokens", "5")
    assert (found["schema"], found["schema_version"]) == ("lora-ref/plan", 1)
    assert set(found["versions"]) == {"lora_ref", "python"}
    assert found["inputs"] == {"config": config, "model": None, "shape": []}
    assert found["step"] == {"sequences": 3, "tokens": 5}
    assert (found["optimizer"], found["adapter_dtype"]) == ("adamw", "float32")


def test_a_report_that_exists_is_kept_without_force_and_the_config_in_any_case(tmp_path, capsys):
    report, config = tmp_path / "plan.json", tmp_path / "tiny.json"
    report.write_text("mine")
    config.write_text(json.dumps(LLAMA))
    assert status_of("plan", "--config", config, "--json", report) == 2
    assert "exists already" in capsys.readouterr().err
    assert report.read_text() == "mine"
    assert status_of("plan", "--config", config, "--json", report, "--force") == 0
    assert json.loads(report.read_text())["method"] == "lora"
    assert status_of("plan", "--config", config, "--json", config, "--force") == 2
    assert json.loads(config.read_text()) == LLAMA


@pytest.mark.parametrize(("rank", "said"), [("8", "34.67% less"), ("20", "13.33% more")])
def test_what_is_more_than_full_fine_tuning_is_called_more(capsys, rank, said):
    assert status_of("plan", "--shape", "q:100x100", "--rank", rank) == 0
    line = capsys.readouterr().out.splitlines()[-2]
    assert line == f"weights and optimizer states: {said} than full fine-tuning"


def test_adalora_says_both_of_its_ranks(capsys):
    adalora = ("--shape", "q:30x20", "--method", "adalora", "--rank", "4")
    for more, first in ((), 6), (("--init-rank", "9"), 9):
        assert status_of("plan", *adalora, *more) == 0
        assert f"\nadalora of rank 4 ({first} at the start) on 1 of" in capsys.readouterr().out
        assert planned(capsys, *adalora, *more)["first_rank"] == first
    assert planned(capsys, "--shape", "q:30x20")["first_rank"] is None


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("lora", 4_194_304),
        ("rslora", 4_194_304),
        ("qlora", 4_194_304),
        ("dora", 4_194_304 + 64 * 4096),
        ("double-lora", 8_388_608),
        ("adalora", 64 * 12 * 8193),
        ("hyperlora", 8 * 8192 * 129 + 64 * 64),
    ],
)
def test_every_method_has_its_count(capsys, config, method, trained):
    found = planned(capsys, "--config", config, "--method", method)
    assert (found["method"], found["trained"]) == (method, trained)
    assert found["model"]["parameters"] == 6_738_415_616
    assert found["choice"] is None
    inner = 224 * 2 * 4096**2  # no more than a bound: quantized or not
    assert (found["bytes"]["base"] < inner) == (method == "qlora")


def test_the_first_rank_of_adalora_is_half_as_much_again_rounded_up_or_given(capsys, config):
    adalora = ("--config", config, "--method", "adalora", "--rank", "3")
    assert planned(capsys, *adalora)["trained"] == 64 * 5 * 8193
    found = planned(capsys, *adalora, "--init-rank", "7")
    assert (found["trained"], found["saved"]) == (64 * 7 * 8193, 64 * 3 * 8193)


def test_bits_of_the_base_go_with_any_method_and_replace_qloras_four(capsys, config):
    def base(*more):
        return planned(capsys, "--config", config, *more)["bytes"]["base"]

    assert base("--base-bits", "4", "--method", "dora") == base("--method", "qlora")
    assert base("--base-bits", "8", "--method", "qlora") > base("--method", "qlora")
    assert base("--base-bits", "8") < base()


def test_shapes_are_a_model_of_their_own(capsys):
    found = planned(capsys, "--shape", "q:5000x10000", "--shape", "v:30x20x7", "--rank", "1")
    assert found["model"]["parameters"] == 50_000_000 + 4_200
    assert found["trained"] == 15_000 + 350
    some = planned(capsys, "--shape", "q:5000x10000", "--shape", "v:30x20x7", "--targets", "v")
    assert [x["name"] for x in some["adapted"]] == ["v"]


def test_a_rank_above_what_a_weight_can_have_is_said(capsys):
    shapes = ("--shape", "q:8x9", "--shape", "v:30x20", "--method", "double-lora")
    assert planned(capsys, *shapes, "--rank", "4")["wide"] == []
    assert planned(capsys, *shapes, "--rank", "5")["wide"] == ["q"]
    said = "more factors than an update can have ranks: q (8, 9)\n"
    for rank in ("4", "5"):
        assert status_of("plan", *shapes, "--rank", rank) == 0
        assert (said in capsys.readouterr().out) == (rank == "5")


def test_options_of_a_method_go_with_the_choice_of_it(capsys):
    shape = ("--shape", "q:30x20", "--choose", "--dynamic")
    assert planned(capsys, *shape, "--init-rank", "9")["trained"] == 9 * 51
    larger = planned(capsys, *shape, "--much-compute", "--condition", "9")
    assert larger["trained"] == 8 * 50 * 19 + 9


def test_the_most_memory_is_memory(capsys):
    assert planned(capsys, "--shape", "q:2x3", "--choose", "--memory-gb", "1e12")["choice"]


def test_tokens_and_sequences_multiply_flops(capsys):
    one = planned(capsys, "--shape", "q:11x7", "--tokens", "3", "--batch", "5")["flops"]
    assert one["merged_forward"] == 15 * 2 * 77


@pytest.mark.parametrize(
    ("answers", "method"),
    [
        ((), "lora"),
        (("--expressive",), "dora"),
        (("--multi-task",), "adalora"),
        (("--dynamic", "--much-compute"), "hyperlora"),
        (("--memory-extreme", "--dynamic"), "qlora"),
        (("--memory-gb", "13"), "qlora"),
        (("--memory-gb", "14"), "lora"),
    ],
)
def test_the_choice_is_the_charts_and_is_planned(capsys, config, answers, method):
    found = planned(capsys, "--config", config, "--choose", *answers)
    assert found["method"] == found["choice"]["method"] == method
    assert status_of("plan", "--config", config, "--choose", *answers) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"choice: {method}"
    assert [f"  {reason}" for reason in found["choice"]["reasons"]] == rest[
        : len(found["choice"]["reasons"])
    ]
    assert any(line.startswith("but: ") for line in rest) == (method != "lora")


def test_the_memory_that_is_asked_for_is_that_of_lora_on_16_bits(capsys, config):
    found = planned(
        capsys, "--config", config, "--choose", "--memory-gb", "1", "--dtype", "float64"
    )
    states = 2 * 6_738_415_616 + 16 * 4_194_304
    assert found["choice"]["reasons"][0].startswith(f"{states:,} bytes of model states with LoRA, ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "plan needs one of --config, --model and --shape"),
        (("--model", "gpt3-175b", "--shape", "q:1x1"), "plan needs one of"),
        (("--model", "gpt4"), "--model must be one of gpt3-175b, got 'gpt4'"),
        (("--config", ""), "--config must be a path, got an empty one"),
        (("--config", "nowhere"), "nowhere: does not exist"),
        (("--shape", "q:0x3"), "--shape must be NAME:OUTxIN or NAME:OUTxINxCOUNT, got 'q:0x3'"),
        (("--shape", "q:3"), "--shape must be"),
        (("--shape", "q:1x2x3x4"), "--shape must be"),
        (("--shape", ":2x3"), "--shape must be"),
        (("--shape", "q:2x-3"), "--shape must be"),
        (("--shape", "q:2x3", "--method", "bitfit"), "--method must be one of lora, rslora"),
        (("--shape", "q:2x3", "--dtype", "int4"), "--dtype must be one of float64"),
        (("--shape", "q:2x3", "--adapter-dtype", "x"), "--adapter-dtype must be"),
        (("--shape", "q:2x3", "--optimizer", "lion"), "--optimizer must be one of sgd"),
        (("--shape", "q:2x3", "--rank", "0"), ": --rank must be an integer of at least 1, got 0"),
        (("--shape", "q:2x3", "--targets", "k"), ": --targets must name some of q, got 'k'"),
        (("--shape", "q:2x3", "--targets", ""), ": --targets must name some of q, got ''"),
        (("--shape", "q:2x3", "--tokens", "0"), ": --tokens must be an integer of at least 1"),
        (("--shape", "q:2x3", "--batch", "0"), ": --batch must be an integer of at least 1"),
        (("--shape", "q:2x3", "--json", ""), "--json must be a path, got an empty one"),
        (("--shape", "q:2x3", "--json", "no/a.json"), "its directory does not exist"),
        (("--shape", "q:2x3", "--memory-gb", "1"), "--memory-gb answers a question of --choose"),
        (("--shape", "q:2x3", "--dynamic"), "go with --choose"),
        (("--shape", "q:2x3", "--choose", "--memory-gb", "inf"), "--memory-gb must be from 0 to"),
        (("--shape", "q:2x3", "--choose", "--memory-gb", "1e300"), "1e+12, got 1e+300"),
        (("--shape", "q:2x3", "--choose", "--method", "dora"), "it goes without --method dora"),
        (("--shape", "q:2x3", "--choose", "--method", "lora"), "it goes without --method lora"),
        (
            ("--shape", "q:2x3", "--choose", "--memory-extreme", "--memory-gb", "3"),
            "--memory-extreme and --memory-gb answer one question: give one of them",
        ),
        (("--shape", "q:2x3", "--init-rank", "9"), "--init-rank goes with the method adalora"),
        (("--shape", "q:2x3", "--condition", "64"), "--condition goes with the method hyperlora"),
        (("--shape", "q:2x3", "--choose", "--init-rank", "9"), "method adalora, got lora"),
        (("--shape", "q:2x3", "--method", "adalora", "--init-rank", "0"), ": --init-rank must be"),
        (
            ("--shape", "q:2x3", "--method", "adalora", "--init-rank", "4"),
            ": --init-rank must be at least the rank 8, got 4",
        ),
        (
            ("--shape", "q:2x3", "--method", "hyperlora", "--condition", "0"),
            ": --condition must be an integer of at least 1, got 0",
        ),
        (("--shape", "q:2x3", "--shape", "q:4x3"), "every weight once, got 'q' twice"),
    ],
)
def test_unusable_input_is_one_line_and_status_2(capsys, arguments, said):
    assert status_of("plan", *arguments) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
