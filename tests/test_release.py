"""What a release writes, and the files that those who host and cite the project read."""

import importlib.machinery
import importlib.util
import json
import re
import tomllib

import pytest

import ppp_jax
from tests import ROOT

LOADER = importlib.machinery.SourceFileLoader("address", str(ROOT / ".ci" / "address"))
address = importlib.util.module_from_spec(importlib.util.spec_from_loader("address", LOADER))
LOADER.exec_module(address)
HERE = "https://github.com/some/where"
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_the_project_gets_its_addresses_once():
    text = address.urls((ROOT / "pyproject.toml").read_text(), HERE)
    assert tomllib.loads(text)["project"]["urls"]["Source"] == HERE
    assert address.urls(text, HERE) == text


def test_no_link_or_picture_of_the_readme_needs_the_repository():
    text = address.absolute((ROOT / "README.md").read_text(encoding="utf-8"), HERE)
    assert f"]({HERE}/raw/main/experiments/figures/emergence.png)" in text
    assert f"]({HERE}/blob/main/docs/method.md)" in text
    assert not re.findall(r"\]\((?!https:|#)[^)]*\)", text)
    assert address.absolute(text, HERE) == text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_badge_a_cell_that_installs_and_outputs(path):
    text = path.read_text(encoding="utf-8")
    linked = address.badges(text, "some/where", path.name)
    assert f"({address.COLAB}github/some/where/blob/main/docs/notebooks/{path.name})" in linked
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert "%pip install --quiet ppp_jax {kept}" in "".join(cells[0]["source"])
    kinds = [output["output_type"] for cell in cells for output in cell["outputs"]]
    assert "execute_result" in kinds
    assert "error" not in kinds
    assert "image/png" in text or "data:image" in text


def test_it_is_cited_by_its_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ppp_jax.__version__}\n" in text
    assert "arXiv:2507.12070" in text
    assert "arXiv:2505.13471" in text


def test_workflows_run_steps_that_ci_has():
    ci = (ROOT / ".ci" / "run").read_text()
    named = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for steps in re.findall(r"run: \.ci/run (.*)", path.read_text()):
            named |= set(steps.split())
    assert named >= {"install", "suite", "check", "wheel", "notebooks", "quick"}
    assert all(re.search(rf"^#   {name} ", ci, re.M) for name in named)
