"""The penalty that makes AdaLoRA's P and Q orthogonal, the paper's and PEFT's, with gradients.

The loss of training is the task's plus γ times the penalty. Gradients and values are of all
adapters of a model at once, by the names of their layers.

Math:
    with G_P = PᵀP − I and G_Q = Q Qᵀ − I
    penalty       R = Σ over layers of ‖G_P‖² + ‖G_Q‖²        dP = 4 P G_P dR    dQ = 4 G_Q Q dR
    peft_penalty  R = mean over all P and Q of ‖G‖            dP = 2 P G_P / ‖G_P‖ dR/N, dQ alike
    where N is the number of P and Q, two for each layer. λ has no part in it.
Shapes:
    P (m, r)   Q (r, n)   G (r, r), whole: triplets with λ = 0 count like all others
Units:
    γ is the caller's: 0.5 in PEFT (orth_reg_weight), 0.1 in the authors' code, in both for the
    mean of norms; the paper's is for the sum of squares, and is no comparable number.
Errors:
    ValueError if there is no adapter.
Limits:
    ‖G‖ has no derivative at G = 0, where P is orthogonal: `peft_penalty` takes 0 there, as PyTorch
    does. Near it the gradient has a fixed length however small G is.
Source:
    Zhang et al. 2023, arXiv:2303.10512, section 3.1, equation (4), and PEFT 0.21.2,
    tuners/adalora/model.py, AdaLoraModel.forward, which adds it to an output's `loss` and nowhere
    else: a loss that is computed outside of the model is not penalised (peft#432).
"""

from collections.abc import Mapping

from ...adapters.adalora import AdaLoRA
from ...arrays import Array, Backward, namespace, on_device_of
from ...trees import with_leaves


def penalty(adapters: Mapping[str, AdaLoRA]) -> tuple[Array, Backward]:
    """Σ ‖PᵀP − I‖² + ‖Q Qᵀ − I‖², and backward: dR -> gradients by the same names."""
    return _summed("penalty", adapters, _squared)


def peft_penalty(adapters: Mapping[str, AdaLoRA]) -> tuple[Array, Backward]:
    """The mean of ‖PᵀP − I‖ and ‖Q Qᵀ − I‖ over all layers, and backward."""
    total, total_backward = _summed("peft_penalty", adapters, _norm)
    share = 1 / (2 * len(adapters))
    return share * total, lambda dR: total_backward(share * dR)


def _summed(owner, adapters, measure):
    if not adapters:
        raise ValueError(f"{owner}: adapters must hold at least one AdaLoRA, got none")
    R, backwards = None, {}
    for name, adapter in adapters.items():
        left, left_backward = measure(adapter.P.T)
        right, right_backward = measure(adapter.Q)
        R = left + right if R is None else R + (left + right)
        backwards[name] = (left_backward, right_backward)

    def backward(dR):
        gradients = {}
        for name, (left_backward, right_backward) in backwards.items():
            dP, dQ = left_backward(dR).T, right_backward(dR)
            dlam = namespace(dP).zeros_like(adapters[name].lam)
            gradients[name] = with_leaves(adapters[name], P=dP, lam=dlam, Q=dQ)
        return gradients

    return R, backward


def _gram(Q):
    """Q Qᵀ − I: how far the rows of Q are from orthonormal."""
    xp = namespace(Q)
    return Q @ Q.T - xp.eye(Q.shape[0], dtype=Q.dtype, **on_device_of(Q))


def _squared(Q):
    G = _gram(Q)
    return namespace(Q).sum(G * G), lambda dR: 4 * dR * (G @ Q)


def _norm(Q):
    xp, G = namespace(Q), _gram(Q)
    c = xp.sqrt(xp.sum(G * G))

    def backward(dR):
        inverse = 1 / xp.where(c > 0, c, xp.ones_like(c))  # at G = 0 the product is 0 anyhow
        return 2 * dR * (inverse * G @ Q)

    return c, backward
