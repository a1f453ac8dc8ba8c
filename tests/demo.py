"""What `make demo` shows: photographs that come with scikit-image, the bundled model, tables and JSON lines."""

import shlex
import subprocess
import sys
from pathlib import Path

import skimage

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "astronaut.png")
BROAD_LABELS = "animal,vehicle,food,building,plant,furniture"
LABELS = "cat,dog,horse,bird,cup of coffee,pizza,rocket,airplane,motorcycle,bicycle,car,person"


def main() -> None:
    folder = Path(skimage.__file__).parent / "data"
    command = ["zsclip", "classify", *PHOTOS, "--model", "tiny", "--labels"]
    for rest in (
        [LABELS, "--format", "table", "-k", "2"],
        [BROAD_LABELS, "--format", "table", "-q"],
        [LABELS, "--format", "jsonl", "-q"],
    ):
        print("$", shlex.join([*command, *rest]), flush=True)
        subprocess.run([sys.executable, "-m", *command, *rest], cwd=folder, check=True)


if __name__ == "__main__":
    main()
