"""PEFT 0.21.2 loads what was combined and extracted, and its add_weighted_adapter says the same."""

import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_ref.checkpoint.combination import METHODS, rules
from lora_ref.checkpoint.combined import combined
from lora_ref.checkpoint.extracted import extracted
from lora_ref.checkpoint.peft import write_adapter
from lora_ref.compose.ties import by_count, by_total
from lora_ref.testing.tolerance import TOLERANCE, relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    from peft_toys import LAYOUTS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

DENSITY, SEED = 0.6, 9
# Weights times scales are squares of binary fractions, and so survive PEFT's rounding to float32.
ALPHAS, EXACT, OTHER = (3, 12), (0.25, -2.25), (0.7, -0.4)
ELECTIONS = {"total": by_total, "frequency": by_count}


def base_of(name, dtype="float64"):
    torch.manual_seed(7)
    return LAYOUTS[name][0]().to(getattr(torch, dtype)).eval()


def trained(name, directory, seed, dtype="float64", **fields):
    """An adapter on a toy model, every trained number random, saved by PEFT."""
    toy = {k: v.copy() if hasattr(v, "copy") else v for k, v in LAYOUTS[name][2].items()}
    config = peft.LoraConfig(**{"r": 3, **toy, **fields})
    model = peft.get_peft_model(base_of(name, dtype), config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 3
    model.save_pretrained(directory)
    return directory


def pair(name, folder, dtype="float64", **fields):
    return [
        trained(name, folder / f"{i}", i, dtype, lora_alpha=alpha, **fields)
        for i, alpha in enumerate(ALPHAS)
    ]


def deltas(model, adapter):
    return {
        name: layer.get_delta_weight(adapter).detach().numpy()
        for name, layer in model.base_model.model.named_modules()
        if hasattr(layer, "get_delta_weight") and adapter in getattr(layer, "scaling", {})
    }


def theirs(name, directories, weights, method, monkeypatch, dtype="float64", **settings):
    """The updates of PEFT's combination; DARE's masks come from our generator."""
    model = peft.PeftModel.from_pretrained(base_of(name, dtype), directories[0], "a")
    model.load_adapter(directories[1], "b")
    rng = np.random.default_rng(SEED)

    # PEFT draws for the update as the base stores it, ours for the product of B and A.
    is_turned = name in ("Conv1D", "embedding") and method.endswith("svd")

    def bernoulli(chances):
        shape = tuple(chances.T.shape if is_turned else chances.shape)
        mask = torch.tensor(rng.random(shape) < DENSITY)
        return (mask.T if is_turned else mask).to(chances)

    if method.startswith(("ties", "dare", "magnitude")):
        settings["density"] = DENSITY
    with monkeypatch.context() as patch:
        patch.setattr(torch, "bernoulli", bernoulli)
        model.base_model.add_weighted_adapter(
            ["a", "b"], list(weights), "new", combination_type=method, **settings
        )
    return deltas(model, "new")


def ours(name, directories, weights, method, out, dtype="float64", elect=by_total, rank=None):
    """The updates that PEFT has of what we wrote."""
    rule = rules(DENSITY, elect, np.random.default_rng(SEED))[method]
    write_adapter(out, combined(directories, weights, rule, rank).adapter)
    loaded = peft.PeftModel.from_pretrained(base_of(name, dtype), out)
    return deltas(loaded, "default")


def assert_alike(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    assert len(found) > 0
    for layer, delta in wanted.items():
        assert relative_error(found[layer], delta) <= tolerance, layer


@pytest.mark.parametrize("name", ["linear", "Conv1D", "embedding", "convolution"])
@pytest.mark.parametrize("method", METHODS)
def test_in_float64_the_update_is_pefts_to_its_rounding(name, method, tmp_path, monkeypatch):
    given = pair(name, tmp_path)
    wanted = theirs(name, given, EXACT, method, monkeypatch)
    assert_alike(ours(name, given, EXACT, method, tmp_path / "out"), wanted, TOLERANCE["routes"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", METHODS)
def test_of_any_weights_the_update_is_pefts_to_float32(dtype, method, tmp_path, monkeypatch):
    given = pair("linear", tmp_path, dtype)
    wanted = theirs("linear", given, OTHER, method, monkeypatch, dtype)
    found = ours("linear", given, OTHER, method, tmp_path / "out", dtype)
    assert_alike(found, wanted, 1e-6)


@pytest.mark.parametrize("elect", ELECTIONS)
@pytest.mark.parametrize("method", ["ties_svd", "dare_ties_svd", "ties", "dare_ties"])
def test_the_election_is_pefts_majority_sign_method(method, elect, tmp_path, monkeypatch):
    given = pair("linear", tmp_path)
    wanted = theirs("linear", given, EXACT, method, monkeypatch, majority_sign_method=elect)
    found = ours("linear", given, EXACT, method, tmp_path / "out", elect=ELECTIONS[elect])
    assert_alike(found, wanted, TOLERANCE["routes"])


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("method", ["svd", "ties_svd", "magnitude_prune_svd"])
def test_the_rank_is_pefts_svd_rank(method, rank, tmp_path, monkeypatch):
    given = pair("linear", tmp_path)
    wanted = theirs("linear", given, EXACT, method, monkeypatch, svd_rank=rank)
    found = ours("linear", given, EXACT, method, tmp_path / "out", rank=rank)
    assert_alike(found, wanted, TOLERANCE["routes"])


@pytest.mark.parametrize("method", ["cat", "svd", "ties_svd", "magnitude_prune_svd"])
def test_unequal_ranks_patterns_and_modules_of_one_alone_are_combined_as_peft_does(
    method, tmp_path, monkeypatch
):
    given = [
        trained("linear", tmp_path / "a", 0, target_modules=["q"], r=2, lora_alpha=5),
        trained(
            *("linear", tmp_path / "b", 1),
            target_modules=["q", "v"],
            rank_pattern={"v": 4},
            alpha_pattern={"q": 7},
        ),
    ]
    wanted = theirs("linear", given, EXACT, method, monkeypatch)
    found = ours("linear", given, EXACT, method, tmp_path / "out")
    assert found.keys() == {"q", "v"}
    assert_alike(found, wanted, TOLERANCE["routes"])


@pytest.mark.parametrize("method", METHODS)
def test_of_rslora_the_update_is_pefts_without_its_factor_of_the_root_of_the_rank(
    method, tmp_path, monkeypatch
):
    given = pair("linear", tmp_path, use_rslora=True)
    wanted = theirs("linear", given, OTHER, method, monkeypatch)
    rank = 6 if method == "cat" else 3
    wanted = {layer: delta / rank**0.5 for layer, delta in wanted.items()}
    assert_alike(ours("linear", given, OTHER, method, tmp_path / "out"), wanted, 1e-6)


ALONE = ["tied embeddings, ensured", "replicated layers"]
SUMMED = [
    *("linear", "Conv1D", "convolution", "embedding", "rslora and patterns"),
    *("MultiheadAttention", "untied embeddings"),
]


@pytest.mark.parametrize("name", SUMMED)
def test_the_outputs_of_the_loaded_sum_are_the_sum_of_the_outputs(name, tmp_path):
    given = pair(name, tmp_path)
    rule = rules(1.0, by_total, np.random.default_rng(0))["cat"]
    write_adapter(tmp_path / "out", combined(given, (1.0, 1.0), rule).adapter)
    loaded = peft.PeftModel.from_pretrained(base_of(name), tmp_path / "out").eval()
    both = peft.PeftModel.from_pretrained(base_of(name), given[0], "a").eval()
    both.load_adapter(given[1], "b")
    both.base_model.set_adapter(["a", "b"])
    x = LAYOUTS[name][1]()
    with torch.no_grad():
        found, wanted = (getattr(y, "logits", y).numpy() for y in (loaded(x), both(x)))
    assert relative_error(found, wanted) <= TOLERANCE["routes"]


@pytest.mark.parametrize("name", [*SUMMED, *ALONE])
def test_of_weights_one_and_zero_the_outputs_are_those_of_the_first(name, tmp_path):
    """Of ALONE PEFT itself cannot load two: it ties, or replicates, once for each."""
    given = pair(name, tmp_path)
    rule = rules(1.0, by_total, np.random.default_rng(0))["cat"]
    write_adapter(tmp_path / "out", combined(given, (1.0, 0.0), rule).adapter)
    x = LAYOUTS[name][1]()
    with torch.no_grad():
        found, wanted = (
            peft.PeftModel.from_pretrained(base_of(name), path).eval()(x)
            for path in (tmp_path / "out", given[0])
        )
    found, wanted = (getattr(y, "logits", y).numpy() for y in (found, wanted))
    assert relative_error(found, wanted) <= TOLERANCE["routes"]


@pytest.mark.parametrize("energy", [None, 0.9])
def test_peft_makes_the_tuned_weights_of_the_base_and_what_was_extracted(energy, tmp_path):
    base, tuned = base_of("linear"), base_of("linear")
    torch.manual_seed(3)
    with torch.no_grad():
        for layer in (tuned.q, tuned.v):
            layer.weight += torch.randn_like(layer.weight) * 0.5 ** torch.arange(layer.in_features)
    paths = []
    for i, model in enumerate((base, tuned)):
        paths.append(tmp_path / f"{i}")
        paths[i].mkdir()
        state = {key: t.numpy() for key, t in model.state_dict().items()}
        save_file(state, paths[i] / "model.safetensors", {"format": "pt"})
    done = extracted(*paths, None if energy else 99, ["q", "v"], energy=energy, alpha=5)
    write_adapter(tmp_path / "adapter", done.adapter)
    loaded = peft.PeftModel.from_pretrained(base_of("linear"), tmp_path / "adapter")
    for name, delta in deltas(loaded, "default").items():
        whole = (getattr(tuned, name).weight - getattr(base, name).weight).detach().numpy()
        apart = relative_error(delta, whole)
        assert apart == pytest.approx(done.errors[name], rel=1e-6, abs=TOLERANCE["routes"])
        assert apart**2 <= (0.1 if energy else TOLERANCE["routes"])
