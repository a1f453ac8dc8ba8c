"""What the text tower is taught: phrases, and for each the direction it should point in."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from directions import ancestor_features, spread_directions
from image_tower import Rows, unit
from numpy.typing import NDArray
from teacher import sentence_vectors
from things import Things, plural_of
from wordnet import SCENES, THINGS, WordNet, key_of

_PICTURED = 40.0  # weight of the meaning that pictures show, where a name has several; the others get 1 or less each


@dataclass(frozen=True)
class Phrases:
    """Phrases of one kind. targets: (P, D), rows of length 1; weights: (P,) how often each is drawn, sum 1."""

    texts: list[str]
    targets: Rows
    weights: NDArray[np.float64]


def teach(
    things: Things, directions: Rows, known: NDArray[np.bool_], wordnet: WordNet, source: Path, work: Path,
    *, held_out: Collection[int] = (),
) -> tuple[Phrases, Phrases, Phrases]:  # fmt: skip
    """Collect the names of what has pictures, all other names in WordNet, and the definitions.

    Args:
        directions: (T, D) of things. known: (T,) whether anything is known of them.
        source: folder of MiniLM. work: where to keep its vectors.
        held_out: ImageNet classes of which no name and no definition may be taught.
    """
    silent = {things.synsets[i] for i in held_out}
    forbidden = {key_of(name) for i in held_out for name in things.names[i]}
    forbidden |= {key_of(name) for synset in silent if synset is not None for name in wordnet.names(synset)}
    meanings = [
        i
        for i, synset in enumerate(wordnet.synsets)
        if not synset.is_instance and synset.file in THINGS | SCENES and i not in silent
    ]
    free = [i for i, synset in enumerate(things.synsets) if synset is None and known[i]]
    vectors = _Vectors(wordnet, [things.names[i][0] for i in free], source, work)
    of_meaning = _directions_of_meanings(things, directions, known, meanings, free, wordnet, vectors)
    place = {synset: row for row, synset in enumerate(meanings)}

    named: dict[str, dict[int, float]] = {}  # phrase -> weight of each meaning (a row of `pool`)
    pool = np.concatenate([of_meaning, directions])
    often: dict[str, float] = {}

    def say(phrase: str, row: int, weight: float, share: float) -> None:
        if key_of(phrase) not in forbidden:
            senses = named.setdefault(phrase, {})
            senses[row] = max(senses.get(row, 0), weight)
            often[phrase] = max(often.get(phrase, 0), share)

    seen = {synset for synset in things.synsets if synset is not None}
    in_data = {*things.of_label.values(), *things.of_kind.values()}
    others: set[str] = set()
    for synset in meanings:
        for name in wordnet.names(synset):
            senses = wordnet.senses.get(key_of(name), [synset])
            rank = senses.index(synset) + 1 if synset in senses else len(senses)
            sight = 1.5 if synset in seen else 1.0
            say(name, place[synset], sight / rank * (1.0 if wordnet.synsets[synset].file in THINGS else 0.3), 1.0)
            others.add(name)
    for i in np.flatnonzero(known):
        synset = things.synsets[i]
        for rank, name in enumerate(things.names[i]):
            say(name, len(of_meaning) + i, _PICTURED, 3.0 if i in in_data and rank == 0 else 2.0)
            say(plural_of(name), len(of_meaning) + i, _PICTURED / 3, 0.7)
        for name in wordnet.names(synset) if synset is not None else ():
            say(name, len(of_meaning) + i, 1.0, 1.5 if i < len(things.true_of_class) else 1.0)
            others.discard(name)
        others.difference_update(things.names[i], map(plural_of, things.names[i]))

    def phrases(texts: list[str]) -> Phrases:
        mixed = [sum(weight * pool[row] for row, weight in named[text].items()) for text in texts]
        weights = np.array([often[text] for text in texts])
        return Phrases(texts, unit(np.stack(mixed)).astype(np.float32), weights / weights.sum())

    known_names = phrases(sorted(set(named) - others))
    other_names = phrases(sorted(others & set(named)))
    glosses = [wordnet.synsets[i].gloss.lower() for i in meanings]
    return known_names, other_names, Phrases(glosses, of_meaning, np.full(len(glosses), 1 / len(glosses)))


class _Vectors:
    """MiniLM's vectors: of names, of definitions, of the names of things that WordNet lacks."""

    def __init__(self, wordnet: WordNet, free: list[str], source: Path, work: Path) -> None:
        wanted = [i for i, one in enumerate(wordnet.synsets) if one.file in THINGS | SCENES and not one.is_instance]
        names = sorted({name for i in wanted for name in wordnet.names(i)})
        rows = {name: i for i, name in enumerate(names)}
        of_names = sentence_vectors(names, source, work, "names")
        glosses = [f"{wordnet.synsets[i].words[0]}: {wordnet.synsets[i].gloss}" for i in wanted]
        self._of_glosses = sentence_vectors(glosses, source, work, "definitions")
        self._of_names = unit(
            np.stack([of_names[[rows[name] for name in wordnet.names(i)]].mean(axis=0) for i in wanted])
        )
        self._row = {synset: row for row, synset in enumerate(wanted)}
        self.of_free = sentence_vectors(free, source, work, "free")

    def of(self, synsets: list[int]) -> tuple[Rows, Rows]:
        """Vectors of names and of definitions, (N, 384) each."""
        rows = [self._row[synset] for synset in synsets]
        return self._of_names[rows], self._of_glosses[rows]


def _directions_of_meanings(
    things: Things, directions: Rows, known: NDArray[np.bool_], meanings: list[int], free: list[int], wordnet: WordNet,
    vectors: _Vectors,
) -> Rows:  # fmt: skip
    """Give every meaning a direction: its own where it has pictures, else what its neighbours in meaning suggest."""
    rooms = set(meanings)
    with_synset = [i for i, synset in enumerate(things.synsets) if synset in rooms and known[i]]
    synsets = [synset for i in with_synset if (synset := things.synsets[i]) is not None]
    features = ancestor_features(wordnet)
    names, glosses = vectors.of(synsets)
    no_ancestors = features[:1].multiply(0).tocsr()[[0] * len(free)]
    seen = (
        np.concatenate([names, vectors.of_free]),
        np.concatenate([glosses, vectors.of_free]),
        sparse.vstack([features[synsets], no_ancestors]).tocsr(),
    )
    rows = spread_directions(directions[with_synset + free], seen, (*vectors.of(meanings), features[meanings]))
    place = {synset: row for row, synset in enumerate(meanings)}
    rows[[place[synset] for synset in synsets]] = directions[with_synset]
    return rows
