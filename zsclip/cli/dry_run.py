"""`zsclip classify --dry-run`: what would run, and how long it would take."""

from typing import TYPE_CHECKING

import typer

from zsclip.cli.progress import Progress
from zsclip.cli.speed import Speed
from zsclip.cli.terminal import counted, duration

if TYPE_CHECKING:
    from zsclip.engine.estimate import Left
    from zsclip.engine.footers import Footers
    from zsclip.engine.part_files import Run
    from zsclip.engine.shards import Plan
    from zsclip.models.encoder import Encoder
    from zsclip.pictures.pictures import Paths

_SECONDS = 2.0  # of timing


def report_run_ahead(what: str, left: "Left", encoder: "Encoder", speed: Speed, progress: Progress) -> int:
    """Time a sample, and say how many images a run has and how long they take.

    Args:
        what: is said before the number of images.

    Returns:
        The exit code.
    """
    about = "about " if left.is_estimated else ""
    lines = [f"{what}{about}{counted(left.images, 'image')}"]
    if left.sample:
        progress.step(f"loading {encoder.spec.name}")
        from zsclip.measure.bench import time_stream

        encoder.load()
        progress.step("timing some images")
        size = speed.size or encoder.batch_size
        rate = time_stream(left.sample, encoder, speed.cpus, size, speed.decoding, _SECONDS)
        lines.append(
            f"{rate:,.0f} a second on this machine: about {duration(left.images / rate)}, less if embeddings are stored"
        )
    progress.stop()
    typer.echo("\n".join(lines))
    return 0


def report_file_ahead(paths: "Paths", encoder: "Encoder", speed: Speed, progress: Progress) -> int:
    """Find all images, and say how many a run has and how long they take."""
    from zsclip.engine.estimate import left_in

    return report_run_ahead("", left_in(paths), encoder, speed, progress)


def left_of(run: "Run", plan: "Plan", encoder: "Encoder", footers: "Footers") -> "tuple[str, Left]":
    """Look which parts are complete; say how many, and give what is left."""
    from zsclip.engine.estimate import left_in_shards
    from zsclip.engine.parts import Parts

    parts = Parts(run, plan.loose, encoder, lambda note: None, footers)
    parts.check(is_dry=True)
    todo = [shard for shard in parts.asked_ahead(plan.shards) if parts.complete(shard) is None]
    complete = len(plan.shards) - len(todo)
    said = f"{counted(len(plan.shards), 'shard')}, {complete:,} complete; left: "
    return said, left_in_shards(todo, run.finding)
