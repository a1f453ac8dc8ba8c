"""Two one-core actors of Ray against one one-core process, and what Ray costs before the first image.

    python tests/bench/actors.py [IMAGES]

Both run `zsclip classify ... --no-store` with `tiny` over the same generated photographs, each process held to one
core. A run over two images takes what is fixed, so that the rates are those of the rest.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 2000
SHARDS = 20
SIDE = 500  # pixels


def main() -> None:
    """Make the photographs, time the runs, and print the ratio."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "photos").mkdir()
        random = np.random.default_rng(0)
        for number in range(images):
            small = Image.fromarray(random.integers(0, 256, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8))
            small.resize((SIDE, SIDE)).save(root / "photos" / f"{number:06}.jpg")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
        fixed = timed(root, "local", 2), timed(root, "local", images)
        os.sched_setaffinity(0, range(os.cpu_count() or 2))
        on_ray = timed(root, "ray", 2), timed(root, "ray", images)
    rates = [(images - 2) / (whole - start) for start, whole in (fixed, on_ray)]
    print(f"one process of one core: {fixed[0]:.1f} s to start, then {rates[0]:.1f} images a second")
    print(f"two actors of one core: {on_ray[0]:.1f} s to start, then {rates[1]:.1f} images a second")
    print(f"{rates[1] / rates[0]:.2f}x; Ray's fixed cost is {on_ray[0] - fixed[0]:.1f} s")


def timed(root: Path, engine: str, images: int) -> float:
    """Run over some images on an engine, and give the seconds it took."""
    command = [
        sys.executable, "-m", "zsclip", "classify", "photos", "-l", "cat,dog,bird", "-m", "tiny", "--no-store", "-q",
        "-o", f"{engine}-{images}/", "--shard-size", str(max(1, images // SHARDS)), "-n", str(images), "-j", "1",
        "--engine", engine,
    ]  # fmt: skip
    begun = time.perf_counter()
    subprocess.run(command, cwd=root, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
