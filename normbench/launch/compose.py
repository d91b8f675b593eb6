"""From overrides on the command line to a configuration. Only this and grid.py know Hydra."""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from normbench.config import Config
from normbench.data import DATA
from normbench.errors import UsageError
from normbench.models import MODELS
from normbench.norms import NORMS
from normbench.training.optim import SGDConfig

CONFIGS = "normbench.configs"
REGISTRIES = (NORMS, MODELS, DATA)


def load_config(overrides: Sequence[str]) -> Config:
    """Composes the configuration from ``configs/`` and ``overrides``.

    Args:
        overrides: as on the command line, ``norm=group``, ``optim.lr=0.05``.

    Raises:
        UsageError: an override is misspelt, of the wrong type or out of range; the message says
            what was received and what is allowed.
    """
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIGS, version_base="1.3"):
        parsed = [parse(text) for text in overrides]
        for each in parsed:
            check(each)
        try:
            tree = compose("config", overrides=[each.readable for each in parsed])
            config = OmegaConf.to_object(tree)
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(in_words(error, parsed)) from None
    assert isinstance(config, Config)
    check_names(config)
    return config


def to_yaml(config: Config) -> str:
    """The configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def group_names(group: str) -> list[str]:
    """The choices of a configuration group: what is registered, and the files in ``configs/``."""
    register_schemas()
    if not GlobalHydra.instance().is_initialized():
        with initialize_config_module(CONFIGS, version_base="1.3"):
            return group_names(group)
    return GlobalHydra.instance().config_loader().get_group_options(group)


def register_schemas() -> None:
    """Tells Hydra what there is to choose from, and the types of what ``configs/`` holds.

    A choice is its dataclass: names, types and defaults are written there alone.
    """
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    store.store(group="hydra/sweeper", name="grid", node=GridConfig)
    store.store(group="optim", name="sgd", node=SGDConfig)
    for registry in REGISTRIES:
        for name, node in registry.items():
            store.store(group=registry.kind, name=name, node=node)


@dataclass
class GridConfig:
    """``hydra.sweeper``: the cells of a sweep are the union of its grids.

    Attributes:
        params: values by key, as on the command line; every grid has them.
        grids: further values, a dictionary a grid.
    """

    params: dict[str, Any] = field(default_factory=dict)
    grids: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Typed:
    """An override as a person typed it, the same with the quotes that Hydra wants, and parsed."""

    text: str
    readable: str
    override: Override

    @property
    def key(self) -> str:
        """What is set, with its dots."""
        return self.override.key_or_group

    @property
    def value(self) -> Any:
        """What it is set to."""
        value = self.override.value()
        return value.text if isinstance(value, QuotedString) else value


def parse(text: str) -> Typed:
    """Reads ``KEY=VALUE``; raises UsageError with one line where it cannot be read."""
    key, equals, value = text.partition("=")
    if text.lstrip().startswith(("+", "~")):
        raise UsageError(f"{text}: keys cannot be added or removed; write KEY=VALUE")
    if text.startswith("-") and equals:
        raise UsageError(f"{text}: settings have no dashes; write {text.lstrip('-')}")
    if "${" in value:
        raise UsageError(f"{text}: write the value itself; references are not followed here")
    quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if key.strip() and equals:
        for readable in (text, quoted):  # names and paths have characters that Hydra wants quoted
            with suppress(HydraException, ValueError):  # a number may have too many digits
                override = OverridesParser.create().parse_override(readable)
                if readable is quoted or not _is_misread(key, override):
                    return Typed(text, readable, override)
    raise UsageError(f"{text}: cannot be read as a setting; write KEY=VALUE, for example batch=2")


def _is_misread(key: str, override: Override) -> bool:
    """Whether text that looks like a number, such as the name 12e5, was taken for one."""
    is_text = _known_keys().get(key) in (str, str | None)
    return is_text and isinstance(override.value(), int | float)


def check(typed: Typed) -> None:
    """Raises UsageError with one line for what no run takes."""
    key, text, override = typed.key, typed.text, typed.override
    if key.startswith("hydra"):
        raise UsageError(f"{text}: Hydra's own settings are not used here")
    if override.package is not None:
        raise UsageError(f"{text}: write {key}=VALUE without @{override.package}")
    if override.is_sweep_override():
        raise UsageError(f"{text}: one run takes one value; for several: normbench sweep {text}")
    if key in group_keys():
        _check_choice(typed)
    elif key not in _known_keys():
        raise UsageError(f"{text}: unknown key {key}{_nearest(key)}")


def _check_choice(typed: Typed) -> None:
    """Refuses what is none of a group's choices."""
    value, options = typed.override.value(), group_names(typed.key)
    if str(value) not in options:
        raise UsageError(f"{typed.text}: unknown {typed.key}{_choose(str(value), options)}")


def group_keys() -> list[str]:
    """The keys whose values are choices, not numbers or texts."""
    return [registry.kind for registry in REGISTRIES] + ["optim", "experiment"]


def _known_keys() -> dict[str, Any]:
    """Every key that some choice of groups has, with its dots, and the type of its values."""
    members = [(f"{r.kind}.", cls) for r in REGISTRIES for cls in r.values()]
    return {
        prefix + field.name: field.type
        for prefix, cls in [("", Config), ("optim.", SGDConfig), *members]
        for field in fields(cls)
        if prefix + field.name not in [*group_keys(), "together"]
    }


def _nearest(word: str) -> str:
    words = [*_known_keys(), *group_keys()]
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not close:  # lr for optim.lr
        close = [known for known in words if known.rpartition(".")[2] == word][:1]
    return f"; did you mean {close[0]}?" if close else "; `normbench show` lists the keys"


def _choose(word: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, options, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    return f"{suggestion} (choose from {', '.join(options)})" if options else "; there is none"


def check_names(config: Config) -> None:
    """Refuses a configuration whose ``name`` says one thing and whose class another."""
    for registry, chosen in ((NORMS, config.norm), (MODELS, config.model)):
        if registry.get(chosen.name) is not type(chosen):
            raise UsageError(
                f"{registry.kind}.name={chosen.name}: write {registry.kind}={chosen.name} instead"
            )
    if DATA.get(config.data.source) is not type(config.data):
        raise UsageError(f"data.source={config.data.source}: write data={config.data.source}")


def in_words(error: Exception, parsed: Sequence[Typed]) -> str:
    """An error of Hydra's or OmegaConf's in one line, for the person who typed the overrides."""
    first_line = str(error).strip().partition("\n")[0]
    found = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(found, OmegaConfBaseException) or not found.full_key:
        return first_line
    key = found.full_key.partition("[")[0]  # optim.steps_at[0] is an element
    typed = next((each.text for each in reversed(parsed) if each.key == key), key)
    if isinstance(found, ConfigKeyError | ConfigAttributeError) and found.object_type in _CHOICES:
        return f"{typed}: {_has_no(found.object_type, found.key)}"
    if key in _known_keys() and not isinstance(found, InterpolationResolutionError):
        return f"{typed}: must be {_allowed(_known_keys()[key])}"
    return f"{typed}: {first_line}"


def _has_no(cls: Any, key: object) -> str:
    """``norm=batch has no groups; its keys: …``."""
    keys = [field.name for field in fields(cls) if field.name not in ("name", "source")]
    return f"{_CHOICES[cls]} has no {key}; its keys: {', '.join(keys)}"


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
    bool: "true or false",
    str: "text",
    str | None: "text or null",
    list[float]: "a list of numbers, for example [0.3,0.6]",
}
