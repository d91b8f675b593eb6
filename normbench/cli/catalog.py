"""The commands about what there is to train with: norms and data sets."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from normbench.cli.endings import one_line


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
    with one_line():
        from normbench.launch import hints
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        if name is not None and name not in hints.group_names()["norm"]:
            raise hints.unknown_choice(f"norms {name}", "norm", name)
        catalog.show_norms(Screen(), name, figure)


def list_data() -> None:
    """List the data sets on this machine and those that can be fetched."""
    with one_line():
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        catalog.list_data(Screen())


def fetch_data(
    name: Annotated[str, typer.Argument(help="cifar10 or cifar100.")],
    mirror: Annotated[
        str | None, typer.Option(help="Where to get the archive instead of the known addresses.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds without an answer after which an address is given up.")
    ] = 30.0,
) -> None:
    """Download a data set. This is the only command that uses the network."""
    with one_line():
        from normbench.data.library.fetching import fetch
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        screen = Screen()
        with screen.working(name) as bar:
            imported = fetch(name, mirror=mirror, timeout=timeout, progress=bar.update)
        catalog.show_imported(screen, imported)


def import_data(
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder, .tar or .zip with one folder of images a class, a CIFAR archive, or a"
            " folder that torchvision has filled."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="What to call it; needed unless it is CIFAR-10 or CIFAR-100.")
    ] = None,
    size: Annotated[int, typer.Option(help="Height and width of the images, in pixels.")] = 32,
    fit: Annotated[
        Literal["crop", "pad"],
        typer.Option(help="crop: the middle of a scaled image; pad: all of it, with black edges."),
    ] = "crop",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Go on without images that cannot be decoded.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a set of that name.")] = False,
) -> None:
    """Bring your own images: then train on them with data=images data.name=NAME."""
    with one_line():
        from normbench.data.library.importing import import_images
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        screen = Screen()
        with screen.working(path.name) as bar:
            imported = import_images(
                path,
                name,
                size=size,
                fit=fit,
                skip_broken=skip_broken,
                replace=replace,
                progress=bar.update,
            )
        catalog.show_imported(screen, imported)


def verify_data(
    name: Annotated[
        str | None, typer.Argument(help="One data set; all of them without a name.")
    ] = None,
) -> None:
    """Check the data sets on this machine against their digests."""
    with one_line():
        from normbench.terminal import catalog
        from normbench.terminal.screen import Screen

        sound = catalog.verify_data(Screen(), name)
    if not sound:
        raise typer.Exit(1)
