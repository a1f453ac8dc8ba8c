"""A head: a classifier made of words and examples together, and all that is needed to use it or to learn more."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsclip.answers.classifier import Classifier
from zsclip.answers.scores import Matrix
from zsclip.kept.cache import fingerprint
from zsclip.words.labels import Label
from zsclip.words.prompts import PromptSet


@dataclass(frozen=True, eq=False)
class Head:
    """C labels and what decides between them.

    words, sentences: the labels, and the prompts they were put into. model, made_with: the name of the model, and what
    the head is valid for, in words for messages. logit_scale: multiplies what the weights and biases give; the
    temperature is in it.
    class_embeddings: (C, D) float32, rows of length 1: the words of each label, or the mean of its examples where it
    has no words. weights: (C, D) float32, any length. biases: (C,) float32.
    vectors, truth: (N, D) float32 and (N,) int32, the examples and their labels, from which it can be learnt again.
    about: how it was learnt and how good it is, as JSON-like values.
    """

    words: tuple[Label, ...]
    sentences: PromptSet
    model: str
    made_with: Mapping[str, str]
    logit_scale: float
    class_embeddings: Matrix
    weights: Matrix
    biases: NDArray[np.float32]
    vectors: Matrix
    truth: NDArray[np.int32]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that changes an answer."""
        digest = hashlib.sha256()
        for array in (self.class_embeddings, self.weights, self.biases):
            digest.update(np.ascontiguousarray(array).data)
        return fingerprint([asdict(label) for label in self.words], self.logit_scale, digest.hexdigest())

    def classifier(self, groups: Sequence[str] | None = None) -> Classifier:
        """Give what classifies.

        Args:
            groups: C names, the group that each label is reported as; None reports labels.
        """
        return Classifier(
            labels=tuple(label.name for label in self.words),
            class_embeddings=self.class_embeddings,
            neutral_embedding=None,
            logit_scale=self.logit_scale,
            logit_bias=None,
            cut=(),
            groups=None if groups is None else tuple(groups),
            weights=self.weights,
            biases=self.biases,
        )
