"""The installed wheel, not the checkout: what a user gets from pip."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; the dependencies are lent by a path, which leaves our checkout out."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, capture_output=True)
    return home / "bin" / "zsclip"


def test_the_wheel_holds_code_prompts_and_data_and_nothing_else(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]

    assert {"zsclip/py.typed", "zsclip/data/models.csv", "zsclip/data/prompts/photo.yaml"} <= set(names)
    tiny = {name.removeprefix("zsclip/data/tiny/") for name in names if name.startswith("zsclip/data/tiny/")}
    graphs = {"graphs.json", "image.onnx", "text.onnx"}
    demo = {name.removeprefix("zsclip/data/demo/") for name in names if name.startswith("zsclip/data/demo/")}
    assert demo == {"README.md"} | {f"{name}.jpg" for name in ("astronaut", "camera", "chelsea", "coffee", "rocket")}
    assert tiny == {"README.md", "open_clip_config.json", "open_clip_model.safetensors"} | graphs
    assert all(name.startswith("zsclip/") for name in names)
    assert {name for name in names if name.endswith(".py")} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "zsclip").rglob("*.py")
    }


def test_the_installed_command_finds_its_data_from_any_folder(
    installed: Path, tmp_path: Path, photos: Path, tiny_model: Callable[[str], Path]
) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def zsclip(*arguments: str) -> str:
        result = subprocess.run([installed, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    where = subprocess.run(
        [installed.parent / "python", "-c", "import zsclip.words.prompts as p; print(p.PROMPTS_DIR)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(installed.parent.parent))
    assert "general" in zsclip("prompts", "list")
    assert "base" in zsclip("models", "list")
    for model in (str(tiny_model("plain")), "tiny"):
        rows = zsclip("classify", str(photos), "--labels", "red,green", "--model", model)
        assert rows.count('"error": null') == 3
