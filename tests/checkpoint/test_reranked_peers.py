"""PEFT 0.21.2 loads what was cut to a lower rank, and what was extracted from two models."""

import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_ref.checkpoint.extracted import extracted
from lora_ref.checkpoint.peft import PeftAdapter, write_adapter
from lora_ref.checkpoint.reranked import reranked
from lora_ref.testing.tolerance import TOLERANCE, relative_error

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="PyTorch is in the [peers] extra")
    peft = pytest.importorskip("peft", reason="PEFT is in the [peers] extra")
    pytest.importorskip("transformers", reason="transformers is in the [peers] extra")
    from peft_toys import LAYOUTS

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]


def the_base(name):
    torch.manual_seed(7)
    return LAYOUTS[name][0]().double().eval()


def trained(name, directory):
    """An adapter on a toy model, every trained number random, saved by PEFT."""
    fields = {k: v.copy() if hasattr(v, "copy") else v for k, v in LAYOUTS[name][2].items()}
    config = peft.LoraConfig(**{"r": 3, "lora_alpha": 5, **fields})
    model = peft.get_peft_model(the_base(name), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter) / 3
    model.save_pretrained(directory)
    return model


def layers_with_deltas(model):
    found = {}
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "get_delta_weight") and hasattr(layer, "lora_A"):
            found[name] = layer.get_delta_weight("default").detach().numpy()
    return found


def nearest(delta, rank):
    """The truncation of a matrix, of a kernel as a matrix, or of each expert's."""
    as_matrices = delta if delta.ndim == 3 else delta.reshape(1, len(delta), -1)
    U, S, Vt = np.linalg.svd(as_matrices, full_matrices=False)
    cut = (U[..., :rank] * S[:, None, :rank]) @ Vt[:, :rank]
    return cut.reshape(delta.shape)


@pytest.mark.parametrize("name", [n for n in LAYOUTS if n != "grouped convolution"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pefts_layers_have_the_nearest_updates_of_the_rank(name, rank, tmp_path):
    model = trained(name, tmp_path / "theirs")
    write_adapter(tmp_path / "ours", reranked(PeftAdapter.open(tmp_path / "theirs"), rank).adapter)
    loaded = peft.PeftModel.from_pretrained(the_base(name), tmp_path / "ours").eval()
    theirs, ours = layers_with_deltas(model), layers_with_deltas(loaded)
    assert ours.keys() == theirs.keys()
    for layer, delta in theirs.items():
        # Experts stored inputs first and embeddings have the transpose's update, of one truncation.
        assert relative_error(ours[layer], nearest(delta, rank)) <= TOLERANCE["routes"]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_at_its_own_rank_peft_computes_the_very_same(name, tmp_path):
    model = trained(name, tmp_path / "theirs")
    write_adapter(tmp_path / "ours", reranked(PeftAdapter.open(tmp_path / "theirs"), 9).adapter)
    loaded = peft.PeftModel.from_pretrained(the_base(name), tmp_path / "ours").eval()
    x = LAYOUTS[name][1]()
    with torch.no_grad():
        a, b = (getattr(y, "logits", y) for y in (model(x), loaded(x)))
    assert torch.equal(a, b)


def test_the_bias_of_lora_bias_has_the_same_effect_in_peft(tmp_path):
    fields = {"r": 3, "lora_alpha": 5, "target_modules": ["q"], "lora_bias": True}
    model = peft.get_peft_model(the_base("linear"), peft.LoraConfig(**fields)).eval()
    layer = model.base_model.model.q
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "theirs")
    write_adapter(tmp_path / "ours", reranked(PeftAdapter.open(tmp_path / "theirs"), 1).adapter)
    loaded = peft.PeftModel.from_pretrained(the_base("linear"), tmp_path / "ours").eval()
    zero = torch.zeros(1, 7, dtype=torch.float64)
    with torch.no_grad():
        before, after = layer(zero), loaded.base_model.model.q(zero)
    assert relative_error(after.numpy(), before.numpy()) <= TOLERANCE["routes"]


def saved_models(folder, **models):
    """The directory of each model by its name."""
    for name, model in models.items():
        (folder / name).mkdir()
        state = {key: t.numpy() for key, t in model.state_dict().items()}
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})
    return {name: folder / name for name in models}


def test_an_extracted_adapter_makes_the_tuned_model_of_the_base_in_peft(tmp_path):
    base, tuned = the_base("linear"), the_base("linear")
    with torch.no_grad():
        for layer in (tuned.q, tuned.v):
            m, n = layer.weight.shape
            layer.weight += torch.randn(m, 3).double() @ torch.randn(3, n).double()
        tuned.classifier.weight *= 2
    paths = saved_models(tmp_path, base=base, tuned=tuned)
    done = extracted(
        paths["base"], paths["tuned"], 3, ["q", "v"], alpha=5, modules_to_save=["classifier"]
    )
    assert done.left == {}
    write_adapter(tmp_path / "adapter", done.adapter)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    x = LAYOUTS["linear"][1]()
    with torch.no_grad():
        assert relative_error(loaded(x).numpy(), tuned(x).numpy()) <= TOLERANCE["routes"]


class Embedded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(13, 7)
        self.q = torch.nn.Linear(7, 11)

    def forward(self, ids):
        return self.q(self.embed_tokens(ids))


def test_an_extracted_embedding_is_loaded_without_a_warning_and_makes_the_tuned_model(tmp_path):
    torch.manual_seed(3)
    base, tuned = Embedded().double(), Embedded().double()
    tuned.q.bias = base.q.bias
    paths = saved_models(tmp_path, base=base, tuned=tuned)
    done = extracted(paths["base"], paths["tuned"], 7, ["q", "embed_tokens"], alpha=5)
    assert done.left == {}
    write_adapter(tmp_path / "adapter", done.adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing.*")
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.arange(13)
    with torch.no_grad():
        assert relative_error(loaded(ids).numpy(), tuned(ids).numpy()) <= TOLERANCE["routes"]
