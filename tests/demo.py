"""What `make demo` shows: pictures from a package, a model made on the spot, a table and JSONL.

The model is untrained, so its answers mean nothing; the run is the real one.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from tiny_models import save_tiny_model


def draw_pictures(folder: Path) -> None:
    """Draw three shapes on three grounds."""
    folder.mkdir()
    for name, ground, shape in [("ball", "white", "red"), ("box", "navy", "gold"), ("leaf", "wheat", "green")]:
        image = Image.new("RGB", (320, 240), ground)
        pen = ImageDraw.Draw(image)
        draw = {"ball": pen.ellipse, "box": pen.rectangle, "leaf": pen.pieslice}[name]
        angles = {"start": 20, "end": 160} if name == "leaf" else {}
        draw((90, 50, 230, 190), fill=shape, **angles)
        image.save(folder / f"{name}.jpg")


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        draw_pictures(Path(root) / "pictures")
        save_tiny_model("plain", Path(root) / "model")
        command = ["zsclip", "classify", "pictures", "--labels", "ball,box,leaf", "--model", "local-dir:model"]
        for output in (["--format", "table", "-k", "2"], ["--format", "jsonl", "-q"]):
            print("$", *command, *output, flush=True)
            subprocess.run([sys.executable, "-m", *command, *output], cwd=root, check=True)
    print("\nThe model above is untrained, its answers mean nothing. A trained one: --model base (see README).")


if __name__ == "__main__":
    main()
