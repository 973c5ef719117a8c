"""The one direction: who may import whom, and that each stage's deps in dvc.yaml cover what it imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from aecore.cli import STAGES

ROOT = Path(__file__).parents[1]
ORDER = [
    {"config", "artifact", "counted", "environment", "lettering", "names", "output"},
    {"tracking"},
    {"data"},
    {"models"},
    {"training", "embedding", "vectors"},
    {"search"},
    {"generate"},
    {"analysis"},
    {"serve"},
    {"check"},
    {"arguments"},
    {"cli", "__main__"},
]
EXEMPT = {
    "aecore/tracking.py",  # records what happened; nothing it does reaches an artefact
    "aecore/cli.py",  # only chooses which main() to call
}
ONLY_HERE = {
    "mlflow": {"aecore/tracking.py"},
    "faiss": {
        "aecore/search/index.py",
        "aecore/search/recall.py",
        "aecore/search/searcher.py",
        "aecore/search/filling.py",
        "aecore/search/gpu.py",
        "aecore/search/kinds.py",
        "aecore/search/storage.py",
        "aecore/search/vector_index.py",
        "aecore/analysis/kmeans.py",
    },
    "prefect": set[str](),
    "dvc": set[str](),
}
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "aecore").rglob("*.py"))


def imports(file: str) -> set[str]:
    """Dotted names of every module that `file` imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own_files(file: str) -> set[str]:
    """The project's files that `file` imports directly, packages' docstring-only __init__ left out."""
    paths = (name.replace(".", "/") + ".py" for name in imports(file))
    return {path for path in paths if path in FILES}


def layer(file: str) -> int:
    room = Path(file).parts[1].removesuffix(".py")
    return next(i for i, rooms in enumerate(ORDER) if room in rooms)


@pytest.mark.parametrize("file", [f for f in FILES if f != "aecore/__init__.py"])
def test_imports_only_from_the_left(file: str) -> None:
    assert {other for other in own_files(file) if layer(other) > layer(file)} == set()


@pytest.mark.parametrize("library", ONLY_HERE)
def test_a_library_is_imported_in_its_rooms_only(library: str) -> None:
    users = {file for file in FILES if any(name.split(".")[0] == library for name in imports(file))}
    assert users <= ONLY_HERE[library]


@pytest.mark.parametrize("file", [f for f in FILES if f.endswith("__init__.py")])
def test_a_package_file_holds_a_docstring_only(file: str) -> None:
    body = ast.parse((ROOT / file).read_text()).body
    assert len(body) == 1
    assert isinstance(body[0], ast.Expr)


def test_flows_import_nothing_of_the_program() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        assert not {name for name in imports(str(path.relative_to(ROOT))) if name.split(".")[0] == "aecore"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_every_file_it_imports(stage: str) -> None:
    entry = STAGES[stage][0].replace(".", "/") + ".py"
    reached, pending = set[str](), {entry}
    while pending:
        file = pending.pop()
        reached.add(file)
        pending |= own_files(file) - reached - EXEMPT
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    declared = {dep for dep in stages[stage]["deps"] if dep.startswith("aecore/")}
    assert declared == reached, f"dvc.yaml: {stage}.deps lack {reached - declared}, have {declared - reached} too many"
    assert stages[stage]["cmd"] == f"python -m aecore {stage}"


def test_the_pipeline_is_the_command_lines() -> None:
    assert list(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]) == list(STAGES)
