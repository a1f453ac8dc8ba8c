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
            help="Write labels as tags (keywords): into XMP sidecars, or into images with exiftool.",
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
    groups: Annotated[
        str | None,
        typer.Option(
            "--groups",
            metavar="FILE",
            help="With --tag, put labels below the groups that they have in this labels file, as in animal|mammal|dog.",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.sidecar is not None and self.tag != "xmp":
            raise InputError("--sidecar: only with --tag xmp, as nothing else writes sidecars")
        if self.groups is not None and self.tag is None:
            raise InputError("--groups: only with --tag, which writes them")

    def tagging(self, min_score: float | None) -> "Tagging":
        """Check that exiftool is there if it is needed, read the groups of labels, and give what is to be done."""
        from zsclip.out.exiftool import find_exiftool
        from zsclip.out.tagplan import Tagging

        if self.tag == "exiftool":
            find_exiftool()
        return Tagging(self.tag == "exiftool", self.sidecar == "adobe", self._groups(), min_score)

    def _groups(self) -> dict[str, str]:
        if self.groups is None:
            return {}
        from unicodedata import normalize

        from zsclip.words.labels import read_labels

        labels = read_labels(files=[self.groups], alone=True)
        groups = {normalize("NFC", each.name): each.group for each in labels if each.group}
        groups = {normalize("NFC", group): group for group in groups.values()} | groups  # answers of --by group
        if not groups:
            raise InputError(f"--groups {self.groups}: no label has a group; write `dog: {{group: animal}}`")
        return groups
