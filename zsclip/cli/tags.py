"""Options of `zsclip apply` about tags."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsclip.cli.groups import group
from zsclip.errors import InputError

if TYPE_CHECKING:
    from zsclip.out.tagplan import Tagging


@group("Tags")
class Tags:
    """Which files get tags, and how those are named."""

    tag: Annotated[
        Literal["xmp", "exiftool"] | None,
        typer.Option(
            "--tag",
            metavar="xmp|exiftool",
            help="Write labels as tags (keywords): into a sidecar beside the image, or into the image with exiftool, "
            "which keeps it as it was in IMAGE_original. Tags of others stay; those of earlier runs are replaced.",
        ),
    ] = None
    sidecar: Annotated[
        Literal["digikam", "adobe"] | None,
        typer.Option(
            "--sidecar",
            metavar="digikam|adobe",
            help="With --tag xmp, write a.jpg.xmp, as digiKam, darktable and Immich do (default), or a.xmp.",
        ),
    ] = None
    labels_file: Annotated[
        str | None,
        typer.Option(
            "--labels-file",
            metavar="FILE",
            help="With --tag, put labels below their groups in this file, as in animal|dog.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.sidecar is not None and self.tag != "xmp":
            raise InputError("--sidecar: only with --tag xmp, as nothing else writes sidecars")
        if self.labels_file is not None and self.tag is None:
            raise InputError("--labels-file: only with --tag, which needs the groups of labels")

    def tagging(self, min_score: float | None) -> "Tagging":
        """Check that exiftool is there if it is needed, read the groups of labels, and give what is to be done."""
        from zsclip.out.exiftool import find_exiftool
        from zsclip.out.tagplan import Tagging

        if self.tag == "exiftool":
            find_exiftool()
        return Tagging(self.tag == "exiftool", self.sidecar == "adobe", self._groups(), min_score)

    def _groups(self) -> dict[str, str]:
        if self.labels_file is None:
            return {}
        from zsclip.words.labels import read_labels

        groups = {each.name: each.group for each in read_labels(files=[self.labels_file], alone=True) if each.group}
        if not groups:
            raise InputError(f"--labels-file {self.labels_file}: no label has a group; write `dog: {{group: animal}}`")
        return groups
