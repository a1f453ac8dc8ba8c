"""The map of the code, as a test: which folder may import which, and what a start may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "zsclip"

# In the order in which data flows: a folder may know some of those above it, never one below. What is kept on disk
# stands early, as it is asked before anything is computed. Every folder may raise what errors.py defines.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "pictures": set(),
    "kept": {"pictures"},
    "words": {"kept", "pictures"},
    "pixels": {"pictures"},
    "models": {"kept", "pictures", "pixels"},
    "answers": {"kept", "models", "pixels", "words"},
    "out": {"answers", "kept", "pictures", "pixels"},
    "measure": {"answers", "models", "out", "pictures", "pixels", "words"},
    "training": {"answers", "kept", "measure", "models", "pictures", "pixels", "words"},
    "engine": {"answers", "kept", "measure", "models", "out", "pictures", "pixels", "words"},
    "cli": {"answers", "engine", "kept", "measure", "models", "out", "pictures", "pixels", "training", "words"},
    "__main__": {"cli"},
    "api": {"answers", "engine", "kept", "models", "out", "pictures", "pixels", "words"},
    "__init__": {"api"},
}
NEED_TORCH = {
    "zsclip.measure.model_check",
    "zsclip.models.fold",
    "zsclip.models.last_block",
    "zsclip.models.onnx_export",
    "zsclip.models.onnx_int8",
    "zsclip.models.parity",
    "zsclip.models.text",
    "zsclip.models.torch_encoder",
    "zsclip.models.towers",
    "zsclip.training.checkpoint",
    "zsclip.training.export",
    "zsclip.training.features",
    "zsclip.training.step",
    "zsclip.training.train",
}
TORCH = {"torch", "open_clip", "torchvision", "transformers", "timm"}
HEAVY = TORCH | {"PIL", "numpy", "pyarrow"}


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Folders and top-level files of the package that a file imports, those of type checking too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return {module.split(".")[1] for module in modules if module.startswith("zsclip.")}


def test_folders_import_what_the_map_says_and_nothing_else() -> None:
    found: dict[str, set[str]] = {}
    for path in ROOT.rglob("*.py"):
        found.setdefault(folder_of(path), set()).update(imports_of(path))

    assert {folder: imports - {folder, "errors"} for folder, imports in found.items()} == MAY_IMPORT


def test_data_flow_one_way() -> None:
    order = list(MAY_IMPORT)

    for folder, allowed in MAY_IMPORT.items():
        assert allowed <= set(order[: order.index(folder)]), folder


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("module", ["zsclip", "zsclip.cli.main"])
def test_importing_the_package_or_the_command_line_loads_nothing_heavy(module: str) -> None:
    loaded = modules_after(f"import {module}")

    assert "zsclip" in loaded
    assert not loaded & {*HEAVY, "rich", "yaml", "huggingface_hub"}


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["classify", "--help"], ["train", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = modules_after(f"from zsclip.cli.main import main; main({arguments})")

    assert "typer" in loaded
    assert not loaded & {*HEAVY, "rich", "yaml", "huggingface_hub"}


def test_only_the_folders_that_compute_with_torch_load_it() -> None:
    modules = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in ROOT.rglob("*.py")}
    light = sorted(module for module in modules - NEED_TORCH if not module.endswith(("__init__", "__main__")))

    loaded = modules_after("; ".join(f"import {module}" for module in light))

    assert modules >= NEED_TORCH
    assert not loaded & TORCH
