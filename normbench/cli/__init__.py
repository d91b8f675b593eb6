"""The command line; the only part that knows Typer.

Nothing heavy is imported before a command needs it, so that ``--help`` is there in a blink.
"""

from normbench.cli import endings


def main() -> None:
    """The ``normbench`` command."""
    with endings.process():
        from normbench.cli.app import app

        app()
