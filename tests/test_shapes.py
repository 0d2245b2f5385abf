"""Shape specs: what they accept, what they say, and that the memo accepts nothing more."""

import dataclasses
import threading

import ml_dtypes
import numpy as np
import pytest

import lora_ref.shapes
from lora_ref.adapters import LoRA
from lora_ref.layers.linear import linear
from lora_ref.shapes import ShapeError, Spec, bind, parse, shapes
from lora_ref.trees import with_leaves


def ones(*shape, dtype=np.float64):
    return np.ones(shape, dtype)


def lora(rank=3, m=11, n=7):
    return LoRA(ones(rank, n), ones(m, rank), 5 / 3)


MESSAGES = {
    "a size that another argument fixed": (
        lambda: linear(ones(2, 7), ones(11, 8)),
        "linear: W must be (m, n) with n = 7 from x, got (11, 8)",
    ),
    "too few axes": (
        lambda: linear(ones(2, 7), ones(7)),
        "linear: W must be (m, n) with n = 7 from x, got (7,)",
    ),
    "too many axes": (
        lambda: linear(ones(2, 7), ones(2, 11, 7)),
        "linear: W must be (m, n) with n = 7 from x, got (2, 11, 7)",
    ),
    "a method, with sizes from its object's fields": (
        lambda: lora().apply(ones(2, 7), ones(7, 11)),
        "LoRA.apply: W must be (m, n) with m = 11 from LoRA.B, n = 7 from LoRA.A, got (7, 11)",
    ),
    "a constructor": (
        lambda: LoRA(ones(3, 7), ones(11, 4), 1.0),
        "LoRA: LoRA.B must be (m, r) with r = 3 from LoRA.A, got (11, 4)",
    ),
    "a size that is a number": (
        lambda: shapes(q="3 n")(lambda q: q)(ones(4, 7)),
        "got (4, 7)",
    ),
    "one name twice in a spec": (
        lambda: shapes(S="n n")(lambda S: S)(ones(4, 5)),
        "S must be (n, n), got (4, 5)",
    ),
    "leading axes that must agree": (
        lambda: shapes(k="*b d", v="*b e")(lambda k, v: v)(ones(2, 3, 7), ones(2, 4, 5)),
        "v must be (*b, e) with *b = (2, 3) from k, got (2, 4, 5)",
    ),
}


@pytest.mark.parametrize("mistake", MESSAGES)
def test_a_wrong_shape_says_who_what_whence_and_what_came(mistake):
    call, message = MESSAGES[mistake]
    with pytest.raises(ShapeError) as error:
        call()
    assert str(error.value).endswith(message)


TYPE_MESSAGES = {
    "a list": (lambda: linear([1.0], ones(2, 1)), "linear: x must be an array, got list"),
    "None": (lambda: linear(None, ones(2, 1)), "linear: x must be an array, got None"),
    "a class": (lambda: linear(np.float64, ones(2, 1)), "linear: x must be an array, got type"),
    "integers": (
        lambda: linear(ones(2, 7, dtype=np.int64), ones(11, 7)),
        "linear: x must hold real floating numbers, got dtype int64",
    ),
    "complex numbers": (
        lambda: linear(ones(2, 7), ones(11, 7, dtype=np.complex128)),
        "linear: W must hold real floating numbers, got dtype complex128",
    ),
    "floats for a mask": (
        lambda: shapes(keep="bool T")(lambda keep: keep)(ones(3)),
        "keep must hold bool numbers, got dtype float64",
    ),
    "floats for an index": (
        lambda: shapes(i="int(v) T")(lambda i: i)(ones(3)),
        "i must hold integral numbers, got dtype float64",
    ),
    "an argument too few": (lambda: linear(ones(2, 7)), "linear: missing a required argument: 'W'"),
    "an unknown argument": (
        lambda: linear(ones(2, 7), ones(11, 7), scale=2.0),
        "linear: got an unexpected keyword argument 'scale'",
    ),
}


@pytest.mark.parametrize("mistake", TYPE_MESSAGES)
def test_a_wrong_type_says_who_what_and_what_came(mistake):
    call, message = TYPE_MESSAGES[mistake]
    with pytest.raises(TypeError) as error:
        call()
    assert str(error.value).endswith(message)


def test_arrays_of_two_libraries_are_refused_by_name():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is in [test]")
    with pytest.raises(TypeError) as error:
        linear(ones(2, 7), strict.ones((11, 7)))
    assert str(error.value) == (
        "linear: W must be of one library with x, which is numpy, got array_api_strict"
    )


def test_sizes_are_returned_by_name():
    specs = {"x": parse("... n"), "W": parse("m n")}
    assert bind("f", {"x": ones(2, 7), "W": ones(11, 7)}, specs) == {"n": 7, "m": 11}


def test_a_spec_reads_as_the_shape_it_states():
    assert [str(parse(text)) for text in ("m n", "... n", "n", "", "*b T d", "int(v) ... T")] == [
        "(m, n)",
        "(..., n)",
        "(n,)",
        "()",
        "(*b, T, d)",
        "(..., T)",
    ]


@pytest.mark.parametrize("text", ["m, n", "float m", "n ...", "int m", "(m n)", "... *b n", "m-1"])
def test_a_spec_that_is_none_is_refused_when_it_is_stated(text):
    with pytest.raises(ValueError, match="a spec must be like"):
        parse(text)


def test_a_spec_for_an_argument_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"has no argument \['w'\]"):
        shapes(w="m n")(lambda W: W)


def test_a_mask_that_is_absent_is_not_checked_and_one_that_is_there_is():
    @shapes(x="T", keep="bool T")
    def masked(x, keep=None):
        return x if keep is None else x[keep]

    assert masked(ones(3)).shape == masked(ones(3), None).shape == (3,)
    with pytest.raises(ShapeError, match=r"keep must be \(T,\) with T = 3 from x"):
        masked(ones(3), ones(4, dtype=bool))


def test_none_is_accepted_where_the_annotation_admits_it():
    @shapes(x="T", b="T")
    def shifted(x: np.ndarray, b: np.ndarray | None):
        return x if b is None else x + b

    assert shifted(ones(3), None).shape == (3,)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "longdouble", ">f4"])
def test_every_float_of_numpy_is_a_real(dtype):
    assert linear(ones(2, 7, dtype=dtype), ones(11, 7, dtype=dtype))[0].shape == (2, 11)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_float_of_ml_dtypes_is_a_real(name):
    dtype = getattr(ml_dtypes, name)
    assert bind("f", {"x": ones(2, dtype=dtype)}, {"x": parse("n")}) == {"n": 2}


def test_an_array_that_is_no_float_is_refused_though_its_name_says_float():
    records = np.zeros(3, dtype=[("float", "f8")])
    with pytest.raises(TypeError, match="x must hold"):
        bind("f", {"x": records}, {"x": parse("n")})


# The memo: after a call has passed, nothing may pass that the check refuses.


def accepted_once(*good):
    """A function of two arrays of equal length whose memo knows `good`."""

    @shapes(a="n", b="n", keep="bool n")
    def pair(a, b=None, keep=None):
        return a, b, keep

    pair(*good)
    pair(*good)
    return pair


def test_the_memo_sees_another_shape():
    with pytest.raises(ShapeError):
        accepted_once(ones(3), ones(3))(ones(3), ones(4))


def test_the_memo_sees_another_dtype_of_the_same_shape():
    with pytest.raises(TypeError, match="real floating"):
        accepted_once(ones(3), ones(3))(ones(3), ones(3, dtype=np.int64))


def test_the_memo_sees_another_library():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is in [test]")
    with pytest.raises(TypeError, match="one library"):
        accepted_once(ones(3), ones(3))(ones(3), strict.ones(3))


def test_the_memo_tells_a_keyword_from_a_place():
    pair = accepted_once(ones(3), None, ones(3, dtype=bool))
    with pytest.raises(TypeError, match="keep must hold bool"):
        pair(ones(3), keep=ones(3))
    pair(ones(3), b=ones(3))
    with pytest.raises(TypeError, match="keep must hold bool"):
        pair(ones(3), keep=ones(3))


def test_the_memo_tells_one_keyword_from_another():
    pair = accepted_once(ones(3))
    pair(a=ones(3), b=ones(3))
    with pytest.raises(ShapeError):
        pair(a=ones(3), b=ones(4))
    with pytest.raises(TypeError, match="keep must hold bool"):
        pair(a=ones(3), keep=ones(3))


def test_the_memo_tells_none_from_an_array():
    pair = accepted_once(ones(3), None)
    with pytest.raises(ShapeError):
        pair(ones(3), ones(4))


def test_the_memo_sees_a_list_in_an_array_s_place():
    with pytest.raises(TypeError, match="b must be an array, got list"):
        accepted_once(ones(3), ones(3))(ones(3), [1.0, 1.0, 1.0])


def test_the_memo_sees_a_subclass():
    class Liar(np.ndarray):
        shape = (3,)

    pair = accepted_once(ones(3), ones(3))
    assert pair(ones(3), ones(3).view(Liar))[1].shape == (3,)
    with pytest.raises(ShapeError):
        pair(ones(4), ones(4).view(Liar))


def test_the_memo_of_a_method_sees_other_fields():
    """The call is the same; the object has another rank, library or dtype of field."""
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is in [test]")
    x, W, adapter = ones(2, 7), ones(11, 7), lora()
    adapter.apply(x, W)
    with pytest.raises(TypeError, match=r"one library|must be of"):
        with_leaves(adapter, A=strict.ones((3, 7)), B=strict.ones((11, 3))).apply(x, W)
    with pytest.raises(TypeError, match=r"LoRA\.A must hold real floating"):
        with_leaves(adapter, A=ones(3, 7, dtype=np.int64)).apply(x, W)
    with pytest.raises(ShapeError, match=r"LoRA\.B must be"):
        with_leaves(adapter, A=ones(4, 7)).apply(x, W)
    with pytest.raises(TypeError, match=r"LoRA\.A must be an array"):
        with_leaves(adapter, A=[1.0]).apply(x, W)


def test_the_memo_of_a_method_is_no_other_class_s():
    @shapes(A="r n")
    @dataclasses.dataclass(frozen=True, eq=False)
    class Narrow:
        A: np.ndarray

        @shapes(x="... n")
        def apply(self, x):
            return x @ self.A.T

    @shapes(A="n r")
    @dataclasses.dataclass(frozen=True, eq=False)
    class Turned(Narrow):
        pass

    Narrow(ones(3, 7)).apply(ones(2, 7))
    with pytest.raises(ShapeError, match=r"Turned.apply: x must be \(..., n\) with n = 3"):
        Turned(ones(3, 7)).apply(ones(2, 7))


def test_an_object_given_by_keyword_is_checked_too():
    with pytest.raises(ShapeError, match=r"LoRA\.apply: W must be"):
        LoRA.apply(self=lora(), x=ones(2, 7), W=ones(7, 11))


def test_a_dtype_without_a_hash_is_checked_and_not_remembered():
    class Odd:
        __hash__ = None

        def __init__(self, shape):
            self.shape = shape
            self.dtype = {"unhashable": True}

        def __array_namespace__(self, api_version=None):
            return Everything

    class Everything:
        is_reading = True

    pair = accepted_once(Odd((3,)), Odd((3,)))
    with pytest.raises(ShapeError):
        pair(Odd((3,)), Odd((4,)))


def test_the_memo_does_not_grow_without_bound(monkeypatch):
    monkeypatch.setattr(lora_ref.shapes, "_REMEMBERED", 10)

    @shapes(a="n")
    def length(a):
        return a.shape[0]

    assert [length(ones(n)) for n in range(50)] == list(range(50))
    cells = dict(zip(length.__code__.co_freevars, length.__closure__, strict=True))
    assert len(cells["passed"].cell_contents) == 10


def test_an_error_inside_the_function_is_not_taken_for_a_failed_check():
    calls = []

    @shapes(a="n")
    def fails(a):
        calls.append(a)
        if len(calls) > 1:
            raise TypeError("from inside")

    fails(ones(3))
    with pytest.raises(TypeError, match="from inside"):
        fails(ones(3))
    assert len(calls) == 2


def test_a_check_from_several_threads_refuses_every_wrong_call():
    @shapes(a="n", b="n")
    def pair(a, b):
        return a

    refused = []

    def work(k):
        for n in range(1, 30):
            pair(ones(n), ones(n))
            try:
                pair(ones(n), ones(n + k))
            except ShapeError:
                refused.append((n, k))

    threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4 * 29


def test_the_wrapper_keeps_name_docstring_and_specs():
    assert linear.__name__ == "linear"
    assert linear.__doc__ == "y = x Wᵀ."
    assert linear.__shapes__ == {
        "x": Spec("real", None, "...", ("n",)),
        "W": Spec("real", None, None, ("m", "n")),
    }
