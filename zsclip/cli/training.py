"""`zsclip train`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zsclip.cli.options import (
    DeviceOption,
    OfflineOption,
    Precision,
    PromptsOption,
    QuietOption,
    ThreadsOption,
    check_device,
    set_environment,
)
from zsclip.cli.run import notes, shows_progress
from zsclip.cli.terminal import training_report


def train(
    data: Annotated[
        list[str], typer.Argument(metavar="DATA", help="Parquet shards, class folders, CSV of path,caption.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The model, and the checkpoint to go on from.")],
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="FILE|NAME", help="Begin from nothing with this.")
    ] = None,
    init: Annotated[str | None, typer.Option("--init", metavar="MODEL", help="Begin from this model.")] = None,
    lock_image: Annotated[
        bool, typer.Option("--lock-image", help="Leave the image tower as it is; encode each picture once.")
    ] = False,
    lock_text: Annotated[bool, typer.Option("--lock-text", help="Leave the text tower as it is.")] = False,
    prompts: PromptsOption = "general",
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=2, help="Pairs compared at once.")] = 256,
    accumulate: Annotated[
        int, typer.Option("--accumulate", metavar="N", min=1, help="Parts of a batch in memory.")
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", metavar="X", help="After warm-up. Default: 1e-3, with --init 1e-5."),
    ] = None,
    weight_decay: Annotated[float, typer.Option("--weight-decay", metavar="X", help="Of matrices only.")] = 0.1,
    warmup: Annotated[float, typer.Option("--warmup", metavar="SHARE", help="Of all steps.")] = 0.05,
    precision: Annotated[Precision, typer.Option("--precision", help="auto: bf16 if the device has it.")] = "auto",
    average: Annotated[
        float, typer.Option("--average", metavar="SHARE", help="Keep a running average of the weights, as 0.999.")
    ] = 0.0,
    start_size: Annotated[
        int, typer.Option("--start-size", metavar="PIXELS", min=0, help="Begin with pictures this small, and grow.")
    ] = 0,
    synonyms: Annotated[float, typer.Option("--synonyms", metavar="SHARE", help="Captions with a synonym.")] = 0.2,
    kinds: Annotated[float, typer.Option("--kinds", metavar="SHARE", help="Captions with a broader word.")] = 0.2,
    kinds_are_true: Annotated[
        bool, typer.Option("--kinds-are-true", help="A broader word is not held against pictures it is true of.")
    ] = False,
    across: Annotated[
        float,
        typer.Option("--across", metavar="WEIGHT", help="Of captions whose word its source does not have."),
    ] = 1.0,
    all_labels: Annotated[
        bool, typer.Option("--all-labels", help="Compare pictures with all labels, not only with those of their batch.")
    ] = False,
    crop_scale: Annotated[
        float, typer.Option("--crop-scale", metavar="SHARE", help="Least part of a picture that is kept.")
    ] = 0.35,
    colour: Annotated[
        float, typer.Option("--colour", metavar="SHARE", help="How far brightness, contrast and tint stray.")
    ] = 0.2,
    blur: Annotated[
        float, typer.Option("--blur", metavar="SHARE", help="Pictures scaled down first: sharpness tells nothing.")
    ] = 0.0,
    sharpen: Annotated[
        float, typer.Option("--sharpen", metavar="SHARE", help="Pictures made crisper, for the same reason.")
    ] = 0.0,
    chroma: Annotated[
        float, typer.Option("--chroma", metavar="SHARE", help="Pictures with softer or crisper colours.")
    ] = 0.0,
    saturation: Annotated[
        float, typer.Option("--saturation", metavar="SHARE", help="Pictures with paler or stronger colours.")
    ] = 0.0,
    holdout: Annotated[
        int | None,
        typer.Option(
            "--holdout",
            metavar="N",
            min=0,
            help="Keep every Nth pair aside to measure on; 0: none. Default: 100 pictures or more, at most a fifth.",
        ),
    ] = None,
    weights: Annotated[Literal["fp16", "fp32"], typer.Option("--weights", help="Of the saved model.")] = "fp16",
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Same seed, same model.")] = 0,
    log_dir: Annotated[Path | None, typer.Option("--log-dir", metavar="DIR", help="TensorBoard scalars.")] = None,
    offline: OfflineOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    quiet: QuietOption = False,
) -> None:
    """Train a small CLIP on pictures and their names, or adapt one; killed, the same command goes on.

    Example:

        zsclip train pictures/ --init base --lock-text --out my-model
        zsclip train pictures/ --init base --lock-image --out my-model
    """
    set_environment(offline, quiet)
    check_device(device)
    from zsclip.training.recipe import Recipe
    from zsclip.training.train import train as run_training

    recipe = Recipe(
        data=tuple(data), arch=arch, init=init, lock_image=lock_image, lock_text=lock_text, epochs=epochs,
        batch_size=batch_size, accumulate=accumulate, learning_rate=learning_rate, weight_decay=weight_decay,
        warmup=warmup, precision=precision, average=average,
        start_size=start_size, prompts=prompts, synonyms=synonyms, kinds=kinds, kinds_are_true=kinds_are_true,
        across=across, all_labels=all_labels, crop_scale=crop_scale, colour=colour, blur=blur,
        sharpen=sharpen, chroma=chroma, saturation=saturation, holdout=holdout, seed=seed, weights=weights,
    )  # fmt: skip
    with training_report(quiet, shows_progress(quiet)) as report:
        run_training(
            recipe, out, device=device, threads=threads, log_dir=log_dir, progress=report,
            note=notes(quiet),
        )  # fmt: skip
    typer.echo(out)
