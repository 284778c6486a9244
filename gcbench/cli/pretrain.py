"""`gcbench pretrain`: pre-train an encoder on prepared scenes with posed frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench pretrain --data prepared/scannet --out runs/gaussiancross

  gcbench pretrain --preset tiny --data prepared/room --set data.splits=[test] --set schedule.steps=300 --out runs/room
"""


@app.command(epilog=_EPILOG)
def pretrain(
    data: Annotated[Path, typer.Option(help="A prepared dataset with RGB-D frames (see `gcbench data prepare`).")],
    out: Annotated[Path, typer.Option(help="The run's folder; an interrupted run there goes on.")],
    recipe: Annotated[str, typer.Option(help="A recipe's name or file.")] = "pretrain/gaussiancross",
    preset: Annotated[str | None, typer.Option(help="Small sizes for a laptop: tiny.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides weights, order and views.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override section.key=value; may be repeated.")
    ] = None,
) -> None:
    """Pre-train an encoder. It ends as OUT/encoder/model.safetensors, with pictures of held-out views beside it."""
    from rich.console import Console

    from gcbench.cli.progress import JobProgress, describe
    from gcbench.data.storage import PreparedDataset
    from gcbench.errors import InputError
    from gcbench.protocols.jobs import JobRecipe, PretrainJob
    from gcbench.recipe.loader import load_recipe
    from gcbench.recipe.schema import PretrainRecipe
    from gcbench.reporting.run_figures import draw_pretraining
    from gcbench.reproduce.execute import run_job
    from gcbench.runs.results import PretrainResult
    from gcbench.runs.store import Run

    loaded = load_recipe(recipe, preset=preset, overrides=set_ or ())
    if not isinstance(loaded.recipe, PretrainRecipe):
        raise InputError(f"'{recipe}' is a recipe of kind '{loaded.recipe.kind}'.", "Choose one of kind 'pretrain'.")
    fingerprint = PreparedDataset.open(data).fingerprint
    name = f"{loaded.name.split('/')[-1]}-seed{seed}"
    job = PretrainJob(name=name, recipe=JobRecipe.of(loaded), data=data.resolve(), data_key=fingerprint, seed=seed)
    run = Run(out.resolve(), kind=job.kind, name=name, key=job.key)
    console = Console()
    if not run.is_done:
        progress = JobProgress(console, 1)
        progress.start(1, describe(job))
        try:
            run_job(run, job, progress.event)
        except BaseException:
            progress.stop()
            raise
        progress.end("done")
    draw_pretraining(run)
    result = run.result()
    assert isinstance(result, PretrainResult)
    for point in result.psnr:
        console.print(
            f"step {point.step:>6}   PSNR of held-out views {point.psnr_heldout:5.2f} dB"
            f"   of views trained on {point.psnr_train:5.2f} dB",
            highlight=False,
        )
    console.print(f"Encoder: {out / 'encoder' / 'model.safetensors'}\nPictures: {out / 'figures'}", soft_wrap=True)
