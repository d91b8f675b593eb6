"""All commands, and what is common to them."""

import re
import sys
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from normbench.cli import catalog, completion, records, training

# Typer has a Click of its own and exports one of its errors, not the one they all derive from.
_MistypedError: Any = typer.BadParameter.__base__

# What looks like an option may be a setting with dashes too many; whoever reads those says so.
_SETTINGS = {"ignore_unknown_options": True}


class _Commands(TyperGroup):
    """Commands that answer a mistyped one in one line."""

    def main(self, *args: Any, **extra: Any) -> Any:
        try:
            sys.exit(super().main(*args, **extra | {"standalone_mode": False}))
        except _MistypedError as error:
            command = error.ctx.command_path if error.ctx else "normbench"
            message = " ".join(error.format_message().split()).rstrip(".")
            if message:  # else help has been printed
                typer.echo(f"normbench: {message}; see {command} --help", err=True)
            sys.exit(2)


class _WithSettings(TyperCommand):
    """A command with settings: ``-batch`` is a word, not five letters of which h asks for help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = {name for each in self.params for name in each.opts}
        words = [re.match(r"-[A-Za-z][\w-]+", text) for text in args]
        for text, word in zip(args, words, strict=True):
            if word and f"-{word[0]}" in options:
                value = text.removeprefix(word[0]).replace("=", " ", 1)
                raise _MistypedError(
                    f"{text}: options have two dashes; write -{word[0]}{value}", ctx
                )
        # With two dashes it is passed on, to those who say what was meant.
        both = zip(args, words, strict=True)
        return super().parse_args(ctx, [f"-{text}" if word else text for text, word in both])


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,  # it does not know that bash splits words at "="
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normbench {installed_version('normbench')}")
        raise typer.Exit


@app.callback()
def normbench(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Which normalization layer for a small batch, at what cost, and how sure?"""


app.command(cls=_WithSettings, context_settings=_SETTINGS)(training.run)
app.command(cls=_WithSettings, context_settings=_SETTINGS, no_args_is_help=True)(training.sweep)
app.command(cls=_WithSettings, context_settings=_SETTINGS)(training.show)
app.command(cls=_WithSettings, context_settings=_SETTINGS)(training.advise)
app.command(cls=_WithSettings, context_settings=_SETTINGS)(training.diagnose)
app.command()(records.runs)
app.command()(records.report)
app.command()(records.tensorboard)
app.command()(catalog.norms)

data = typer.Typer(help="The images on this machine.", no_args_is_help=True)
data.command("list")(catalog.list_data)
data.command("fetch")(catalog.fetch_data)
data.command("import")(catalog.import_data)
data.command("verify")(catalog.verify_data)
app.add_typer(data, name="data")

app.command()(completion.completion)
