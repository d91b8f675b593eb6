"""From overrides on the command line to a configuration. Only this and grid.py know Hydra."""

import copy
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from normbench.config import LIMITS, PLACES, Config
from normbench.errors import UsageError
from normbench.launch import hints
from normbench.launch.choices import CONFIGS, LAUNCHERS
from normbench.launch.hints import REGISTRIES, group_names, known_keys
from normbench.registry import NAMED_BY

_EXTRAS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray"}


def load_config(overrides: Sequence[str], command: str = "show") -> Config:
    """Composes the configuration from ``configs/`` and ``overrides``.

    Args:
        overrides: as on the command line, ``norm=group``, ``optim.lr=0.05``.
        command: what they are for; ``run`` takes one cell only.

    Raises:
        UsageError: an override is misspelt, of the wrong type or out of range; the message says
            what was received and what is allowed.
    """
    register_schemas()
    hints.check_arguments(command, overrides)
    parsed = [parse(text) for text in overrides]
    for each in parsed:
        check(each)
    return composed(parsed)


def composed(overrides: Sequence["Typed"]) -> Config:
    """What Hydra composes of ``overrides``.

    Raises:
        UsageError: a value is none that its key takes.
    """
    chosen = tuple(each.readable for each in overrides if each.key in group_names())
    try:
        tree = copy.deepcopy(_tree(chosen))
        for each in overrides:
            if each.key not in group_names():
                OmegaConf.update(tree, each.key, each.value, merge=True)
        config = OmegaConf.to_object(tree)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(in_words(error, overrides)) from None
    assert isinstance(config, Config)
    check_names(config)
    return config


@lru_cache(maxsize=100)
def _tree(chosen: tuple[str, ...]) -> DictConfig:
    """What Hydra composes of choices of groups: by far the longest part, and often the same."""
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIGS, version_base="1.3"):
        return compose("config", overrides=list(chosen))


def to_yaml(config: Config) -> str:
    """The configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


@lru_cache(maxsize=100)
def master(overrides: tuple[str, ...]) -> DictConfig:
    """What Hydra composes for all jobs of a sweep, its own part included; nobody changes it.

    Hydra is initialized.
    """
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    return hydra.compose_config("config", list(overrides), RunMode.MULTIRUN)


def register_schemas() -> None:
    """Tells Hydra what there is to choose from, and the types of what ``configs/`` holds.

    A choice is its dataclass: names, types and defaults are written there alone.
    """
    ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConfig)
    _register("schema", "config", Config, package="_global_")
    for registry in REGISTRIES:
        for name, node in registry.items():
            _register(registry.kind, name, node)


def _register(group: str, name: str, node: type, package: str | None = None) -> None:
    """Stores a class, which takes a while, unless it is there already."""
    store = ConfigStore.instance()
    known = store.repo.get(group, {}).get(f"{name}.yaml")
    if known is None or OmegaConf.get_type(known.node) is not node:
        _tree.cache_clear()
        master.cache_clear()
        store.store(group=group, name=name, node=node, package=package)


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


@lru_cache(maxsize=4096)  # Hydra's parser takes milliseconds, and grids say the same again
def parse(text: str) -> Typed:
    """Reads ``KEY=VALUE``; raises UsageError with one line where it cannot be read."""
    key, equals, value = text.partition("=")
    if text.lstrip().startswith(("+", "~")):
        raise UsageError(f"{text}: keys cannot be added or removed; write KEY=VALUE")
    if "${" in value:
        raise UsageError(f"{text}: write the value itself; references are not followed here")
    quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if key.strip() and equals:
        for readable in (text, quoted):  # names and paths have characters that Hydra wants quoted
            with suppress(HydraException, ValueError, RecursionError):  # too many digits, or lists
                override = OverridesParser.create().parse_override(readable)
                if readable is quoted or not _is_misread(key, override):
                    return Typed(text, readable, override)
    raise UsageError(f"{text}: cannot be read as a setting; write KEY=VALUE, for example batch=2")


def _is_misread(key: str, override: Override) -> bool:
    """Whether text that looks like a number, such as the name 12e5, was taken for one."""
    is_text = known_keys().get(key) in (str, str | None)
    return is_text and isinstance(override.value(), int | float)


def check(typed: Typed) -> None:
    """Raises UsageError with one line for what no run takes."""
    key, text, override = typed.key, typed.text, typed.override
    if key.startswith("hydra"):
        raise UsageError(f"{text}: Hydra's own settings are not used here")
    if override.package is not None:
        raise UsageError(f"{text}: write {key}=VALUE without @{override.package}")
    if override.is_sweep_override():
        if key in ("seed", "seeds"):
            raise hints.several_seeds(text, _listed(override))
        if key in ("experiment", *PLACES):
            raise UsageError(f"{text}: takes one value")
        raise UsageError(f"{text}: one run takes one value; for several: normbench sweep {text}")
    if key in group_names():
        if str(override.value()) not in group_names()[key]:
            raise hints.unknown_choice(text, key, str(override.value()))
    elif key not in known_keys():
        raise hints.unknown_key(text, key)


def _listed(override: Override) -> list[object]:
    """The values of a sweep, as far as they can be listed."""
    with suppress(HydraException, ValueError, ArithmeticError):
        return list(islice(override.sweep_iterator(), LIMITS["seeds"]))
    return []


def by_key(texts: Iterable[str]) -> dict[str, str]:
    """Overrides by what they set; of several for one key the last."""
    return {parse(text).key: text for text in texts}


def split_launcher(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Parts what says how cells are spread, which is checked, from the settings of the cells."""
    launcher = [text for text in arguments if text.startswith("hydra")]
    for text in launcher:
        check_launcher(text)
    return launcher, [text for text in arguments if not text.startswith("hydra")]


def check_launcher(text: str) -> None:
    """Of Hydra's own settings, only the launcher's are for people to choose."""
    key, _, value = text.partition("=")
    if key == "hydra/launcher":
        if value not in LAUNCHERS:
            raise UsageError(f"{text}: unknown launcher; choose from {', '.join(LAUNCHERS)}")
        if value not in _installed(key):
            raise UsageError(
                f"{text}: not installed; pip install 'normbench[{_EXTRAS[value]}]' brings it"
            )
    elif "${" in value:
        raise UsageError(f"{text}: write the value itself; references are not followed here")
    elif not key.startswith("hydra.launcher.") or "_target_" in text:
        raise UsageError(f"{text}: of Hydra's settings, only those of hydra/launcher are used")


def _installed(group: str) -> list[str]:
    Plugins.instance()  # importing the plugins stores their choices
    return [name.removesuffix(".yaml") for name in ConfigStore.instance().list(group)]


def check_names(config: Config) -> None:
    """Refuses a configuration of which a group's name says one thing and its class another."""
    for registry in REGISTRIES:
        group, key = registry.kind, NAMED_BY[registry.kind]
        chosen = getattr(config, group)
        name = getattr(chosen, key)
        if registry.get(name) is not type(chosen):
            raise UsageError(f"{group}.{key}={name}: write {group}={name} instead")


def in_words(error: Exception, parsed: Sequence[Typed]) -> str:
    """An error of Hydra's or OmegaConf's in one line, for the person who typed the overrides."""
    first_line = str(error).strip().partition("\n")[0]
    found = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if not isinstance(found, OmegaConfBaseException) or not found.full_key:
        return first_line
    key = found.full_key.partition("[")[0]  # optim.steps_at[0] is an element
    typed = next((each.text for each in reversed(parsed) if each.key == key), key)
    said: str | None = None
    missing = isinstance(found, ConfigKeyError | ConfigAttributeError)
    launcher = key.startswith("hydra.launcher.")
    if missing and launcher:
        said = hints.launcher_has_no(found.object_type, found.key)
    elif missing:
        said = hints.has_no(found.object_type, found.key)
    elif launcher:
        said = str(found).partition("\n")[0]
    elif not isinstance(found, InterpolationResolutionError):
        said = hints.must_be(key)
    return f"{typed}: {said or first_line}"
