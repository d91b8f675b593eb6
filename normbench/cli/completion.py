"""Completion of commands, options, keys and values in bash and zsh.

It reads the package's sources and the names of the data sets, and imports little, so that it
answers before a person has noticed.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import typer

from normbench.launch import choices

BASH = """\
_normbench() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##*[[:space:]]}"
    COMPREPLY=($(normbench completion bash --line "$line" 2>/dev/null))
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then  # bash completes what follows the =
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
    if [[ ${COMPREPLY[0]} == *= ]]; then
        type compopt &>/dev/null && compopt -o nospace  # bash 3 has none
    fi
}
complete -o default -F _normbench normbench
"""

ZSH = """\
#compdef normbench
_normbench() {
    local -a found
    found=(${(f)"$(normbench completion zsh --line "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    compadd -Q -S '' -- ${(M)found:#*=}
    compadd -Q -- ${found:#*=}
    (( $#found )) || _files
}
compdef _normbench normbench
"""

WORDS = {"device": ["auto", "cpu", "cuda"], "stack": ["auto"]}
"""Values that are words, of keys that are no groups and have no Enum."""

_COMMANDS = ("run", "sweep", "show", "advise", "diagnose")
_SPREAD, _LAUNCHER = ("sweep", "advise"), "hydra/launcher"


def completion(
    context: typer.Context,
    shell: Annotated[Literal["bash", "zsh"], typer.Argument(help="The shell.")],
    line: Annotated[
        str | None, typer.Option(hidden=True, help="Complete this line instead.")
    ] = None,
) -> None:
    """Print what makes the TAB key complete commands, keys and values.

    For example, in ~/.bashrc: eval "$(normbench completion bash)"
    """
    if line is None:
        typer.echo(BASH if shell == "bash" else ZSH, nl=False)
        return
    for found in complete(context.find_root().command, line):
        typer.echo(found)


def complete(command: Any, line: str) -> list[str]:
    """What the last word of ``line`` may become, the whole words.

    Args:
        command: what the first word calls.
        line: what has been typed, from the first word to the cursor.
    """
    *before, word = re.split(r"\s+", line.lstrip())
    for name in before[1:]:
        command = getattr(command, "commands", {}).get(name, command)
    return sorted({each for each in _candidates(command, word) if each.startswith(word)})


def _candidates(command: Any, word: str) -> Iterator[str]:
    yield from getattr(command, "commands", {})
    if word.startswith("-"):
        for parameter in command.params:
            yield from (each for each in parameter.opts if each.startswith("--"))
        yield "--help"
    elif command.name in _COMMANDS:
        yield from _settings(command.name, word)
    elif command.name == "norms":
        yield from choices.groups()["norm"]
    elif command.name == "verify":
        yield from _data_sets()


def _settings(command: str, word: str) -> Iterator[str]:
    key, equals, value = word.partition("=")
    if not equals:
        keys = {*choices.groups(), *choices.defaults()}
        keys |= {_LAUNCHER} if command in _SPREAD else set()
        yield from (f"{each}=" for each in keys)
        return
    given = value.rpartition(",")[0] if command == "sweep" else ""
    taken = given.split(",")
    for each in _values(key):
        if each not in taken:
            yield f"{key}={given}{',' if given else ''}{each}"


def _values(key: str) -> Sequence[str]:
    if key == "data.name":
        return _data_sets()
    if key == _LAUNCHER:
        return choices.LAUNCHERS
    if isinstance(choices.defaults().get(key), bool):
        return ["false", "true"]
    return choices.groups().get(key) or choices.members().get(key) or WORDS.get(key) or []


def _data_sets() -> list[str]:
    from normbench.files import DATA_SET, data_sets

    return [path.name.removesuffix(DATA_SET) for path in data_sets()]
