"""The package hands out its names late, and each is what it says."""

import importlib
import inspect
import subprocess
import sys
import types

import pytest

from lora_ref import verdict

SHARED = ("audit", "bounds", "judge", "message")  # a function, and the file that it is in


@pytest.mark.parametrize("name", verdict.__all__)
def test_every_public_name_is_no_module_and_comes_from_its_own_file(name):
    assert not isinstance(getattr(verdict, name), types.ModuleType)


@pytest.mark.parametrize("name", SHARED)
def test_a_function_is_not_hidden_by_the_file_of_the_same_name(name):
    module = importlib.import_module(f"lora_ref.verdict.{name}")
    assert inspect.ismodule(module)
    assert inspect.isfunction(getattr(verdict, name))
    assert getattr(verdict, name) is getattr(module, name)


@pytest.mark.parametrize("name", SHARED)
def test_it_is_not_hidden_either_if_the_file_is_imported_first(name):
    code = (
        f"import lora_ref.verdict.{name}\n"
        f"from lora_ref.verdict import {name} as f\n"
        f"import inspect, lora_ref.verdict as v\n"
        f"print(inspect.isfunction(f), f is v.{name})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'judgement'"):
        _ = verdict.judgement


def test_all_names_are_listed_before_they_are_imported():
    code = "import lora_ref.verdict as v\nprint(set(v.__all__) <= set(dir(v)), 'judge' in vars(v))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
