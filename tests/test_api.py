"""Conventions, tested by reflection over everything public."""

import ast
import importlib
import inspect
import re

import pytest

from tests import ROOT

SOURCES = sorted((ROOT / "ppp_jax").rglob("*.py")) + sorted((ROOT / "experiments").rglob("*.py"))


def public_functions():
    for path in sorted((ROOT / "ppp_jax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = importlib.import_module(".".join(p for p in parts if p != "__init__"))
        for name, value in vars(module).items():
            mine = inspect.isfunction(value) and value.__module__ == module.__name__
            if mine and not name.startswith("_"):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


PUBLIC = list(public_functions())


def sections(function):
    return set(re.findall(r"^\s*(Args|Returns|Yields|Raises|Example):$", function.__doc__, re.M))


@pytest.mark.parametrize("function", PUBLIC)
def test_every_public_function_is_documented_and_typed(function):
    signature = inspect.signature(function)
    assert function.__doc__
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        if len(signature.parameters) > 2 and "Args" in sections(function):
            assert f"{parameter.name}:" in function.__doc__, parameter.name
    assert signature.return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("function", PUBLIC)
def test_options_are_keyword_only(function):
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_stay_short(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            lines = node.end_lineno - node.lineno + 1 - doc.count("\n")
            assert lines <= 40, f"{node.name} has {lines} lines without its docstring"
