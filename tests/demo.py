"""What `make demo` shows: photographs that come with scikit-image, the model in the box, a table and JSONL."""

import shlex
import subprocess
import sys
from pathlib import Path

import skimage

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "astronaut.png")
LABELS = "cat,dog,horse,bird,cup of coffee,pizza,rocket,airplane,motorcycle,bicycle,car,person"


def main() -> None:
    folder = Path(skimage.__file__).parent / "data"
    command = ["zsclip", "classify", *PHOTOS, "--labels", LABELS, "--model", "tiny"]
    for output in (["--format", "table", "-k", "2"], ["--format", "jsonl", "-q"]):
        print("$", shlex.join([*command, *output]), flush=True)
        subprocess.run([sys.executable, "-m", *command, *output], cwd=folder, check=True)


if __name__ == "__main__":
    main()
