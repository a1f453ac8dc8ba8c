"""zsclip from Python: the same options, caches and answers as `zsclip classify`. Notes are warnings."""

import io
import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsclip.answers import answers
from zsclip.answers.answers import Row, joined
from zsclip.answers.classifier import Classifier as TextMatrix
from zsclip.answers.classifier import notes
from zsclip.answers.classify import answer, classify
from zsclip.engine.learning import learn_from
from zsclip.engine.options import By, Computing, Precision, Runtime, Scoring, model_name, variable
from zsclip.engine.question import answering_all, classifier_of, read_question, read_teachers, rule_of
from zsclip.engine.run import embedding, network_of, opened_store
from zsclip.errors import InputError
from zsclip.kept.contents import FRAME_TIMES
from zsclip.models.embed import Embedded
from zsclip.out import frames
from zsclip.out.notebook import SHOWN, html_table
from zsclip.out.thumbnails import HEIGHT, WIDTH
from zsclip.pictures.containers import archive_of, expand_braces, is_container
from zsclip.pictures.files import find_images
from zsclip.pictures.in_memory import InMemory, as_ppm
from zsclip.pictures.listed import with_listed
from zsclip.pictures.pictures import Pictures, pictures_named
from zsclip.pictures.remote import Network
from zsclip.pictures.sampling import Sampling, sampling_of
from zsclip.pictures.urls import is_remote
from zsclip.pixels.colours import has_other_colours, in_srgb
from zsclip.pixels.decode import as_seen
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS
from zsclip.words.labels import labels_of
from zsclip.words.prompts import read_prompts, read_templates

AnyPath = str | os.PathLike[str]
InMemoryPicture = Image.Image | NDArray[np.uint8] | bytes
_FLAG = re.compile("--([a-z][a-z-]+)")
# Flags whose argument has another name or form, as an error should write them.
_ARGUMENTS = {
    "template": "templates", "label": "labels", "labels-file": "labels file", "per-label": "--per-label",
    "multi-label": "multi_label=True", "none-of-these": "none_of_these=True", "transductive": "transductive=True",
}  # fmt: skip
_CALLER = 5  # frames up from where the text matrix is made, the user calls a classifier
_TOGETHER = 512  # paths, looked up in the store at once


@dataclass(frozen=True, eq=False, repr=False)
class Answers(answers.Answers):
    """The answers for n pictures: a sequence of records, the same in columns, and in a notebook a table of thumbnails.

    scores: (n, k), best first, of the candidates; NaN where a picture failed. labels: n, the answer for each picture.
    pictures: what the answers are about, for the thumbnails; the first few in-memory pictures are kept as small copies.
    """

    pictures: Pictures = field(default_factory=lambda: Pictures(()))

    def take(self, places: NDArray[np.int64]) -> Self:
        """Take some of the pictures, in the order of the places."""
        read, taken = self.pictures.read, places.tolist()
        pictures = Pictures([self.names[place] for place in taken], read and (lambda place: read(taken[place])))
        return replace(super().take(places), pictures=pictures)

    def to_pandas(self) -> Any:
        """Give a pandas.DataFrame with the columns of the command line's JSON lines."""
        return frames.to_pandas(self)

    def to_arrow(self) -> Any:
        """Give a pyarrow.Table with the columns of the command line's JSON lines."""
        return frames.to_arrow(self)

    def _repr_html_(self) -> str:
        return html_table(self, self.pictures)


class Classifier:
    """Gives every picture the label that fits it best, as `zsclip classify` does.

    Options have the command line's names, defaults and checks. They are checked at once; the model is loaded for the
    first picture or label that is not stored. The first call warns of labels and prompts that may not be meant.

    Args:
        labels: words; a mapping of each label to its prompts, or to `name`, `synonyms`, `prompts` and `group`; the path
            of a labels file; or the name of a built-in list. A head or a calibration brings its own, and examples add
            theirs.
        model: by default the one in ZSCLIP_MODEL, else the head's or the calibration's, else `base`.
        head: what `zsclip learn` wrote. examples: labelled pictures to learn from at the first call: the path of a
            folder with one folder for each label, or of other data that `zsclip learn` takes; or several.
        expect: how often labels occur in each call: `balanced`, `few`, or a file of shares; not for a single picture.
        prompts: by default the calibration's, else `photo`. templates: sentences with one {} each, instead of a set.
        device: by default the one in ZSCLIP_DEVICE, else `auto`.
        transductive: whether all pictures of a call inform each answer, in a second pass.
        store: whether embeddings are kept on disk, and looked up there.
        every: which frames of videos are taken: of every `"1s"` (the default), or every Nth one. Videos in folders are
            read, too. keyframes: their key frames. frames: animated GIF, PNG and WebP files count as videos.

    Raises:
        InputError: a label or an option is wrong. ModelError: the model is not available.
    """

    def __init__(
        self,
        labels: Iterable[str] | Mapping[str, Any] | AnyPath | None = None,
        *,
        model: AnyPath | None = None,
        prompts: AnyPath | None = None,
        templates: str | Sequence[str] | None = None,
        device: str | None = None,
        precision: Precision = "auto",
        runtime: Runtime = "auto",
        batch_size: int | Literal["auto"] = "auto",
        threads: int | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        multi_label: bool = False,
        by: By = "label",
        none_of_these: bool = False,
        distractors: AnyPath | None = None,
        calibration: AnyPath | None = None,
        head: AnyPath | None = None,
        examples: AnyPath | Sequence[AnyPath] = (),
        expect: AnyPath | None = None,
        transductive: bool = False,
        offline: bool = False,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        fast_jpeg: bool = False,
        store: bool = True,
        every: str | int | None = None,
        keyframes: bool = False,
        frames: bool = False,
    ) -> None:
        given = [templates] if isinstance(templates, str) else list(templates or ())
        with _arguments_named():
            scores = Scoring(
                top_k, threshold, multi_label, by, none_of_these,
                None if distractors is None else os.fsdecode(distractors),
                None if calibration is None else os.fsdecode(calibration),
                head=None if head is None else os.fsdecode(head), transductive=transductive,
                examples=_paths(examples), expect=None if expect is None else os.fsdecode(expect),
            )  # fmt: skip
            self._computing = Computing(
                device or variable("ZSCLIP_DEVICE") or "auto", threads, precision,
                batch_size=str(batch_size), max_pixels=max_pixels, fast_jpeg=fast_jpeg, runtime=runtime,
            )  # fmt: skip
            self._sampling = sampling_of(
                None if every is None else str(every), keyframes=keyframes, animations=frames, max_pixels=max_pixels,
                kept=FRAME_TIMES if store else None,
            )  # fmt: skip
            sentences = read_templates(given) if given else None
            if not given and prompts is not None:
                sentences = read_prompts(os.fsdecode(prompts))
            words = None if labels is None else labels_of(labels, alone=scores.one_is_enough)
            teachers = read_teachers(scores, network=network_of(offline=offline))
            self._question = read_question(words, sentences, scores, teachers)
            self._store, self._offline = store, offline
            given_model = os.fsdecode(model or variable("ZSCLIP_MODEL") or "")
            self._model = model_name(given_model) or self._question.model or "base"
            self._encoder = self._computing.encoder(self._model, offline)
            self._rule = rule_of(self._question, self._encoder)

    @overload
    def __call__(self, pictures: AnyPath) -> Any: ...

    @overload
    def __call__(self, pictures: InMemoryPicture) -> Row: ...  # type: ignore[overload-overlap]  # bytes iterate too

    @overload
    def __call__(self, pictures: Iterable[AnyPath | InMemoryPicture]) -> Answers: ...

    def __call__(self, pictures: Any) -> Any:
        """Classify pictures: paths, PIL images, (H, W, 3) uint8 arrays, or the bytes of encoded pictures.

        Args:
            pictures: one of them, or any iterable of them. A URL is a path, too. A folder is walked, an archive, a
                Parquet file, a video or a list entered, and a glob expanded, as on the command line; in an iterable,
                braces such as {000..127} are expanded, but globs are taken as they are.

        Returns:
            One record for one picture; Answers, in order, for everything else. A picture that could not
            be read is a record with `error` and `message`, and no label.

        Raises:
            InputError: a single path does not exist, or something is not a picture.
        """
        network = network_of(offline=self._offline)
        if isinstance(pictures, str | os.PathLike):
            path = os.fsdecode(pictures)
            if path == "-":
                raise InputError("'-': paths are read from stdin on the command line only; give them as a list")
            with closing(find_images([path], sampling=self._sampling, network=network)) as paths:
                found = self._answers(paths.rest(), {})
            is_far = is_remote(path) and not network.is_folder(path) and len(found) == 1
            is_there = is_far or os.path.lexists(path) or archive_of(path)
            is_one = bool(is_there) and not os.path.isdir(path) and not is_container(path, self._sampling)
            self._check_several(is_one)
            return found[0] if is_one else found
        kept: dict[int, bytes] = {}
        self._check_several(_is_one(pictures))
        with ExitStack() as stack:
            source = InMemory(most=2 * self._computing.cpus)
            stack.callback(source.close)
            if _is_one(pictures):
                return self._answers(_found([pictures], source, kept, network, self._sampling, most=0), kept)[0]
            # A file opened in binary mode would yield its lines.
            if not isinstance(pictures, Iterable) or hasattr(pictures, "read"):
                raise _not_a_picture("pictures", pictures)
            found_there = _found(pictures, source, kept, network, self._sampling, most=SHOWN)
            listed = with_listed(found_there, None, network, max_pixels=self._sampling.max_pixels)
            return self._answers(listed, kept)

    def _answers(self, pictures: Iterable[Pictures], kept: Mapping[int, bytes]) -> Answers:
        with ExitStack() as stack:
            # tqdm, which timm imports with the first model, warns in a notebook that has no ipywidgets.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="IProgress not found")
            self._learn()  # before the first picture is decoded
            store = stack.enter_context(opened_store(self._encoder, self._computing, is_wanted=self._store))
            batches = stack.enter_context(embedding(pictures, self._encoder, store, self._computing))
            matrix = self._matrix
            if self._question.scores.needs_all is not None:
                every = list(batches)
                matrix = answering_all(self._question, matrix, every)
                batches = iter(every)
            parts = list(classify(batches, matrix, self._rule)) or [self._none(matrix)]
        whole = joined(parts)
        names, with_paths = whole.names, pictures_named(whole.names)

        def read(place: int) -> bytes:
            if place in kept:
                return kept[place]
            with with_paths.open(place) as file:
                return file.read()

        return Answers(**vars(whole), pictures=Pictures(names, read))

    @cached_property
    def _matrix(self) -> TextMatrix:
        """The text matrix or the head, made at the first call."""
        asked = self._question
        matrix = classifier_of(asked, self._encoder)
        for note in notes(asked.words, matrix.cut, self._encoder) if asked.head is None else ():
            warnings.warn(_with_arguments(note), stacklevel=_CALLER)
        return matrix

    def _check_several(self, is_one: bool) -> None:
        if is_one and self._question.scores.expect is not None:
            raise InputError("expect: corrects for the labels of all images together; give a folder or a list of them")

    def _learn(self) -> None:
        """Learn from the examples of the question, if there are any left."""
        asked = self._question
        if asked.examples is None:
            return
        warn = partial(warnings.warn, stacklevel=_CALLER)
        with (
            opened_store(self._encoder, self._computing, is_wanted=self._store) as store,
            embedding(asked.examples.pictures, self._encoder, store, self._computing) as embedded,
        ):
            self._question, _ = learn_from(asked, embedded, self._encoder, self._model, note=warn)

    def _none(self, matrix: TextMatrix) -> answers.Answers:
        """The answers for no picture."""
        vectors = np.empty((0, self._encoder.embed_dim), np.float32)
        return answer(Embedded([], np.empty(0, np.int32), vectors, {}), matrix, self._rule)


@contextmanager
def _arguments_named() -> Iterator[None]:
    """Let an error name arguments instead of the command line's flags."""
    try:
        yield
    except InputError as e:
        raise InputError(_with_arguments(str(e))) from e


def _with_arguments(message: str) -> str:
    return _FLAG.sub(lambda found: _ARGUMENTS.get(found[1], found[1].replace("-", "_")), message)


def _found(
    given: Iterable[Any],
    source: InMemory,
    kept: dict[int, bytes],
    network: Network,
    sampling: Sampling,
    *,
    most: int,
) -> Iterator[Pictures]:
    """Yield pictures as they are given, files together.

    Args:
        kept: takes small copies of pictures in memory, for the thumbnails, by their index among all answers.
        most: keep copies only of pictures before this index.
    """
    files: list[str] = []
    locks: dict[int, threading.Lock] = {}  # by id: a PIL image that is given twice is loaded once
    count = 0
    for number, item in _expanded(given):
        is_path = isinstance(item, str | os.PathLike)
        path = os.fsdecode(item) if is_path else ""
        holds_some = is_path and (os.path.isdir(path) or is_container(path, sampling))
        if is_path and not holds_some:
            files.append(path)
        if files and (not is_path or holds_some or len(files) == _TOGETHER):
            yield Pictures(files)
            count, files = count + len(files), []
        if holds_some:
            with closing(find_images([path], sampling=sampling, network=network)) as paths:
                for some in paths.rest():
                    yield some
                    count += len(some)
        elif not is_path:
            name = f"pictures[{number}]"
            _check(name, item)
            place = count if count < most else None
            yield source.hand_on(name, partial(_encoded, item, locks, kept, place))
            count += 1
    if files:
        yield Pictures(files)


def _expanded(given: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Number what is given; a path with braces stands for several, as it does alone."""
    for number, item in enumerate(given):
        is_path = isinstance(item, str | os.PathLike)
        path = os.fsdecode(item) if is_path else ""
        several = "{" in path and not os.path.lexists(path)
        for each in expand_braces(path) if several else [item]:
            yield number, each


def _encoded(item: Any, locks: dict[int, threading.Lock], kept: dict[int, bytes], place: int | None) -> bytes:
    """Encode a picture in memory without loss; if `place` is given, put a small copy into `kept` there."""
    if not isinstance(item, Image.Image | np.ndarray):
        data = small = bytes(item)
    elif isinstance(item, np.ndarray):
        data = small = as_ppm(item)
        if place is not None:
            small = _small(Image.fromarray(item))
    else:
        with locks.setdefault(id(item), threading.Lock()):
            image = as_seen(item)
            data = small = _with_profile(image) if has_other_colours(image) else as_ppm(np.asarray(image))
            if place is not None:
                small = _small(image)
    if place is not None:
        kept[place] = small
    return data


def _small(image: Image.Image) -> bytes:
    """Reduce a picture to about twice the size of a thumbnail."""
    factor = max(1, min(image.width // WIDTH, image.height // HEIGHT))
    return as_ppm(np.asarray(in_srgb(image.reduce(factor))))


def _with_profile(image: Image.Image) -> bytes:
    """Write a picture and its colour profile, by which it is converted once it is small."""
    file = io.BytesIO()
    image.save(file, "TIFF", icc_profile=image.info.get("icc_profile"))
    return file.getvalue()


def _paths(given: Any) -> list[str]:
    """Give the paths among one or several."""
    return [os.fsdecode(each) for each in ([given] if isinstance(given, str | os.PathLike) else given)]


def _is_one(pictures: Any) -> bool:
    return isinstance(pictures, Image.Image | np.ndarray | bytes | bytearray | memoryview)


def _check(name: str, item: Any) -> None:
    """Refuse what is not a picture."""
    if not _is_one(item):
        raise _not_a_picture(name, item)
    if isinstance(item, np.ndarray) and (
        item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size
    ):
        raise InputError(f"{name}: an array of {item.dtype} {item.shape}; give (H, W, 3) uint8, or a list of those")


def _not_a_picture(name: str, item: Any) -> InputError:
    kind = type(item).__name__
    return InputError(
        f"{name}: is of type {kind}; give a path, PIL image, (H, W, 3) uint8 array, or bytes, or a list of these"
    )
