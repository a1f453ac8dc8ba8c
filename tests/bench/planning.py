"""Plan a run over 100,000 archives, as `-o FOLDER/` does, and look at as many finished parts: seconds and memory.

No archive is opened, so they are empty; and all parts are the same.

python tests/bench/planning.py
"""

import os
import resource
import tempfile
import time
from collections.abc import Sequence

import numpy as np

from zsclip.answers.answers import Answers
from zsclip.engine.footers import Footers
from zsclip.engine.shards import Finding, plan
from zsclip.out.parquet import Layout, write_parquet
from zsclip.pictures.passed_over import PassedOver

LINKS = 10_000  # to a file; file systems have a limit
SHARDS = 100_000  # of 10,000 pictures each: a billion rows


def main() -> None:
    """Make the files, and plan."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SHARDS):
            with open(os.path.join(folder, f"shard-{number:06}.tar"), "w"):
                pass
        begun = time.perf_counter()
        planned = plan(Finding((f"{folder}/shard-{{000000..{SHARDS - 1:06}}}.tar",), 10_000), PassedOver())
        seconds = time.perf_counter() - begun
        assert len(planned.shards) == SHARDS
        print(f"{SHARDS:,} shards planned in {seconds:.1f} s; {megabytes():,.0f} MB in all")
        paths = [os.path.join(folder, f"{shard.name}.parquet") for shard in planned.shards]
        write_parts(paths)
        footers, begun = Footers(), time.perf_counter()
        footers.read_ahead(paths)
        seconds = time.perf_counter() - begun
        assert footers.of(paths[-1]) is not None
    print(f"{SHARDS:,} finished parts looked at in {seconds:.1f} s; {megabytes():,.0f} MB in all")


def megabytes() -> float:
    """Give the most memory that was in use so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def write_parts(paths: Sequence[str]) -> None:
    """Write a part with 1,000 labels, under many names."""
    about = {"version": 1, "settings": {"labels": {"is": [f"label {i}" for i in range(1000)], "digest": "0"}}}
    about["shard"] = {"path": "shard.tar", "size": 1, "changed": 1}
    column, one = np.zeros((1, 1), np.int32), np.ones((1, 1), np.float32)
    row = Answers(["a.jpg"], ("label 0",), column, one, one, column[0], "softmax")
    for start in range(0, len(paths), LINKS):
        with open(paths[start], "w") as out:
            write_parquet([row], out, layout=Layout(about=about), end=lambda: {"images": 0, "failed": {}})
        for path in paths[start + 1 : start + LINKS]:
            os.link(paths[start], path)


if __name__ == "__main__":
    main()
