"""Options about videos."""

from typing import TYPE_CHECKING, Annotated

import typer

from zsclip.cli.groups import group

if TYPE_CHECKING:
    from zsclip.pictures.sampling import Sampling


@group("Input")
class Video:
    """Which frames of videos are taken."""

    every: Annotated[
        str | None,
        typer.Option(
            "--every",
            metavar="1s|N",
            help="Take a frame of a video for every second (the default), 500ms, 2min, or every Nth frame. Videos in "
            "folders are read, too.",
        ),
    ] = None
    keyframes: Annotated[bool, typer.Option("--keyframes", help="Take the key frames of videos; this is faster.")] = (
        False
    )
    frames: Annotated[bool, typer.Option("--frames", help="Treat animated GIF, PNG and WebP files as videos.")] = False

    def sampling(self, max_pixels: int, *, is_kept: bool) -> "Sampling":
        """Check the options, and give the rule by which frames are taken.

        Args:
            is_kept: whether the times of frames are kept on disk.
        """
        from zsclip.kept.contents import FRAME_TIMES
        from zsclip.pictures.sampling import sampling_of

        return sampling_of(
            self.every, keyframes=self.keyframes, animations=self.frames, max_pixels=max_pixels,
            kept=FRAME_TIMES if is_kept else None,
        )  # fmt: skip
