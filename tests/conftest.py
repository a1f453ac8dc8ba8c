"""What the tests share: a fake with a meaning, small real models, and a cache of their own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numpy as np
import pytest
import torch
from demo import PHOTOS
from huggingface_hub import constants
from PIL import Image
from tiny_models import save_tiny_model

from zsclip.cli.main import main
from zsclip.models.find import find_model
from zsclip.models.spec import ModelSpec
from zsclip.pixels.decode import to_pixels
from zsclip.pixels.fit import Preprocess
from zsclip.words.labels import Label
from zsclip.words.prompts import read_templates
from zsclip.words.words import Words, expand

# Seconds after which a process hangs for certain: on a machine that is busy, one that loads torch may need minutes.
HANGS = 600

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """Embeds a picture as its mean colour and a sentence as the sum of the colours it names."""

    device = "cpu"
    precision = "fp32"
    runtime = "torch"
    batch_size = 4
    in_flight = 0
    is_as_remembered = True
    embed_dim = 3
    logit_scale = 10.0
    logit_bias: float | None = None
    text_recipe = "colours"
    spec = SimpleNamespace(tokenizer=SimpleNamespace(context_length=4))

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def image_recipe(self, fast_jpeg: bool) -> str:
        return f"colours {fast_jpeg}"

    def load(self) -> None:
        pass

    def begin_images(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        means = torch.from_numpy(np.stack(pixels)).float().mean(dim=(2, 3))
        return torch.nn.functional.normalize(means, dim=-1).numpy

    def encode_text(self, prompts: Sequence[str]) -> np.ndarray:
        self.encoded.extend(prompts)
        colours = [
            [sum(COLOURS[word][i] for word in COLOURS if word in prompt) for i in range(3)] for prompt in prompts
        ]
        return torch.nn.functional.normalize(torch.tensor(colours).float() + 1e-3, dim=-1).numpy()

    def token_counts(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt.split()) for prompt in prompts]


def words_of(prompts: Mapping[str, Sequence[str]]) -> Words:
    """Make labels with exactly these prompts."""
    return expand([Label(name, prompts=tuple(own)) for name, own in prompts.items()], read_templates(["{}"]))


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def touch_back(path: Path) -> None:
    """Change a file's content but not its size and time."""
    status = path.stat()
    path.write_bytes(b"ONE")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # ctime still tells


@pytest.fixture
def colour_model() -> ColourModel:
    return ColourModel()


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """A shell in the background, or nohup, makes the tests and all they start ignore Ctrl-C, or a hang-up."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's caches, settings and network."""
    monkeypatch.setenv("ZSCLIP_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("ZSCLIP_MODEL", "ZSCLIP_DEVICE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def make_class_folders(root: Path, labels: Sequence[str], count: int) -> Path:
    """Make a folder of N noisy pictures for each label."""
    random = np.random.default_rng(0)
    for label in labels:
        (root / label).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(root / label / f"{i}.png")
    return root


def wait_for_lines(part: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has written N lines of its rows."""
    while not (part.exists() and part.read_bytes().count(b"\n") == count):
        assert process.poll() is None
        time.sleep(0.01)  # and leave the processor to it


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give a function: kind -> the folder of a small real model, saved once a session."""
    root = tmp_path_factory.mktemp("models")

    def folder(kind: str = "plain") -> Path:
        return root / kind if (root / kind).exists() else save_tiny_model(kind, root / kind)

    return folder


@pytest.fixture
def model(tiny_model: Callable[[str], Path]) -> str:
    """The folder of a small real model."""
    return str(tiny_model("plain"))


@pytest.fixture
def spec(tiny_model: Callable[[str], Path]) -> ModelSpec:
    return find_model(f"local-dir:{tiny_model('plain')}")


@pytest.fixture
def pipe() -> Iterator[tuple[int, BinaryIO]]:
    """Give (read end, write end); the write end is a file that tests may close early."""
    read_fd, write_fd = os.pipe()
    with os.fdopen(write_fd, "wb", buffering=0) as writer:
        yield read_fd, writer
    os.close(read_fd)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a new folder, and the caches are in one beside it."""
    monkeypatch.setenv("ZSCLIP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with red.png, green.png and blue.png, 40 x 30 each."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def views() -> np.ndarray:
    """200 parts of five photographs, as the bundled model sees them. (200, 3, 224, 224) uint8."""
    import skimage

    random = np.random.default_rng(0)
    preprocess = find_model("tiny").preprocess
    photos = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in PHOTOS]

    def part(photo: Image.Image) -> np.ndarray:
        side = random.integers(min(photo.size) // 2, min(photo.size))
        left, top = random.integers(0, photo.width - side), random.integers(0, photo.height - side)
        return to_pixels(photo.crop((left, top, left + side, top + side)), preprocess)

    return np.stack([part(photo) for photo in photos for _ in range(40)])


@contextmanager
def standard_streams(input: bytes, out: BinaryIO, err: BinaryIO) -> Iterator[None]:
    """Put files in the place of the three standard streams of this process, of its descriptors too."""
    with tempfile.TemporaryFile() as given, ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        given.write(input)
        given.seek(0)
        for number, file in enumerate((given, out, err)):
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(file.fileno(), number)
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream = stack.enter_context(open(number, "w", encoding="utf-8", closefd=False))
            patch.setattr(sys, name, stream)
        yield


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Give a function that runs `zsclip ARGUMENTS` in tmp_path, with files as its standard streams.

    It runs in this process, which has loaded torch already; `run_alone` is for what needs a process of its own.
    """

    def zsclip(*arguments: str | Path, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with standard_streams(input, out, err), pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path)
                patch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment at the import, long ago
                code = main([*map(str, arguments)])
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(arguments, code, out.read(), err.read())

    return zsclip


@pytest.fixture
def run_alone(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Give a function that runs `zsclip ARGUMENTS` as a process of its own, in tmp_path, with other variables."""

    def zsclip(*arguments: str | Path, input: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "zsclip", *map(str, arguments)],
            input=input,
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | environment,
            timeout=HANGS,
        )

    return zsclip


def preprocess_for(size: int) -> Preprocess:
    """The settings of a model that takes size x size pixels as they are."""
    return Preprocess(size=(size, size), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
