"""A right linear layer with LoRA, and wrong ones, each by one mistake, for the exact tests."""

import numpy as np


def right(x, W, b, A, B, s, dy):
    u, du = x @ A.T, s * (dy @ B)
    y = x @ W.T + s * (u @ B.T) + b
    gradients = {"dx": dy @ W + du @ A, "dA": du.T @ x, "dB": s * (dy.T @ u), "db": dy.sum(axis=0)}
    return {"y": y, **gradients}


def of_inputs(change):
    """The right layer on changed inputs, in the forward only: `change` takes and returns a dict."""

    def mine(x, W, b, A, B, s, dy):
        names = {"x": x, "W": W, "b": b, "A": A, "B": B, "s": s}
        return {"y": right(**{**names, **change(names)}, dy=dy)["y"]}

    return mine


def of_output(name, change):
    """The right layer with one output changed: `change(output, inputs)`."""

    def mine(x, W, b, A, B, s, dy):
        found = right(x, W, b, A, B, s, dy)
        inputs = {"x": x, "W": W, "b": b, "A": A, "B": B, "s": s, "dy": dy}
        return {**found, name: change(found[name], inputs)}

    return mine


def scaled(factor):
    return of_inputs(lambda t: {"s": factor(t["s"], t["A"].shape[0])})


def if_square(t):
    return t.T if t.shape[0] == t.shape[1] else t


def edited(t, place, value=0.0):
    """A copy of t with one part replaced."""
    t = np.array(t)
    t[place] = value
    return t


def without(name, place):
    return of_inputs(lambda t: {name: edited(t[name], place)})


SCALE = {
    "scale missing": scaled(lambda s, r: 1.0),
    "scale squared": scaled(lambda s, r: s * s),
    "scale inverted": scaled(lambda s, r: 1 / s),
    "scale doubled": scaled(lambda s, r: 2 * s),
    "scale halved": scaled(lambda s, r: s / 2),
    "scale negated": scaled(lambda s, r: -s),
    "alpha over root r": scaled(lambda s, r: s * r**0.5),
    "scale over root r": scaled(lambda s, r: s / r**0.5),
    "alpha undivided": scaled(lambda s, r: s * r),
    "scale over r": scaled(lambda s, r: s / r),
    "adapter ignored": scaled(lambda s, r: 0.0),
    "scale on the base too": of_inputs(lambda t: {"W": t["s"] * t["W"]}),
    "scale on the base only": of_inputs(lambda t: {"W": t["s"] * t["W"], "s": 1.0}),
    "scale on x, for base and adapter": of_inputs(lambda t: {"x": t["s"] * t["x"], "s": 1.0}),
    "scale 5 % off": scaled(lambda s, r: 0.95 * s),
}
BIAS = {
    "bias missing": of_inputs(lambda t: {"b": 0 * t["b"]}),
    "bias twice": of_inputs(lambda t: {"b": 2 * t["b"]}),
    "bias scaled": of_inputs(lambda t: {"b": t["s"] * t["b"]}),
    "bias rolled by one": of_inputs(lambda t: {"b": np.roll(t["b"], 1)}),
    "bias on the first half of the rows": of_output(
        "y", lambda y, t: np.concatenate([y[: len(y) // 2], y[len(y) // 2 :] - t["b"]])
    ),
    "bias missing in the last output": without("b", -1),
    "bias along the tokens if square": of_output(
        "y", lambda y, t: y - t["b"] + t["b"][:, None] if y.shape[0] == y.shape[1] else y
    ),
}
LAYOUT = {
    "A transposed if square": of_inputs(lambda t: {"A": if_square(t["A"])}),
    "B transposed if square": of_inputs(lambda t: {"B": if_square(t["B"])}),
    "W transposed if square": of_inputs(lambda t: {"W": if_square(t["W"])}),
    "x transposed if square": of_inputs(lambda t: {"x": if_square(t["x"])}),
    "A stored as (n, r)": of_inputs(lambda t: {"A": t["A"].reshape(t["A"].T.shape).T}),
    "B stored as (r, m)": of_inputs(lambda t: {"B": t["B"].reshape(t["B"].T.shape).T}),
    "A and B exchanged if square": of_inputs(
        lambda t: {"A": t["B"], "B": t["A"]} if t["A"].shape == t["B"].shape else {}
    ),
    "merge of (B A) transposed if square": of_output(
        "y",
        lambda y, t: (
            y
            if t["W"].shape[0] != t["W"].shape[1]
            else (t["x"] @ (t["W"] + t["s"] * (t["B"] @ t["A"]).T).T + t["b"])
        ),
    ),
    "rows of B off by one": of_inputs(lambda t: {"B": np.roll(t["B"], 1, axis=0)}),
    "columns of A off by one": of_inputs(lambda t: {"A": np.roll(t["A"], 1, axis=1)}),
    "columns of W off by one": of_inputs(lambda t: {"W": np.roll(t["W"], 1, axis=1)}),
    "ranks of A off by one": of_inputs(lambda t: {"A": np.roll(t["A"], 1, axis=0)}),
    "outputs reversed": of_output("y", lambda y, t: y[:, ::-1]),
    "tokens reversed": of_output("y", lambda y, t: y[::-1]),
    "last column of W dropped": without("W", (slice(None), -1)),
    "last column of A dropped": without("A", (slice(None), -1)),
    "first column of A dropped": without("A", (slice(None), 0)),
    "last rank dropped": without("A", -1),
    "last output without update": without("B", -1),
    "last output zero": of_output("y", lambda y, t: edited(y, (slice(None), -1))),
    "last token stale": of_output("y", lambda y, t: edited(y, -1, y[-2])),
    "one element of W lost": without("W", (3, 2)),
    "no update for the last token": of_output(
        "y", lambda y, t: edited(y, -1, (t["x"] @ t["W"].T + t["b"])[-1])
    ),
    "x clipped to ±1": of_inputs(lambda t: {"x": np.clip(t["x"], -1, 1)}),
}
GRADIENT = {
    "dB without scale": of_output("dB", lambda g, t: g / t["s"]),
    "dA without scale": of_output("dA", lambda g, t: g / t["s"]),
    "dA with scale squared": of_output("dA", lambda g, t: g * t["s"]),
    "dx without the adapter": of_output("dx", lambda g, t: t["dy"] @ t["W"]),
    "dx without the base": of_output("dx", lambda g, t: g - t["dy"] @ t["W"]),
    "dx without scale": of_output("dx", lambda g, t: right(**{**t, "s": 1.0})["dx"]),
    "dA transposed if square": of_output("dA", lambda g, t: if_square(g)),
    "dB transposed if square": of_output("dB", lambda g, t: if_square(g)),
    "W not transposed in dx if square": of_output(
        "dx", lambda g, t: right(**{**t, "W": if_square(t["W"])})["dx"]
    ),
    "A not transposed in dx if square": of_output(
        "dx", lambda g, t: right(**{**t, "A": if_square(t["A"])})["dx"]
    ),
    "B not transposed in dA if square": of_output(
        "dA", lambda g, t: right(**{**t, "B": if_square(t["B"])})["dA"]
    ),
    "last token dropped in dA": of_output(
        "dA", lambda g, t: right(**{**t, "dy": edited(t["dy"], -1)})["dA"]
    ),
    "last token dropped in dB": of_output(
        "dB", lambda g, t: right(**{**t, "dy": edited(t["dy"], -1)})["dB"]
    ),
    "last token dropped in db": of_output("db", lambda g, t: t["dy"][:-1].sum(axis=0)),
    "first half of the batch only": of_output(
        "dB",
        lambda g, t: right(**{**t, "dy": edited(t["dy"], slice(len(t["dy"]) // 2, None))})["dB"],
    ),
    "dA averaged over tokens": of_output("dA", lambda g, t: g / len(t["x"])),
    "db along the wrong axis if square": of_output(
        "db", lambda g, t: t["dy"].sum(axis=1) if t["dy"].shape[0] == t["dy"].shape[1] else g
    ),
    "db zero": of_output("db", lambda g, t: 0 * g),
    "dB of the base's output": of_output(
        "dB", lambda g, t: t["s"] * (t["dy"].T @ (t["x"] @ np.abs(t["A"]).T))
    ),
    "dA accumulated twice": of_output("dA", lambda g, t: 2 * g),
}
LINEAR_MUTANTS = {"scale": SCALE, "bias": BIAS, "layout": LAYOUT, "gradient": GRADIENT}


def merged(W, A, B, s, dW):
    return {"y": W + s * (B @ A), "dA": s * (B.T @ dW), "dB": s * (dW @ A.T)}


def merged_by(change):
    return lambda W, A, B, s, dW: {"y": change(W, A, B, s)}


MERGED_MUTANTS = {
    "scale": {
        "merge without scale": merged_by(lambda W, A, B, s: W + B @ A),
        "merge at scale squared": merged_by(lambda W, A, B, s: W + s * s * (B @ A)),
        "merge subtracts": merged_by(lambda W, A, B, s: W - s * (B @ A)),
        "merged twice": merged_by(lambda W, A, B, s: W + 2 * s * (B @ A)),
        "merge lost": merged_by(lambda W, A, B, s: W),
        "scale on the base": merged_by(lambda W, A, B, s: s * (W + B @ A)),
    },
    "layout": {
        "update transposed if square": merged_by(lambda W, A, B, s: W + if_square(s * (B @ A))),
        "A B for B A if square": merged_by(
            lambda W, A, B, s: W + s * (A @ B if A.shape == B.shape else B @ A)
        ),
        "A stored as (n, r)": merged_by(lambda W, A, B, s: W + s * (B @ A.reshape(A.T.shape).T)),
        "last row not merged": merged_by(lambda W, A, B, s: W + s * (edited(B, -1) @ A)),
        "rows off by one": merged_by(lambda W, A, B, s: W + s * np.roll(B @ A, 1, axis=0)),
    },
}
