"""What to answer a person whose settings cannot be run: what was received, and what to write."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from functools import cache
from typing import Any

from normbench.config import PLACES, Config
from normbench.data import DATA, library
from normbench.errors import UsageError
from normbench.launch import choices
from normbench.models import MODELS
from normbench.norms import NORMS
from normbench.registry import NAMED_BY
from normbench.training.optim import OPTIMS

REGISTRIES = (NORMS, MODELS, DATA, OPTIMS)

# What other programs call it.
_ELSEWHERE = {
    "bs": "batch",
    "batch_size": "batch",
    "batchsize": "batch",
    "learning_rate": "optim.lr",
    "wd": "optim.weight_decay",
    "weight_decay": "optim.weight_decay",
    "num_epochs": "epochs",
    "num_seeds": "seeds",
    "dataset": "data",
    "arch": "model",
    "network": "model",
    "normalization": "norm",
    "num_groups": "norm.groups",
    "optimizer": "optim",
    "workers": "threads",
    "gpu": "device",
    "exp": "experiment",
}

_OPTIONS = {
    "--dry-run": "sweep",
    "--fresh": "run",
    "--within": "advise",
    "--norms": "advise",
    "--fix": "diagnose",
}
"""Options that not every command with settings has, and the command that has them."""


@cache
def group_names() -> Mapping[str, list[str]]:
    """The configuration groups, and the choices of each."""
    return choices.groups()


@cache
def known_keys() -> Mapping[str, Any]:
    """Every key that some choice of groups has, with its dots, and the type of its values."""
    members = [(f"{r.kind}.", cls) for r in REGISTRIES for cls in r.values()]
    return {
        prefix + field.name: field.type
        for prefix, cls in [("", Config), *members]
        for field in fields(cls)
        if prefix + field.name not in [*group_names(), "together"]  # the last is a sweep's own
    }


# ---- what is no setting ----


def check_arguments(command: str, arguments: Sequence[str]) -> None:
    """Refuses words that are no settings, or several in one, with the line that was meant.

    Args:
        command: ``run``, ``show``, ``sweep`` or ``advise``.
        arguments: what was typed after it.

    Raises:
        UsageError: one of them is not ``KEY=VALUE``; says what to write.
    """
    for number, text in enumerate(arguments):
        following = arguments[number + 1 :]
        if several := _settings_in(text):
            raise UsageError(
                f"{text!r}: several settings in quotes; remove the quotes: normbench {command}"
                f" {' '.join(several)}"
            )
        if command == "advise":
            _check_advise(text, following)
        if "=" not in text.rstrip("=") and not text.startswith(("+", "~", "=")):
            if text.endswith("=") and not _value_in(following):
                continue  # an empty value
            if text in _OPTIONS:
                raise UsageError(f"{text}: is for normbench {_OPTIONS[text]}, not {command}")
            raise UsageError(
                f"{text}: cannot be read as a setting; write {_meant(text, following)}"
            )
        if text.startswith("-"):
            raise UsageError(f"{text}: settings have no dashes; write {text.lstrip('-')}")
        if command in ("run", "advise") and text.partition("=")[0].strip() == "experiment":
            _check_experiment(text, arguments, command)


def _check_advise(text: str, following: Sequence[str]) -> None:
    """Refuses what ``advise`` chooses itself, and its options where they are typed as settings."""
    word, _, value = (part.strip() for part in text.lstrip("-").partition("="))
    value = value or _value_in(following)
    key = _key(word.rstrip(":"))
    names = value if "," in value else "NAME,NAME"
    if key == "within":
        raise UsageError(f"{text}: write --within {value or 'TIME'}")
    if key == "norms":
        raise UsageError(f"{text}: write --norms {names}")
    if key == "norm":
        raise UsageError(f"{text}: advise chooses; use --norms {names}")
    if key == "seeds":
        raise UsageError(f"{text}: advise chooses; use --within: it buys seeds")
    if text in group_names()["norm"] and not (text in known_keys() and value.isdecimal()):
        raise UsageError(f"{text}: norms are named together, without blanks: --norms batch,group")


def _settings_in(text: str) -> list[str]:
    """The settings in a text that has several, separated by blanks or semicolons; else none."""
    words = [word for word in re.split(r"[\s;]+", text) if word]
    keys = [word.partition("=")[0] for word in words if "=" in word]
    known = [key for key in keys if key in known_keys() or key in group_names()]
    return words if len(words) > 1 and len(words) == len(known) else []


def _meant(text: str, following: Sequence[str]) -> str:
    """The setting that a person has probably meant by a word without a value."""
    word, _, value = text.lstrip("-").rstrip("=:").partition(":")
    key = _key(word)
    if key in known_keys() or key in group_names():
        return f"KEY=VALUE, here {key}={value or _value_in(following) or 'VALUE'}"
    for group, names in group_names().items():
        if word in names:
            return f"KEY=VALUE, here {group}={word}"
    hint = "; see normbench --help" if text.startswith("-") else ""
    return f"KEY=VALUE, for example batch=2{hint}"


def _value_in(following: Sequence[str]) -> str:
    """The value in ``norm group``, ``norm = group`` and ``norm =group``; empty if there is none."""
    if following and following[0] in ("=", ":"):
        following = following[1:]
    value = following[0].lstrip("=") if following else ""
    return "" if "=" in value else value


def _check_experiment(text: str, arguments: Sequence[str], command: str) -> None:
    """Refuses an experiment in a run, unless what it varies is given, so that it is one cell; in a
    race, what it varies but for norms, rates and seeds."""
    given = {each.partition("=")[0] for each in arguments}
    varied = choices.varied(text.partition("=")[2].strip(" '\""))
    if command == "advise":
        chosen = {"norm", "optim.lr", "seeds"}
        lacking = sorted(k for k in varied - given - chosen if not k.startswith("norm."))
        if lacking:
            raise UsageError(
                f"{text}: a race is about one batch size; say which:"
                f" {' '.join(f'{key}=VALUE' for key in lacking)}"
            )
    elif not varied <= given:
        raise UsageError(
            f"{text}: an experiment has several cells; use sweep: normbench sweep"
            f" {' '.join(arguments)}"
        )


def _key(word: str) -> str:
    """The key that a word of another program stands for; else the word."""
    return _ELSEWHERE.get(word.lower().replace("-", "_"), word)


# ---- keys and choices that there are not ----


def unknown_key(text: str, key: str) -> UsageError:
    """The error for a key that no choice of groups has."""
    return UsageError(f"{text}: unknown key {key}{_nearest(key)}")


def _nearest(word: str) -> str:
    words = [*known_keys(), *group_names()]
    close = [_key(word)] if _key(word) != word else []
    # lr for optim.lr; what all choices of a group have comes before what one norm has.
    close += sorted(
        (known for known in words if known.rpartition(".")[2] == word),
        key=lambda known: known.startswith("norm."),
    )
    close += difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; `normbench show` lists the keys"


def unknown_choice(text: str, group: str, value: str) -> UsageError:
    """The error for a value that is none of a group's choices."""
    options = group_names()[group]
    if group == DATA.kind and value in [entry.name for entry in library.available()]:
        meant: str | None = f"data=images data.name={value}"
    else:
        meant = nearest_choice(group, value, options)
    suggestion = f"; did you mean {meant}?" if meant else ""
    return UsageError(f"{text}: unknown {group}{suggestion} (choose from {', '.join(options)})")


def nearest_choice(group: str, value: str, options: Sequence[str]) -> str | None:
    """``group`` for GroupNorm and gn, ``resnet model.depth=20`` for resnet20."""
    plain = re.sub(r"[^a-z0-9]", "", value.lower())
    if plain != group:
        plain = plain.replace(group, "")
    if plain in options:
        return plain
    if number := re.fullmatch(r"([a-z]+)(\d+)", plain):
        name, depth = number.groups()
        if name in options and f"{group}.depth" in known_keys():
            return f"{group}={name} {group}.depth={depth}"
    if re.fullmatch(r"[a-z]n", plain):  # the field's abbreviations: bn, gn, in, ln
        initial = sorted((each for each in options if each[0] == plain[0]), key=len)
        if initial:
            return initial[0]
    return next(iter(difflib.get_close_matches(plain, options, n=1)), None)


def several_seeds(text: str, seeds: Iterable[Any]) -> UsageError:
    """The error for seeds that are listed: a cell has all its seeds."""
    numbers = [int(each) for each in seeds if str(each).isdecimal()]
    first = f"seed={min(numbers)} " if numbers and min(numbers) > 0 else ""
    return UsageError(
        f"{text}: every cell has all its seeds; write {first}seeds={len(numbers) or 'N'}"
    )


def given_twice(key: str, first: str, second: str) -> UsageError:
    """The error for a key with two values, of which a sweep may take both."""
    values = [text.partition("=")[2].strip() for text in (first, second)]
    one = key in ("seed", "seeds", "experiment", *PLACES) or key.startswith("hydra")
    several = "" if one or "auto" in values else f"; a sweep takes {key}={','.join(values)}"
    return UsageError(f"{first} {second}: {key} is given twice{several or '; write it once'}")


# ---- values ----


def must_be(key: str) -> str | None:
    """``must be a whole number``; None where the key is not known."""
    return f"must be {_allowed(known_keys()[key])}" if key in known_keys() else None


def has_no(cls: Any, key: object) -> str | None:
    """``norm=batch has no groups; its keys: …``; None where the class is no choice."""
    if cls not in _CHOICES:
        return None
    group = _CHOICES[cls].partition("=")[0]
    keys = [field.name for field in fields(cls) if field.name != NAMED_BY[group]]
    return f"{_CHOICES[cls]} has no {key}; its keys: {', '.join(keys)}"


def launcher_has_no(cls: Any, key: object) -> str:
    """``this launcher has no n_job; its keys: …``, of the class of a launcher's settings."""
    keys = [each.name for each in fields(cls) if each.name != "_target_"] if cls else []
    others = f"its keys: {', '.join(keys)}" if keys else "choose another with hydra/launcher=NAME"
    return f"this launcher has no {key}; {others}"


def _allowed(kind: Any) -> str:
    """What values of a type look like on the command line."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(kind.__members__)}"
    return _ALLOWED.get(kind, str(kind))


_CHOICES: dict[Any, str] = {
    cls: f"{registry.kind}={name}" for registry in REGISTRIES for name, cls in registry.items()
}

_ALLOWED: dict[Any, str] = {
    int: "a whole number",
    int | None: "a whole number or null",
    int | str: "auto or a whole number",
    float: "a number",
    float | None: "a number or null",
    bool: "true or false",
    str: "text",
    str | None: "text or null",
    list[float]: "a list of numbers, for example [0.3,0.6]",
}
