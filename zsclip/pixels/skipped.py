"""A picture without pixels, and why."""

from dataclasses import dataclass

from zsclip.pictures.refused import ErrorKind


@dataclass(frozen=True)
class Skipped:
    """An image that could not be classified, and why, in one line; with the names of the keys of a JSON line."""

    file_name: str
    error: ErrorKind
    message: str
    truth: str | None = None

    @property
    def label(self) -> None:
        """No answer."""

    @property
    def score(self) -> None:
        """No score."""

    @property
    def cosine(self) -> None:
        """No similarity."""

    @property
    def score_kind(self) -> None:
        """No score of any kind."""

    @property
    def beaten_by(self) -> None:
        """No distractor."""

    @property
    def predictions(self) -> tuple[()]:
        """No labels."""
        return ()
