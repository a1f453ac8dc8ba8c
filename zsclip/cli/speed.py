"""The options of how a run computes: device, precision and runtime, threads and batches, and what is kept."""

from typing import Annotated

import typer

from zsclip.cli.groups import group
from zsclip.engine.options import Computing, Precision, Runtime, check_device
from zsclip.pixels.limits import DEFAULT_MAX_PIXELS

MAX_PIXELS = typer.Option(
    "--max-pixels", metavar="N", min=1, help="Refuse images with more pixels.", rich_help_panel="Input"
)


@group("Speed")
class Device:
    """The device of the model, and the number of decoding threads."""

    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="DEVICE",
            envvar="ZSCLIP_DEVICE",
            help="Compute on this device: auto, cpu, cuda, cuda:N or mps.",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(
            "-j", "--threads", metavar="N", min=1, help="Decode images on N threads; by default, one for each core."
        ),
    ] = None

    def __post_init__(self) -> None:
        check_device(self.device)


@group("Speed")
class Speed(Device, Computing):
    """How pictures are decoded and encoded."""

    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            metavar="NAME",
            help="Encode images in fp32, bf16, fp16 or int8 (see `zsclip models export`); auto takes fp16 on CUDA, and "
            "bf16 on a CPU that supports it.",
        ),
    ] = "auto"
    runtime: Annotated[
        Runtime,
        typer.Option(
            "--runtime",
            metavar="NAME",
            help="Run the model in torch or onnx (ONNX Runtime on the CPU); auto takes onnx for tiny, and for models "
            "that `zsclip models export` has prepared, unless you ask for what only torch has.",
        ),
    ] = "auto"
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the model first. This takes a minute and helps some long runs on a GPU."
        ),
    ] = False
    batch_size: Annotated[str, typer.Option("--batch-size", metavar="auto|N", help="Encode N images at a time.")] = (
        "auto"
    )
    max_pixels: Annotated[int, MAX_PIXELS] = DEFAULT_MAX_PIXELS
    fast_jpeg: Annotated[
        bool,
        typer.Option(
            "--fast-jpeg", help="Decode large JPEG files at a reduced size, at least three times what the model needs."
        ),
    ] = False

    def __post_init__(self) -> None:
        Computing.__post_init__(self)


@group("Speed")
class InTorch(Device):
    """How pictures are decoded and encoded by a command that looks into the model, in fp32."""

    max_pixels: Annotated[int, MAX_PIXELS] = DEFAULT_MAX_PIXELS

    @property
    def speed(self) -> Speed:
        """The same as for other commands."""
        return Speed(
            device=self.device, threads=self.threads, precision="fp32", runtime="torch", max_pixels=self.max_pixels
        )


@group("Speed")
class Store:
    """Whether embeddings are kept."""

    no_store: Annotated[
        bool, typer.Option("--no-store", help="Encode every image again, and keep no embeddings of images.")
    ] = False
