"""The command line; the only file that knows Typer.

Nothing heavy is imported before a command needs it, so that ``--help`` is there in a blink.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from normbench.errors import UsageError

try:
    import typer
    from typer.core import TyperGroup
except KeyboardInterrupt:  # Typer takes a moment, and a traceback would be all that is seen
    sys.stderr.write("normbench: interrupted\n")
    sys.exit(130)

# Typer has a Click of its own and exports one of its errors, not the one they all derive from.
_MistypedError: Any = typer.BadParameter.__base__


class _Commands(TyperGroup):
    """Commands that answer a mistyped one in one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            sys.exit(super().main(*args, **extra | {"standalone_mode": False}))
        except _MistypedError as error:
            command = error.ctx.command_path if error.ctx else "normbench"
            if message := error.format_message().rstrip("."):  # empty: help has been printed
                typer.echo(f"normbench: {message}; see {command} --help", err=True)
            sys.exit(2)


app = typer.Typer(
    cls=_Commands,
    help="Which normalization layer for a small batch, at what cost, and how sure?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="The images on this machine.", no_args_is_help=True)
app.add_typer(data_app, name="data")

# What looks like an option may be a setting with dashes too many; whoever reads those says so.
SETTINGS = {"ignore_unknown_options": True}

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings that differ from the defaults, such as norm=group batch=2 epochs=10;"
        " `normbench show` lists them all.",
        show_default=False,
    ),
]


class _Terminated(BaseException):
    """SIGTERM; like KeyboardInterrupt, it passes every handler of errors."""


def _has(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error is of a kind, or comes from one that is."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def _one_line_errors(interrupted: str = "") -> Iterator[None]:
    """Turns every ending into one line: mistakes into exit code 2, what the machine refuses into
    1, interruptions into 130 or 143.

    Args:
        interrupted: what to say to a person who has interrupted, after that it is so.
    """
    hint = interrupted and f"; {interrupted}"

    received: list[int] = []

    def terminate(signum: int, _frame: FrameType | None) -> None:
        received.append(signum)
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except (Exception, KeyboardInterrupt, _Terminated) as error:
        # A library that is interrupted may make an error of its own of it.
        if received or _has(error, KeyboardInterrupt):
            word, code = ("terminated", 143) if received else ("interrupted", 130)
            typer.echo(f"normbench: {word}{hint}", err=True)
            raise typer.Exit(code) from None
        if isinstance(error, UsageError):
            typer.echo(f"normbench: {error}", err=True)
            raise typer.Exit(2) from None
        # `normbench norms | head` closes a pipe: Typer ends it quietly.
        if isinstance(error, BrokenPipeError) or not isinstance(error, OSError):
            raise
        where = "" if error.filename is None else f"{error.filename}: "  # such as a full disk
        typer.echo(f"normbench: {where}{error.strerror or error}", err=True)
        raise typer.Exit(1) from None
    finally:
        signal.signal(signal.SIGTERM, previous)


@app.command(context_settings=SETTINGS)
def run(
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Throw away the earlier records of this cell.")
    ] = False,
) -> None:
    """Train one norm at one batch size.

    For example: normbench run norm=group batch=2
    """
    again = "the same command without --fresh" if fresh else "the same command"
    with _one_line_errors(f"{again} trains what is missing"):
        from normbench.launch.compose import load_config
        from normbench.run import run as experiment
        from normbench.run.spent import process_start
        from normbench.terminal.screen import Screen

        config = load_config(overrides or [])
        outcome = experiment.run(config, Screen(), fresh=fresh, since=process_start())
    if not outcome.finished:
        raise typer.Exit(1)


@app.command(context_settings=SETTINGS)
def sweep(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=A,B,...]...",
            help="Settings, several values where a cell each is wanted: norm=batch,group batch=2,8;"
            " or experiment=NAME. hydra/launcher=joblib trains several cells at a time.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Train every combination of several settings. The same line again goes on where it stopped.

    For example: normbench sweep norm=batch,group batch=2,8,32 seeds=5
    """
    with _one_line_errors("the same command trains what is missing"):
        from normbench import report
        from normbench.launch.grid import train_all
        from normbench.terminal.screen import Screen

        screen = Screen()
        cells = train_all(overrides or [], screen)
        report.write(cells.directory, screen)
        for cell in cells.bad():
            screen.line(f"not finished: {cell.directory}: {cell.problem} (see {cell.log})")
    if cells.bad():
        raise typer.Exit(1)


@app.command("report")
def write_report(
    directory: Annotated[
        Path, typer.Argument(help="A folder of records: runs/NAME, or one cell, or runs.")
    ],
    beside: Annotated[
        Path | None,
        typer.Argument(help="Another folder, to stand side by side.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; DIRECTORY/report by default.")
    ] = None,
    papers: Annotated[
        bool, typer.Option("--papers", help="Draw the published lines beside the pictures.")
    ] = False,
) -> None:
    """Write tables, pictures, verdicts and one HTML page; of a running sweep too."""
    with _one_line_errors():
        from normbench import report
        from normbench.terminal.screen import Screen

        report.write(directory, Screen(), beside=beside, out=out, papers=papers)


@app.command(context_settings=SETTINGS)
def show(overrides: Overrides = None) -> None:
    """Print the configuration and the network, layer by layer. Trains nothing."""
    with _one_line_errors():
        from normbench.launch.compose import load_config, to_yaml
        from normbench.run import views
        from normbench.terminal.screen import Screen

        config = load_config(overrides or [])
        views.show_layers(Screen(), config, preface=to_yaml(config) + "\n")


@app.command()
def norms(
    name: Annotated[
        str | None, typer.Argument(help="One norm: its formula, picture and paper.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw what is averaged, as a .png or .svg file."),
    ] = None,
) -> None:
    """Print the normalization layers, or one of them in detail."""
    with _one_line_errors():
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        catalog.show_norms(Screen(), name, figure)


@data_app.command("list")
def data_list() -> None:
    """List the data sets on this machine and those that can be fetched."""
    with _one_line_errors():
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        catalog.list_data(Screen())


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="cifar10 or cifar100.")],
    mirror: Annotated[
        str | None, typer.Option(help="Where to get the archive instead of the known addresses.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds without an answer after which an address is given up.")
    ] = 30.0,
) -> None:
    """Download a data set. This is the only command that uses the network."""
    with _one_line_errors():
        from normbench.data.library.fetching import fetch
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        screen = Screen()
        with screen.working(name) as bar:
            imported = fetch(name, mirror=mirror, timeout=timeout, progress=bar.update)
        catalog.show_imported(screen, imported)


@data_app.command("import")
def data_import(
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder, .tar or .zip with one folder of images a class, a CIFAR archive, or a"
            " folder that torchvision has filled."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="What to call it; the CIFAR sets know their names.")
    ] = None,
    size: Annotated[int, typer.Option(help="Height and width of the images, in pixels.")] = 32,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a set of that name.")] = False,
) -> None:
    """Bring your own images: then train on them with data=images data.name=NAME."""
    with _one_line_errors():
        from normbench.data.library.importing import import_images
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        screen = Screen()
        with screen.working(path.name) as bar:
            imported = import_images(path, name, size=size, replace=replace, progress=bar.update)
        catalog.show_imported(screen, imported)


@data_app.command("verify")
def data_verify(
    name: Annotated[
        str | None, typer.Argument(help="One data set; all of them without a name.")
    ] = None,
) -> None:
    """Check the data sets on this machine against their digests."""
    with _one_line_errors():
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        sound = catalog.verify_data(Screen(), name)
    if not sound:
        raise typer.Exit(1)


@app.command()
def tensorboard(
    directory: Annotated[Path, typer.Argument(help="The folder of the runs.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 6006,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First make damaged curves anew from metrics.jsonl.")
    ] = False,
) -> None:
    """Open TensorBoard on this machine over the runs."""
    with _one_line_errors():
        if next(directory.glob("**/metrics.jsonl"), None) is None:
            raise UsageError(
                f"{directory}: no runs there; train one with `normbench run`, or name its folder"
            )
        from normbench.run import views
        from normbench.terminal.screen import Screen

        views.check_curves(Screen(), directory, rebuild=rebuild)
        command = [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", str(directory)]
        # -P: a module in the folder this is run in is none of TensorBoard's. The process becomes
        # TensorBoard, so that Ctrl-C and signals reach it directly.
        os.execv(sys.executable, [*command, "--port", str(port)])


def main() -> None:
    """The ``normbench`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # Greek letters must not end a command
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("normbench: interrupted\n")
        sys.exit(130)
