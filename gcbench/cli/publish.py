"""`gcbench publish`: a model with its evidence on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from gcbench.hub.facts import ModelFacts
    from gcbench.hub.layout import Manifest

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_EPILOG = """Examples:

  gcbench publish reproduction/runs/pretrain/gaussiancross-seed0-1a2b3c4d --repo user/gaussiancross --dry-run

  gcbench publish reproduction/runs/pretrain/gaussiancross-seed0-1a2b3c4d --repo user/gaussiancross --tag v1.0

  gcbench publish encoders/gaussiancross --repo user/gaussiancross --private

What is published, and what is refused: docs/hub.md. Log in before: hf auth login.
"""


@app.command(epilog=_EPILOG)
def publish(
    run: Annotated[
        Path, typer.Argument(help="A finished run's folder, or what `gcbench convert` wrote.", metavar="RUN")
    ],
    repo: Annotated[str, typer.Option(help="The repository; it is made if it is not there.", metavar="USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    tag: Annotated[str | None, typer.Option(help="A name for this version, e.g. v1.0.", show_default=False)] = None,
    message: Annotated[str, typer.Option(help="Of the commit.", show_default=False)] = "",
    pretrainer: Annotated[
        bool, typer.Option("--pretrainer", help="Of a pre-training the whole model, not the encoder alone.")
    ] = False,
    no_results: Annotated[
        bool, typer.Option("--no-results", help="Leave out what was measured with the encoder.")
    ] = False,
    demonstration: Annotated[
        bool, typer.Option("--demonstration", help="Publish a model of synthetic rooms; its card says so.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Also write what is published into this new folder.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be published; ask nobody.")] = False,
) -> None:
    """Publish a run's model on the Hugging Face Hub, in one commit.

    Weights, settings, golden features, the results that were measured with it, and a card that says how; never scans,
    photos, labels or predictions. The same command again changes nothing, and goes on where an upload broke off.
    """
    from rich.console import Console

    from gcbench.hub.client import check_repo

    console = Console()
    check_repo(repo)
    with tempfile.TemporaryDirectory(prefix="gcbench-") as place:
        folder = out or Path(place) / "model"
        with console.status("Checking the model and computing golden features"):
            from gcbench.hub.packing import pack_run

            manifest, facts = pack_run(
                run,
                folder,
                repo=repo,
                whole=pretrainer,
                with_results=not no_results,
                demonstration=demonstration,
            )
        _show(console, manifest, facts)
        if out is not None:
            console.print(f"Written to {out}", highlight=False, soft_wrap=True)
        if dry_run:
            console.print(
                f"Nothing was sent. Without --dry-run: one commit to {repo}.", highlight=False, soft_wrap=True
            )
            return
        from gcbench.hub.publishing import publish_folder

        published = publish_folder(
            folder,
            repo,
            private=private,
            tag=tag,
            message=message,
            tell=lambda text: console.print(f"[yellow]{text}", highlight=False, soft_wrap=True),
        )
    done = "Published" if published.is_new else "Already published, nothing was changed"
    tagged = f", tag {published.tag}" if published.tag else ""
    console.print(f"{done}: {published.url}{tagged}", highlight=False, soft_wrap=True)
    console.print(
        f"Load it:  AutoModel.from_pretrained({repo!r}, revision={published.commit!r})", highlight=False, soft_wrap=True
    )
    console.print(f"Check it: gcbench verify {repo}", highlight=False, soft_wrap=True)


def _show(console: Console, manifest: Manifest, facts: ModelFacts) -> None:
    from rich.table import Table

    table = Table("file", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    for name, entry in manifest.files.items():
        table.add_row(name, f"{entry.size / 1e6:.2f} MB" if entry.size >= 1e4 else f"{entry.size:,} B")
    console.print(table)
    numbers = len(facts.measurements)
    said = (
        f"{numbers} number{'s' * (numbers != 1)} with protocol and difference to the paper" if numbers else "no numbers"
    )
    if facts.synthetic:
        said = "of synthetic rooms: a demonstration, without benchmark results"
    console.print(f"{facts.kind} of {facts.parameters:,} parameters, {said}", highlight=False, soft_wrap=True)
