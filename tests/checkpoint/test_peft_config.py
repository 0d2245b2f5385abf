"""adapter_config.json: what it says of each module, and what is refused."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ref.adapters.lora import scaling, stabilised_scaling
from lora_ref.checkpoint import CheckpointError
from lora_ref.checkpoint.patterns import compiled, first_match
from lora_ref.checkpoint.peft_config import LoraConfig

RISKY = {
    "nested stars": ("(a+)+b", "a" * 60),
    "stars in a row": (".*.*.*.*.*.*.*.*x", "a" * 300),
    "nested choices": ("((a|a)*(a|a)*)*b", "a" * 200),
    "counted in counted": ("((a{1,99}){1,99}){1,99}b", "a" * 200),
}


def atoms():
    return st.sampled_from(["a", "b", ".", r"\.", "[ab]", "[^a.]", r"\d", r"\w", "1", "^a", "b$"])


def grown(inner):
    repeats = st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "{0,3}?"])
    return (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map("|".join)
        | st.tuples(st.sampled_from(["(", "(?:"]), inner, repeats).map(
            lambda t: f"{t[0]}{t[1]}){t[2]}"
        )
    )


@given(st.recursive(atoms(), grown, max_leaves=8), st.text("ab1.\n", max_size=9))
def test_a_pattern_matches_what_pefts_own_expression_matches(pattern, path):
    assert compiled(pattern)(path) == bool(re.match(rf"(.*\.)?({pattern})$", path))


def test_the_end_is_before_a_last_line_feed_as_in_python():
    assert compiled("a|b")("a\n")
    assert not compiled("a|b")("a\n\n")


@pytest.mark.parametrize("name", RISKY)
def test_an_expression_that_backtracks_for_years_is_decided_at_once(name):
    pattern, path = RISKY[name]
    assert not compiled(pattern)(path)


def test_an_expression_beyond_the_budget_is_refused():
    with pytest.raises(CheckpointError, match="must match in 1000 steps"):
        compiled("(" * 15 + "){300}" * 15)("a")


@pytest.mark.parametrize(
    "pattern",
    [
        *("*a", "(a", "a)", "[a", "a**", "a{3,1}", "^*", "\\", "[z-a]", "(?=a)b", r"(a)\1", "a*+"),
        *("(?P<x>a)", "(?i)a", r"a\b", "[[a]", "[a--b]", "(" * 40 + ")" * 40, "(x)" + "y" * 1000),
    ],
)
def test_an_expression_that_is_invalid_or_has_another_construct_is_refused(pattern):
    with pytest.raises(CheckpointError, match="pattern"):
        LoraConfig.from_fields({"rank_pattern": {pattern: 3}})


def test_the_first_pattern_wins_and_only_whole_names_match():
    assert first_match(("proj", "q_proj", "layers.0.q_proj"), "layers.0.q_proj") == "q_proj"
    assert first_match(("layers.0",), "layers.0.q_proj") is None
    assert first_match((r"layers\.[01]\..*", ".*"), "model.layers.1.q") == r"layers\.[01]\..*"


def test_rank_alpha_and_scale_of_a_module_come_from_the_patterns():
    config = LoraConfig.from_fields(
        {
            "r": 3,
            "lora_alpha": 5,
            "rank_pattern": {"k": 4, "layers.0.k": 9},
            "alpha_pattern": {"[kv]": 7.5},
        }
    )
    assert (config.rank("layers.0.k"), config.alpha("layers.0.k")) == (4, 7.5)
    assert (config.rank("layers.0.q"), config.alpha("layers.0.q")) == (3, 5)
    assert config.scale("layers.0.k") == scaling(7.5, 4)
    assert config.scale("layers.0.v") == scaling(7.5, 3)


def test_a_pattern_that_is_the_path_itself_is_found_though_it_is_no_expression_for_it():
    config = LoraConfig.from_fields({"rank_pattern": {"c+": 4}, "r": 3})
    assert config.rank("c+") == 4
    assert config.rank("cc") == 4


def test_rslora_scales_by_the_root_of_the_modules_rank():
    config = LoraConfig.from_fields({"r": 3, "use_rslora": True, "rank_pattern": {"k": 5}})
    assert config.scale("k") == stabilised_scaling(8, 5)


def test_what_is_absent_has_pefts_default():
    config = LoraConfig.from_fields({})
    assert (config.r, config.lora_alpha, config.bias, config.init_lora_weights) == (
        8,
        8,
        "none",
        True,
    )
    assert (config.modules_to_save, config.rank_pattern, config.use_rslora) == ((), {}, False)


def test_the_text_is_kept_to_the_byte(tmp_path):
    text = b'{ "r":3,\n\n "peft_type" : "LORA", "unsloth_fixed": true }\n'
    (tmp_path / "adapter_config.json").write_bytes(text)
    config = LoraConfig.read(tmp_path / "adapter_config.json")
    assert config.text == text
    assert config.raw["unsloth_fixed"] is True


@pytest.mark.parametrize("name", ["pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga"])
def test_an_initialisation_that_changes_the_base_is_told(name):
    assert LoraConfig.from_fields({"init_lora_weights": name}).base_is_changed


@pytest.mark.parametrize("name", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_an_initialisation_that_leaves_the_base_alone_is_told(name):
    assert not LoraConfig.from_fields({"init_lora_weights": name}).base_is_changed


def test_no_initialisation_is_what_null_means_to_peft():
    assert LoraConfig.from_fields({"init_lora_weights": None}).init_lora_weights is False


REFUSED = {
    "another method": ({"peft_type": "ADALORA"}, "peft_type must be 'LORA', got 'ADALORA'"),
    "no method": ({"peft_type": None}, "peft_type must be 'LORA'"),
    "rank 0": ({"r": 0}, "r must be a rank, an integer of at least 1, got 0"),
    "rank -2": ({"r": -2}, "r must be a rank"),
    "rank true": ({"r": True}, "r must be a rank"),
    "rank 3.5": ({"r": 3.5}, "r must be a rank"),
    "rank of text": ({"r": "8"}, "r must be a rank"),
    "rank null": ({"r": None}, "r must be a rank"),
    "rank 0 in a pattern": ({"rank_pattern": {"q": 0}}, "rank_pattern must be an object of ranks"),
    "rank mask of AdaLoRA": ({"rank_pattern": {"q": [True]}}, "rank_pattern must be an object"),
    "patterns in a list": ({"rank_pattern": [1]}, "rank_pattern must be an object"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "lora_alpha must be a finite number, got nan"),
    "alpha infinite": ({"lora_alpha": float("inf")}, "lora_alpha must be a finite number"),
    "alpha beyond float64": ({"lora_alpha": 10**400}, "lora_alpha must be a finite number"),
    "alpha of text": ({"lora_alpha": "16"}, "lora_alpha must be a finite number"),
    "alpha null in a pattern": ({"alpha_pattern": {"q": None}}, "alpha_pattern must be an object"),
    "rslora of text": ({"use_rslora": "yes"}, "use_rslora must be true or false"),
    "bias of another method": ({"bias": "vera_only"}, "bias must be none, all or lora_only"),
    "bias a list": ({"bias": []}, "bias must be none"),
    "unknown initialisation": (
        {"init_lora_weights": "zero"},
        "init_lora_weights must be .* 'zero'",
    ),
    "modules in an object": ({"modules_to_save": {"a": 1}}, "modules_to_save must be a list"),
    "parameters as text": ({"target_parameters": "a.b"}, "target_parameters must be a list"),
    "negative token": ({"trainable_token_indices": [-1]}, "trainable_token_indices must be"),
    "token of text": ({"trainable_token_indices": {"e": ["a"]}}, "trainable_token_indices must be"),
    "replication of three": ({"layer_replication": [[0, 1, 2]]}, "layer_replication must be"),
    "DoRA": ({"use_dora": True}, "use_dora asks for DoRA's magnitude, which is not LoRA's W"),
    "QALoRA": ({"use_qalora": True}, "use_qalora asks for"),
    "aLoRA": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens asks for"),
    "BD-LoRA": ({"use_bdlora": {"nblocks": 2}}, "use_bdlora asks for"),
    "Arrow": ({"arrow_config": {}}, "arrow_config asks for"),
    "KaSA": ({"kasa_config": {"beta": 1}}, "kasa_config asks for"),
    "MonteCLoRA": ({"monteclora_config": {}}, "monteclora_config asks for"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_value_is_refused_in_one_line_that_names_the_file_and_the_field(tmp_path, name):
    fields, message = REFUSED[name]
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", **fields}))
    with pytest.raises(CheckpointError, match=message) as caught:
        LoraConfig.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff\xfe", "must be UTF-8"),
        (b'{"r": 1, "r": 2}', "got 'r' more than once"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path, text, message):
    path = tmp_path / "adapter_config.json"
    path.write_bytes(text)
    with pytest.raises(CheckpointError, match=message):
        LoraConfig.read(path)


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        LoraConfig.read(tmp_path / "adapter_config.json")
    with pytest.raises(CheckpointError, match="must be a regular file"):
        LoraConfig.read(tmp_path)


def test_a_configuration_that_cannot_be_written_is_refused():
    with pytest.raises(CheckpointError, match="must be JSON"):
        LoraConfig.from_fields({"target_modules": {1, 2}})
