"""The registries are complete, the public names are those of `__all__`, and all are documented."""

import importlib
import inspect
import pkgutil
from typing import get_type_hints

import pytest

import lora_ref
from lora_ref.adapters import ADAPTERS, Adapter
from lora_ref.layers import LAYERS
from lora_ref.testing.layer_examples import LAYER_EXAMPLES

PACKAGES = (
    "lora_ref",
    "lora_ref.layers",
    "lora_ref.adapters",
    "lora_ref.adapters.generators",
    "lora_ref.compose",
    "lora_ref.plan",
    "lora_ref.testing",
)
SECTIONS = ("Math:", "Shapes:", "Source:")
# Those that state a protocol and no formula.
ABSTRACT = {"lora_ref.adapters.base", "lora_ref.adapters.generators.base"}


def modules_of(package):
    parent = importlib.import_module(package)
    found = pkgutil.iter_modules(parent.__path__, f"{package}.")
    return [importlib.import_module(m.name) for m in found if not m.ispkg]


def public(module):
    """What a module defines itself, under a public name."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }


def every_module():
    walked = pkgutil.walk_packages(lora_ref.__path__, "lora_ref.")
    names = [
        m.name for m in walked if "__main__" not in m.name and not m.name.startswith("lora_ref.cli")
    ]
    return ["lora_ref", *names]


LAYER_MODULES = modules_of("lora_ref.layers")
ADAPTER_MODULES = [m for m in modules_of("lora_ref.adapters") if m.__name__ not in ABSTRACT]
GENERATOR_MODULES = [
    m for m in modules_of("lora_ref.adapters.generators") if m.__name__ not in ABSTRACT
]


def test_every_final_adapter_is_in_the_registry():
    found = {
        value
        for module in ADAPTER_MODULES
        for value in public(module).values()
        if inspect.isclass(value) and issubclass(value, Adapter)
    }
    assert found == {*ADAPTERS}


def test_an_adapter_has_no_subclass():
    assert [cls for adapter in ADAPTERS for cls in adapter.__subclasses__()] == []


def test_every_layer_whose_arguments_are_all_stated_is_in_the_registry():
    def stated(f):
        required = [
            p.name for p in inspect.signature(f).parameters.values() if p.default is p.empty
        ]
        return hasattr(f, "__shapes__") and {*required} <= {*f.__shapes__} and gives_backward(f)

    found = {f for m in LAYER_MODULES for f in public(m).values() if callable(f) and stated(f)}
    named = {name.split(",")[0] for name in LAYER_EXAMPLES}
    assert {f.__name__ for f in found - {*LAYERS}} <= named
    assert {*LAYERS} <= found


def gives_backward(f):
    return inspect.isfunction(f) and "Callable" in str(inspect.signature(f).return_annotation)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_the_public_names(package):
    module = importlib.import_module(package)
    names = {
        name
        for name in dir(module)
        if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
    }
    listed = {*getattr(module, "__all__", ())}
    rooms = {name for name in listed if inspect.ismodule(getattr(module, name))}
    assert names == listed - rooms
    assert module is lora_ref or not rooms


@pytest.mark.parametrize("name", ["ties", "truncated", "mixed_batch", "lora_of_data"])
def test_a_function_stands_before_the_file_that_is_called_the_same_and_both_are_there(name):
    file = importlib.import_module(f"lora_ref.compose.{name}")
    room = importlib.import_module("lora_ref.compose")
    assert inspect.ismodule(file)
    assert getattr(room, name) is getattr(file, name)


@pytest.mark.parametrize("name", every_module())
def test_every_module_function_and_class_has_a_docstring(name):
    module = importlib.import_module(name)
    bare = [] if module.__doc__ else [name]
    for key, value in public(module).items():
        if inspect.isfunction(value) or inspect.isclass(value):
            bare += [key] if not (value.__doc__ or "").strip() else []
    assert bare == []


@pytest.mark.parametrize(
    "module", LAYER_MODULES + ADAPTER_MODULES + GENERATOR_MODULES, ids=lambda m: m.__name__
)
def test_every_layer_and_adapter_states_its_mathematics_its_shapes_and_its_source(module):
    assert [s for s in SECTIONS if f"\n{s}\n" not in module.__doc__] == []


@pytest.mark.parametrize("cls", ADAPTERS, ids=lambda cls: cls.__name__)
def test_an_adapter_is_a_frozen_dataclass_that_does_not_compare(cls):
    assert cls.__dataclass_params__.frozen
    assert not cls.__dataclass_params__.eq


@pytest.mark.parametrize("cls", ADAPTERS, ids=lambda cls: cls.__name__)
def test_the_fields_of_an_adapter_have_types(cls):
    assert get_type_hints(cls)


def test_every_room_is_an_attribute_of_the_package():
    inside = {"cli", "pages"}  # the command, and how it writes its reports
    rooms = {m.name for m in pkgutil.iter_modules(lora_ref.__path__) if m.ispkg}
    assert {*lora_ref.__all__} == rooms - inside
