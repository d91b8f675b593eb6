"""The commands about cells: train one, train many, look at one, before or after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from normbench.cli.endings import one_line
from normbench.launch import choices

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings that differ from the defaults, such as norm=group batch=2 epochs=10;"
        " `normbench show` lists them all.",
        show_default=False,
    ),
]


def typed(overrides: Sequence[str] | None) -> list[str]:
    """The settings that were typed.

    Raises:
        UsageError: a key is given two values.
    """
    from normbench.launch.hints import given_twice

    first: dict[str, str] = {}
    for text in overrides or ():
        key, equals, _ = (part.strip() for part in text.partition("="))
        if equals and first.setdefault(key, text) != text:
            raise given_twice(key, first[key], text)
    return list(overrides or ())


def run(
    context: typer.Context,
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Throw away the earlier records of this cell.")
    ] = False,
) -> None:
    """Train one norm at one batch size: 4 epochs, one seed, batch size 32 unless you say otherwise.

    For example: normbench run norm=group batch=2 seeds=3
    """
    again = "the same command without --fresh" if fresh else "the same command"
    with one_line(f"{again} trains what is missing"):
        from normbench.launch.compose import load_config
        from normbench.launch.grid import with_rate
        from normbench.run import run as experiment
        from normbench.terminal.screen import Screen

        screen = Screen()
        config = load_config(with_rate(typed(overrides), screen), "run")
        outcome = experiment.run(config, screen, fresh=fresh, since=context.obj)
    if not outcome.finished:
        raise typer.Exit(1)


def sweep(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=A,B,...]...",
            help="Settings; each combination of values is a cell: norm=batch,group batch=2,8;"
            " or experiment=NAME. hydra/launcher=joblib trains several cells at a time.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the cells, what is done and how long the rest takes; no more."
        ),
    ] = False,
) -> None:
    """Train every combination of several settings. Run the command again to resume.

    For example: normbench sweep norm=batch,group batch=2,8,32 seeds=5
    """
    with one_line("" if dry_run else "the same command trains what is missing"):
        from normbench import report
        from normbench.launch.grid import train_all
        from normbench.terminal.screen import Screen

        screen = Screen()
        cells = train_all(typed(overrides), screen, dry_run=dry_run)
        if dry_run:
            return
        report.write(cells.directory, screen)
        for cell in cells.bad():
            screen.line(f"not finished: {cell.directory}: {cell.problem} (see {cell.log})")
    if cells.bad():
        raise typer.Exit(1)


def show(overrides: Overrides = None) -> None:
    """Print the configuration and the network, layer by layer. Trains nothing."""
    with one_line():
        from normbench.launch.compose import load_config, to_yaml
        from normbench.run import views
        from normbench.terminal.screen import Screen

        config = load_config(typed(overrides))
        views.show_layers(Screen(), config, preface=to_yaml(config) + "\n")


def advise(
    context: typer.Context,
    overrides: Overrides = None,
    within: Annotated[
        str,
        typer.Option(metavar="TIME", help="How long it may take, up to 10 % more: 90s, 30m, 3h."),
    ] = "30m",
    norms: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="The norms to choose from, two or more; `normbench norms` lists them.",
        ),
    ] = ",".join(choices.USUAL),
) -> None:
    """Find the norm and the learning rate for a network, images and a batch size.

    The answer holds for epochs=, 4 unless you say so: give the length that you will train.

    For example: normbench advise batch=2 epochs=20 --norms batch,group --within 3h
    """
    with one_line("the same command goes on with the race"):
        from normbench.launch.advise import command
        from normbench.terminal.screen import Screen

        names = [name.strip() for name in norms.split(",") if name.strip()]
        budget = command.seconds(within)
        answer = command.advise(
            typed(overrides), Screen(), within=budget, norms=names, since=context.obj
        )
    if answer.norm is None:
        raise typer.Exit(1)


def diagnose(
    overrides: Overrides = None,
    *,
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="WEIGHTS",
            help="The trained network: a seed's folder, a safetensors file, or a state_dict that"
            " torch.save wrote.",
        ),
    ],
    fix: Annotated[
        Path | None,
        typer.Option(
            help="Write the weights with re-estimated statistics, to FILE.safetensors or, as"
            " torch.save does, to FILE.pt or FILE.pth."
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the file of --fix.")] = False,
) -> None:
    """Say whether batch norm's running statistics cost accuracy, and what to do.

    For example: normbench diagnose model.depth=8 data=cifar10 batch=2 weights.pt
    """
    with one_line():
        from normbench.launch.recorded import load_recorded
        from normbench.run.trained import diagnose_file
        from normbench.terminal.screen import Screen

        config = load_recorded(typed(overrides), weights)
        diagnose_file(config, weights, Screen(), fix=fix, replace=replace)
