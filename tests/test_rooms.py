"""The map of the code, as a test: which room may import which, and what a start may load."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "zsclip"

MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    # leaves
    "errors": set(),
    "results": set(),
    "cache": set(),
    # text side, no torch
    "textfiles": set(),
    "labels": {"cache", "textfiles"},
    "prompts": {"cache", "labels", "textfiles"},
    # image side
    "images": set(),
    "decode": {"results"},
    "batches": {"decode"},
    # what a model's name means, no torch
    "hub": set(),
    "weights": {"cache", "decode", "hub"},
    "catalogue": {"hub", "weights"},
    # numbers
    "imports": set(),
    "text": set(),
    "fold": set(),
    "towers": {"fold", "hub", "imports", "weights"},
    "model": {"cache", "hub", "text", "towers", "weights"},
    "score": set(),
    "encoder": {"cache", "imports", "model", "weights"},
    "classifier": {"cache", "encoder", "model", "score"},
    "store": {"cache"},
    "decoders": {"batches", "decode", "store"},
    "embed": {"batches", "decode", "decoders", "encoder", "results", "score", "store"},
    # runs
    "classify": {"classifier", "embed", "results", "score"},
    "bench": {"batches", "classifier", "classify", "decode", "decoders", "embed", "encoder", "model", "score"},
    "drawing": {"decode", "prompts"},
    "sources": {"drawing", "images"},
    "pairs": {"decode", "drawing", "sources"},
    "checkpoint": set(),
    "train": {
        "batches", "cache", "checkpoint", "classifier", "drawing", "hub", "labels", "model", "pairs", "prompts",
        "score", "sources", "text", "towers", "weights",
    },
    "labelled": {"sources"},
    "metrics": set(),
    "evaluate": {"labels", "metrics", "results", "sinks"},
    "calibrate": {"classifier", "embed", "metrics", "score"},
    "compare": {
        "classifier", "classify", "embed", "encoder", "evaluate", "labels", "metrics", "prompts", "score", "sinks",
    },
    # out
    "output": set(),
    "journal": {"output", "results"},
    "sinks": {"results"},
    "confusion": set(),
    "thumbnails": {"batches", "decode"},
    "report": {"decode", "results", "sinks", "thumbnails"},
    "contactsheet": {"results", "thumbnails"},
    "terminal": {"checkpoint", "embed", "results", "train"},  # of all but results only the types
    "cli": {
        "batches", "bench", "cache", "calibrate", "catalogue", "classifier", "classify", "compare", "confusion",
        "contactsheet", "decode", "embed", "encoder", "evaluate", "hub", "images", "journal", "labelled", "labels",
        "metrics", "model", "output", "prompts", "report", "results", "score", "sinks", "store", "terminal", "train",
        "weights",
    },
}  # fmt: skip

LIGHT = (
    "labels",
    "prompts",
    "images",
    "decode",
    "batches",
    "decoders",
    "output",
    "journal",
    "sinks",
    "terminal",
    "weights",
    "hub",
    "catalogue",
    "score",
    "classifier",
    "encoder",
    "store",
    "embed",
    "classify",
    "sources",
    "labelled",
    "metrics",
    "evaluate",
    "calibrate",
    "compare",
    "confusion",
    "thumbnails",
    "report",
    "contactsheet",
)
HEAVY = ("torch", "open_clip", "torchvision", "transformers", "timm")


def imports_of(path: Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return {module.removeprefix("zsclip.") for module in modules if module.startswith("zsclip.")}


def test_every_room_is_on_the_map() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == set(MAY_IMPORT)


def test_rooms_import_only_what_the_map_allows() -> None:
    for room, allowed in MAY_IMPORT.items():
        assert imports_of(ROOT / f"{room}.py") <= allowed | {"errors"}, room


def test_the_map_lists_no_import_that_is_not_there() -> None:
    for room, allowed in MAY_IMPORT.items():
        assert allowed <= imports_of(ROOT / f"{room}.py"), room


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in sys.modules if '.' not in m))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_line_starts_without_anything_heavy() -> None:
    loaded = modules_after("import zsclip.cli")

    assert not loaded & {*HEAVY, "PIL", "numpy", "pyarrow", "rich", "yaml", "huggingface_hub"}


def test_help_loads_no_torch() -> None:
    loaded = modules_after("from zsclip.cli import main; main(['classify', '--help'])")

    assert "typer" in loaded
    assert not loaded & {*HEAVY, "PIL", "numpy"}


def test_light_rooms_load_no_torch() -> None:
    loaded = modules_after("; ".join(f"import zsclip.{room}" for room in LIGHT))

    assert not loaded & set(HEAVY)
