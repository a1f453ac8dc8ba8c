"""What a run produces: one record per image, in input order."""

from dataclasses import dataclass
from typing import Literal

from zsclip.pixels.skipped import Skipped

ScoreKind = Literal["softmax", "sigmoid", "versus-neutral", "calibrated"]


@dataclass(frozen=True)
class Candidate:
    """One label offered for an image.

    score: a probability in [0, 1]; cosine: the raw similarity in [-1, 1].
    """

    label: str
    score: float
    cosine: float


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    path: as it was given, undecodable bytes as surrogate escapes (`os.fsdecode`).
    label: the answer, or None when the best score is under the threshold, or a distractor is better.
    best: the best candidate, whether or not it is the answer.
    candidates: best first; the k best, or for independent scores those over the threshold (may be empty).
    truth: the label that is known to be right, where pictures are labelled.
    beaten_by: the distractor that is better than every label; None where there is none.
    """

    path: str
    label: str | None
    best: Candidate
    candidates: tuple[Candidate, ...]
    score_kind: ScoreKind
    truth: str | None = None
    beaten_by: str | None = None


Row = Prediction | Skipped
