"""The commands that read what has been trained."""

from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.endings import one_line
from normbench.errors import UsageError


def runs(
    directory: Annotated[Path, typer.Argument(help="The folder of the runs.")] = Path("runs"),
) -> None:
    """List what has been trained: cells, settings, state, test error."""
    with one_line():
        from normbench.report.text.listing import show_runs
        from normbench.terminal.screen import Screen

        show_runs(Screen(), directory)


def report(
    directory: Annotated[
        Path, typer.Argument(help="A folder of records: runs/NAME, or one cell, or runs.")
    ],
    beside: Annotated[
        Path | None,
        typer.Argument(help="Another folder, to compare with the first.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to write; DIRECTORY/report by default, of two folders"
            " DIRECTORY/report-NAME with the second's name.",
            show_default=False,
        ),
    ] = None,
    papers: Annotated[
        bool, typer.Option("--papers", help="Draw the published lines beside the pictures.")
    ] = False,
) -> None:
    """Write tables, pictures, verdicts and one HTML page; of a running sweep too."""
    with one_line():
        from normbench import report
        from normbench.terminal.screen import Screen

        report.write(directory, Screen(), beside=beside, out=out, papers=papers)


def tensorboard(
    directory: Annotated[Path, typer.Argument(help="The folder of the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 6006,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make damaged curves anew from metrics.jsonl.")
    ] = False,
) -> None:
    """Open TensorBoard on this machine over the runs."""
    with one_line():
        if next(directory.glob("**/metrics.jsonl"), None) is None:
            raise UsageError(
                f"{directory}: no runs there; train one with `normbench run`, or name its folder"
            )
        from normbench.run import views
        from normbench.store.events import serve
        from normbench.terminal.screen import Screen

        views.check_curves(Screen(), directory, rebuild=rebuild)
        serve(directory, port)
