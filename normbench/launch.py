"""From overrides on the command line to a configuration; the only file that knows Hydra."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from normbench.config import Config
from normbench.data import DATA
from normbench.errors import UsageError
from normbench.models import MODELS
from normbench.norms import NORMS
from normbench.optim import SGDConfig

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
    config = OmegaConf.to_object(compose_tree(overrides))
    assert isinstance(config, Config)
    _check_names(config)
    return config


def to_yaml(overrides: Sequence[str]) -> str:
    """The composed configuration as YAML."""
    return OmegaConf.to_yaml(compose_tree(overrides))


def compose_tree(overrides: Sequence[str]) -> DictConfig:
    """The composed configuration as Hydra's tree, with :func:`load_config`'s errors."""
    _register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIGS, version_base="1.3"):
        for override in _parse(overrides):
            _check_override(override)
        try:
            return compose("config", overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_one_line(error)) from None


def group_names(group: str) -> list[str]:
    """The choices of a configuration group, as the files in ``configs/`` define them."""
    if not GlobalHydra.instance().is_initialized():
        with initialize_config_module(CONFIGS, version_base="1.3"):
            return group_names(group)
    return GlobalHydra.instance().config_loader().get_group_options(group)


def _register_schemas() -> None:
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config, package="_global_")
    store.store(group="schema/optim", name="sgd", node=SGDConfig)
    for registry in REGISTRIES:
        for name, node in registry.items():
            store.store(group=f"schema/{registry.kind}", name=name, node=node)


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except OverrideParseException:
            hint = "write KEY=VALUE, for example batch=2"
            raise UsageError(f"{text}: cannot be read as an override; {hint}") from None
    return parsed


def _check_override(override: Override) -> None:
    key, text = override.key_or_group, override.input_line
    if override.is_add() or override.is_delete() or override.is_force_add():
        raise UsageError(f"{text}: keys cannot be added or removed; write KEY=VALUE")
    if key.startswith("hydra"):
        raise UsageError(f"{text}: Hydra's own settings belong to `normbench sweep`")
    if override.package is not None:
        raise UsageError(f"{text}: write {key}=VALUE without @{override.package}")
    if override.is_sweep_override():
        raise UsageError(f"{text}: several values are for `normbench sweep`; run takes one")
    groups = _groups()
    if key in groups:
        value = override.value()
        options = group_names(key)
        if value is None and key == "experiment":
            return
        if str(value) not in options:
            raise UsageError(f"{text}: unknown {key}{_choose(str(value), options)}")
        return
    known = _known_keys()
    if key not in known:
        raise UsageError(f"{text}: unknown key {key}{_nearest(key, [*known, *groups])}")


def _groups() -> list[str]:
    return [registry.kind for registry in REGISTRIES] + ["optim", "experiment"]


def _known_keys() -> list[str]:
    """Every key that some choice of groups has, with its dots."""
    store = ConfigStore.instance()
    keys = [key for key in OmegaConf.structured(Config) if key not in _groups()]
    for group in [registry.kind for registry in REGISTRIES] + ["optim"]:
        for name in store.list(f"schema/{group}"):
            node = store.load(f"schema/{group}/{name}").node
            keys += [f"{group}.{key}" for key in node if isinstance(key, str)]
    return sorted(set(keys))


def _nearest(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    if not close:  # lr for optim.lr
        close = [known for known in words if known.rpartition(".")[2] == word][:1]
    return f"; did you mean {close[0]}?" if close else "; `normbench show` lists the keys"


def _choose(word: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, options, n=1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    return f"{suggestion} (choose from {', '.join(options)})" if options else "; there is none"


def _check_names(config: Config) -> None:
    """Refuses a configuration whose ``name`` says one thing and whose class another."""
    for registry, chosen in ((NORMS, config.norm), (MODELS, config.model)):
        if registry.get(chosen.name) is not type(chosen):
            raise UsageError(
                f"{registry.kind}.name={chosen.name}: write {registry.kind}={chosen.name} instead"
            )
    if DATA.get(config.data.source) is not type(config.data):
        raise UsageError(f"data.source={config.data.source}: write data={config.data.source}")


def _one_line(error: Exception) -> str:
    """An error of Hydra's or OmegaConf's in one line and in words for the person who typed it."""
    chain = [str(error).strip().partition("\n")[0]]
    cause: BaseException | None = error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, HydraException | OmegaConfBaseException):
            chain.append(str(cause).strip().partition("\n")[0])
        cause = cause.__cause__ or cause.__context__
    # Hydra's outermost message names the override, and little else.
    subject = re.sub(r"^(Error merging override |Could not override ')|'\.$", "", chain[0])
    subject = subject if len(chain) > 1 else ""
    for pattern, words in _IN_WORDS:
        if match := re.search(pattern, chain[-1]):
            return f"{subject}: {words(match)}" if subject else words(match)
    return f"{subject}: {chain[-1]}" if subject else chain[-1]


def _keys_of(class_name: str) -> str:
    classes = [cls for registry in REGISTRIES for cls in registry.values()]
    found = next(cls for cls in classes if cls.__name__ == class_name)
    return ", ".join(field.name for field in fields(found) if field.name not in ("name", "source"))


_TYPES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}

# OmegaConf says what went wrong inside it; a person needs to know what to write.
_IN_WORDS: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"could not be converted to (\w+)", lambda m: f"must be {_TYPES.get(m[1], m[1])}"),
    (r"is not a valid (bool)", lambda m: "must be true or false"),
    (r"expected one of \[(.*)\]", lambda m: f"must be one of {m[1]}"),
    (r"type hint 'Union\[int, str\]'", lambda m: "must be auto or a whole number"),
    (r"is not a ListConfig", lambda m: "must be a list, for example [0.3,0.6]"),
    (
        r"Key '(.+)' not in '(\w+)'",
        lambda m: f"{m[1]} does not belong to this choice; its keys: {_keys_of(m[2])}",
    ),
]
