"""Five published hypernetworks for LoRA: values and gradients that torch recorded."""

import json
from pathlib import Path

import numpy as np
import pytest

from lora_ref.adapters import HyperLoRA, HyperLoRAPerExample
from lora_ref.adapters.generators import (
    Affine,
    Basis,
    BasisGenerator,
    ClippedGenerator,
    DescriptionGenerator,
    DialectGenerator,
    Heads,
    LinearGenerator,
    Network,
    Norm,
    ReferenceTokens,
    TextEmbedding,
    TextGenerator,
    UserEmbedding,
)
from lora_ref.adapters.generators.basis import SCALE
from lora_ref.adapters.lora import scaling
from lora_ref.checkpoint import SafetensorsFile
from lora_ref.testing.tolerance import assert_close

VECTORS = Path(__file__).parent.parent / "vectors"
DESCRIBED = json.loads((VECTORS / "hyperlora.json").read_text())
CASES = DESCRIBED["cases"]


class Recorded:
    """The arrays of a case, and what has been compared."""

    def __init__(self, name):
        self.name, self.config = name, CASES[name]["config"]
        self.file = SafetensorsFile.open(VECTORS / "hyperlora.safetensors")
        self.compared = set()

    def __getitem__(self, key):
        return self.file.tensor(f"{self.name}/{key}")

    def theta(self, name):
        return self[f"theta/{name}"]

    def affine(self, name, *, bias=True):
        return Affine(self.theta(f"{name}.weight"), self.theta(f"{name}.bias") if bias else None)

    def network(self, first, second, *, bias=True):
        return Network(self.affine(first, bias=bias), self.affine(second, bias=bias))

    def norm(self, name):
        return Norm(self.theta(f"{name}.weight"), self.theta(f"{name}.bias"))

    def expect(self, key, actual):
        assert_close(actual, self[key], "golden", f"{self.name}, {key}")
        self.compared.add(key)

    def expect_affine(self, name, d):
        self.expect(f"d_theta/{name}.weight", d.V)
        if d.v is not None:
            self.expect(f"d_theta/{name}.bias", d.v)

    def expect_network(self, first, second, d):
        self.expect_affine(first, d.first)
        self.expect_affine(second, d.second)

    def expect_norm(self, name, d):
        self.expect(f"d_theta/{name}.weight", d.g)
        self.expect(f"d_theta/{name}.bias", d.b)

    def run(self, adapter):
        """y and dx are the recorded ones; dθ."""
        y, backward = adapter.apply(self["x"], self["W"])
        dx, d = backward(self["dy"])
        self.expect("y", y)
        self.expect("d_x", dx)
        return d

    def finish(self):
        """Nothing that was recorded has been left out."""
        wanted = {k for k in CASES[self.name]["arrays"] if k.startswith("d_") or k == "y"}
        assert self.compared == wanted


def test_dialect():
    case = Recorded("dialect")
    down, up = case.network("pre_down", "down"), case.network("pre_up", "up")
    generator = DialectGenerator(down, up, case.config["r"])
    adapter = HyperLoRA(generator, UserEmbedding(case["c"]), case.config["index"], 1.0)
    d = case.run(adapter)
    case.expect_network("pre_down", "down", d.generator.down)
    case.expect_network("pre_up", "up", d.generator.up)
    case.expect("d_c", d.condition.c)
    case.finish()


def test_portrait():
    case = Recorded("portrait")
    basis = Basis(case.theta("down_basis"), case.theta("up_basis"))
    others = [Basis(0.5 * basis.D, 2.0 * basis.U) for _ in range(2)]
    generator = BasisGenerator((others[0], basis, others[1]))
    adapter = HyperLoRA(generator, ReferenceTokens(case["c"]), case.config["layer"], SCALE)
    d = case.run(adapter)
    case.expect("d_theta/down_basis", d.generator.layers[1].D)
    case.expect("d_theta/up_basis", d.generator.layers[1].U)
    case.expect("d_c", d.condition.tokens)
    case.finish()
    assert not np.any(d.generator.layers[0].D)
    assert not np.any(d.generator.layers[2].U)


def test_description():
    case = Recorded("description")
    networks = (case.network(f"{f}_wi", f"{f}_wo", bias=False) for f in "ab")
    scale = scaling(case.config["alpha"], case.config["r"])
    condition = UserEmbedding(case["c"])
    adapter = HyperLoRAPerExample(
        DescriptionGenerator(*networks), condition, case.config["layer"], scale
    )
    d = case.run(adapter)
    case.expect_network("a_wi", "a_wo", d.generator.down)
    case.expect_network("b_wi", "b_wo", d.generator.up)
    case.expect("d_c", d.condition.c)
    case.finish()


def test_agents():
    """No table of layers: a Dense for each layer's factors, so an embedding of width zero."""
    case, r = Recorded("agents"), CASES["agents"]["config"]["r"]
    n, m, k = (case.config[t] for t in "nmk")
    P, Q = case.theta("A.weight").reshape(r, n, k), case.theta("B.weight").reshape(m, r, k)
    heads = Heads(P, case.theta("A.bias").reshape(r, n), Q, case.theta("B.bias").reshape(m, r))
    inner = LinearGenerator(np.ones((1, 0)), heads)
    generator = ClippedGenerator(inner, case.config["scale"], case.config["bound"])
    A, B = generator.generate(case["c"], 0)[0]
    assert 0.1 < np.mean(np.abs(A) == 1) < 0.7
    assert 0.1 < np.mean(np.abs(B) == 1) < 0.7
    d = case.run(HyperLoRAPerExample(generator, UserEmbedding(case["c"]), 0, 1.0))
    dheads = d.generator.inner.heads
    case.expect("d_theta/A.weight", dheads.P.reshape(r * n, k))
    case.expect("d_theta/A.bias", dheads.p.reshape(r * n))
    case.expect("d_theta/B.weight", dheads.Q.reshape(m * r, k))
    case.expect("d_theta/B.bias", dheads.q.reshape(m * r))
    case.expect("d_c", d.condition.c)
    case.finish()


def text_parts(case):
    """The generator and the condition of the recorded text case."""
    sizes = case.config["sizes"]
    r, n, m, width = (sizes[t] for t in ("r", "n", "m", "head"))
    P, Q = np.split(case.theta("head.weight"), [r * n])
    p, q = np.split(case.theta("head.bias"), [r * n])
    Q, q = Q.reshape(r, m, width).transpose(1, 0, 2), q.reshape(r, m).T
    heads = Heads(P.reshape(r, n, width), p.reshape(r, n), Q, q)
    other = Heads(*(2.0 * t for t in (heads.P, heads.p, heads.Q, heads.q)))
    trunk = [(case.affine("mixer.0"), None, case.affine("mixer.2"), None)]
    for i in "123":
        maps = case.affine(f"mlp{i}.1"), None, case.affine(f"mlp{i}.3"), None
        trunk.append((case.norm(f"mlp{i}.0"), *maps))
    tables = case.theta("depth.0.weight"), case.theta("kind.0.weight")
    norms = case.norm("depth.1"), case.norm("kind.1")
    generator = TextGenerator(*tables, *norms, tuple(trunk), (other, heads))
    return generator, TextEmbedding(case["c"], case.affine("task.0"), case.norm("task.1"))


def test_text():
    case = Recorded("text")
    generator, condition = text_parts(case)
    r = case.config["sizes"]["r"]
    scale = scaling(case.config["alpha"], r)
    d = case.run(HyperLoRAPerExample(generator, condition, tuple(case.config["layer"]), scale))
    dheads, width = d.generator.heads[1], case.config["sizes"]["head"]
    assert not np.any(d.generator.heads[0].P)
    rank_first = dheads.Q.transpose(1, 0, 2).reshape(-1, width)
    case.expect("d_theta/head.weight", np.concatenate([dheads.P.reshape(-1, width), rank_first]))
    case.expect("d_theta/head.bias", np.concatenate([dheads.p.ravel(), dheads.q.T.ravel()]))
    mixer, *blocks = d.generator.trunk
    case.expect_affine("mixer.0", mixer[0])
    case.expect_affine("mixer.2", mixer[2])
    for i, block in zip("123", blocks, strict=True):
        case.expect_norm(f"mlp{i}.0", block[0])
        case.expect_affine(f"mlp{i}.1", block[1])
        case.expect_affine(f"mlp{i}.3", block[3])
    case.expect("d_theta/depth.0.weight", d.generator.E)
    case.expect("d_theta/kind.0.weight", d.generator.F)
    case.expect_norm("depth.1", d.generator.depth_norm)
    case.expect_norm("kind.1", d.generator.kind_norm)
    case.expect_affine("task.0", d.condition.project)
    case.expect_norm("task.1", d.condition.norm)
    case.expect("d_c", d.condition.t)
    case.finish()


@pytest.mark.parametrize("name", CASES)
def test_a_case_names_repository_commit_and_files(name):
    follows = CASES[name]["follows"]
    assert follows["repository"].count("/") == 1
    assert len(follows["commit"]) == 40
    assert ".py" in follows["files"]
