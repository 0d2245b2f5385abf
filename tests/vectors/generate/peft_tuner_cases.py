"""PEFT's methods other than LoRA on two small layers in a row: the cases, and how one is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import peft
import torch
from transformers.pytorch_utils import Conv1D


class Pair(torch.nn.Module):
    """v(q(x)), q with a bias and v without; q may be stored inputs first."""

    def __init__(self, sizes: tuple[int, int, int], is_turned: bool) -> None:
        super().__init__()
        n, k, m = sizes
        self.q = Conv1D(k, n) if is_turned else torch.nn.Linear(n, k)
        self.v = torch.nn.Linear(k, m, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.v(self.q(x))


@dataclass(frozen=True)
class Case:
    """A configuration, the sizes of the two layers, and why it is here."""

    kind: str
    config: Mapping[str, Any]
    reason: str
    sizes: tuple[int, int, int] = (12, 10, 6)
    is_turned: bool = False
    spread: float = 1.0

    def base(self) -> Pair:
        """The base model, the same each time."""
        torch.manual_seed(7)
        net = Pair(self.sizes, self.is_turned).double().eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.copy_(torch.randn_like(parameter))
        return net

    def peft_config(self) -> Any:
        """The settings, with both layers targeted; PEFT changes the lists that it is given."""
        given = {k: v.copy() if hasattr(v, "copy") else v for k, v in self.config.items()}
        return getattr(peft, self.kind)(**{"target_modules": ["q", "v"], **given})

    def model(self) -> Any:
        """The adapted model, every trained number random."""
        model = peft.get_peft_model(self.base(), self.peft_config()).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.spread * torch.randn_like(parameter))
        return model


def run(case: Case, model: Any) -> dict[str, torch.Tensor]:
    """Base, adapter, input, output, every gradient and the merged weights, by name."""
    arrays = {f"base/{name}": t.clone() for name, t in case.base().state_dict().items()}
    saved = peft.get_peft_model_state_dict(model)
    arrays |= {f"adapter/{name}": t.detach().clone() for name, t in saved.items()}
    draw = torch.Generator().manual_seed(11)
    x = torch.randn((2, 3, case.sizes[0]), generator=draw, dtype=torch.float64).requires_grad_()
    y = model(x)
    dy = torch.randn(y.shape, generator=draw, dtype=torch.float64)
    y.backward(dy)
    arrays |= {"x": x.detach(), "y": y.detach(), "dy": dy, "dx": x.grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            arrays[f"d_adapter/{name.replace('.default', '')}"] = parameter.grad
    merged = model.merge_and_unload()
    arrays |= {f"merged/{name}": t.detach().clone() for name, t in merged.state_dict().items()}
    return arrays


CASES = {
    "loha": Case("LoHaConfig", {"r": 3, "alpha": 5}, "the definition, s = alpha/r"),
    "loha_square": Case("LoHaConfig", {"r": 4, "alpha": 10}, "all sizes but r equal", (6, 6, 6)),
    "loha_patterns": Case(
        "LoHaConfig",
        {"r": 3, "alpha": 5, "rank_pattern": {"v": 2}, "alpha_pattern": {"q": 7}},
        "rank and alpha of one module",
    ),
    "ia3": Case("IA3Config", {"feedforward_modules": []}, "l of the outputs; q has a bias"),
    "ia3_feedforward": Case(
        "IA3Config", {"feedforward_modules": ["q", "v"]}, "l of the inputs; the bias stays"
    ),
    "ia3_both_square": Case(
        "IA3Config", {"feedforward_modules": ["v"]}, "one of each, square", (6, 6, 6)
    ),
    "ia3_turned": Case(
        "IA3Config",
        {"feedforward_modules": ["v"], "fan_in_fan_out": True},
        "a weight stored inputs first",
        is_turned=True,
    ),
    "lokr": Case("LoKrConfig", {"r": 1, "alpha": 5}, "w1 whole, w2 a product"),
    "lokr_whole": Case("LoKrConfig", {"r": 3, "alpha": 5}, "both whole, and still alpha/r"),
    "lokr_both": Case(
        "LoKrConfig",
        {"r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4},
        "both products; a factor that divides one size and is near another",
    ),
    "lokr_square": Case("LoKrConfig", {"r": 2, "alpha": 5}, "square blocks", (16, 16, 16)),
    "vera": Case(
        "VeraConfig", {"r": 3}, "bases as large as the largest layer, each takes its part"
    ),
    "vera_square": Case("VeraConfig", {"r": 4}, "every layer takes all", (6, 6, 6)),
    "vera_turned": Case(
        "VeraConfig",
        {"r": 3, "fan_in_fan_out": True, "target_modules": ["q"]},
        "a weight stored inputs first",
        is_turned=True,
    ),
    "miss": Case("MissConfig", {"r": 5}, "5 does not divide 12: the last group is short"),
    "miss_square": Case("MissConfig", {"r": 3}, "square, and it divides", (6, 6, 6)),
    "miss_mini": Case(
        "MissConfig",
        {"r": 5, "mini_r": 2, "init_weights": "mini"},
        "the block repeated over the outputs",
    ),
    "miss_bat": Case(
        "MissConfig",
        {"r": 2, "init_weights": "bat"},
        "the block multiplied by the weight: five blocks, then three",
    ),
    "miss_bat_square": Case(
        "MissConfig", {"r": 6, "init_weights": "bat"}, "one block, no transpose fails", (6, 6, 6)
    ),
    "oft": Case(
        "OFTConfig",
        {"r": 0, "oft_block_size": 4},
        "the series of 5 terms, 3 and 2 blocks",
        (12, 8, 6),
        spread=0.4,
    ),
    "oft_exact": Case(
        "OFTConfig",
        {"r": 0, "oft_block_size": 4, "use_cayley_neumann": False},
        "(I - Q)(I + Q)^-1, at numbers where no series converges",
        (12, 8, 6),
    ),
    "oft_shared": Case(
        "OFTConfig",
        {"r": 2, "oft_block_size": 0, "block_share": True, "target_modules": ["q"]},
        "one rotation for two blocks",
        spread=0.4,
    ),
    "oft_terms": Case(
        "OFTConfig",
        {"r": 1, "oft_block_size": 0, "num_cayley_neumann_terms": 7},
        "7 terms; one block as wide as the layer, square",
        (6, 6, 6),
        spread=0.4,
    ),
    "oft_three_terms": Case(
        "OFTConfig",
        {"r": 3, "oft_block_size": 0, "num_cayley_neumann_terms": 3, "target_modules": ["q"]},
        "3 terms give what 4 give",
        spread=0.4,
    ),
}
