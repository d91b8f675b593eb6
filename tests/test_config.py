"""The configuration: ranges, what makes two cells the same, and files that agree with the code."""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from enum import Enum
from importlib.resources import files
from typing import Any

import pytest
import yaml

from normbench.config import Config, Precision
from normbench.data import DATA
from normbench.data.library import Description
from normbench.data.sources import AutoConfig, ImagesConfig, SyntheticConfig
from normbench.errors import UsageError
from normbench.models import MODELS
from normbench.models.foreign import TorchvisionConfig
from normbench.models.resnet import ResNetConfig
from normbench.norms import NORMS
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.norms.online import OnlineNormConfig
from normbench.training.adamw import AdamWConfig
from normbench.training.optim import OPTIMS, Scaling, Schedule, SGDConfig

REGISTRIES: dict[str, Mapping[str, type[Any]]] = {
    "norm": NORMS,
    "model": MODELS,
    "data": DATA,
    "optim": OPTIMS,
}
CHOICES: list[tuple[str, type[Any]]] = [
    (f"{group}/{name}", cls)
    for group, registry in REGISTRIES.items()
    for name, cls in registry.items()
]


def config(**values: Any) -> Config:
    parts: dict[str, Any] = {
        "norm": GroupNormConfig(),
        "model": ResNetConfig(),
        "data": SyntheticConfig(),
        "optim": SGDConfig(),
    }
    return Config(**(parts | values))


def image_set(name: str = "toy", sha256: str = "a" * 64) -> Description:
    return Description(name, sha256, ("cat", "dog"), 8, 4, (8, 8))


def digest(images: Description | None = None, **values: Any) -> str:
    return config(**values).digest(images or image_set())


# ---- ranges ----


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 0),
        ("batch", -2),
        ("norm_batch", 0),
        ("epochs", 0),
        ("epochs", -1),
        ("seeds", 0),
        ("threads", 0),
        ("seed", -1),
        ("seed", 2**31),
        ("stack", 0),
        ("stack", "many"),
        ("name", ""),
        ("name", "a/b"),
        ("name", "a\\b"),
        ("name", ".."),
        ("name", ".hidden"),
        ("name", "seed-0"),
        ("runs", ""),
        ("runs", "~nobody-of-that-name/x"),
        ("seeds", 10**12),
        ("seeds", 10_001),
        ("threads", 1025),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key_and_itself(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{key}=.*: must ") as caught:
        config(**{key: value})

    assert str(value) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x\udcff", "a\x1b[31m", "a\nb"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"^name='.*': must have no characters that cannot"):
        config(name=name)


def test_norm_batch_must_divide_batch_and_the_divisors_are_named() -> None:
    with pytest.raises(UsageError, match=r"norm_batch=5 .*batch=12.*1, 2, 3, 4, 6, 12"):
        config(batch=12, norm_batch=5)


@pytest.mark.parametrize("value", [2**31 - 1, 0])
def test_the_ends_of_a_range_belong_to_it(value: int) -> None:
    assert config(seed=value, batch=1, epochs=1, seeds=1, threads=1).all_seeds == [value]


def test_seeds_count_from_the_first() -> None:
    assert config(seed=5, seeds=3).all_seeds == [5, 6, 7]


# ---- what makes two cells the same ----


@pytest.mark.parametrize(
    "values",
    [
        {"name": "other"},
        {"runs": "elsewhere"},
        {"device": "cpu"},
        {"threads": 1},
        {"seed": 3},
        {"seeds": 3},
        {"stack": 1},
        {"evaluate_every": 3},
        {"save_every": 0.0},
        {"norm_batch": 32},  # as many as the batch has
        {"norm_batch": 4},  # group norm has no use for it
        {"data": AutoConfig()},
    ],
    ids=str,
)
def test_what_cannot_change_a_result_is_no_part_of_the_digest(values: dict[str, Any]) -> None:
    assert digest(**values) == digest()


@pytest.mark.parametrize(
    "values",
    [
        {"batch": 16},
        {"epochs": 5},
        {"precision": Precision.bf16},
        {"norm": BatchNormConfig()},
        {"norm": GroupNormConfig(groups=4)},
        {"norm": GroupNormConfig(channels_per_group=4)},
        {"norm": GroupNormConfig(eps=1e-3)},
        {"norm": GroupNormConfig(affine=False)},
        {"norm": BatchNormConfig(), "norm_batch": 4},
        {"model": ResNetConfig(depth=14)},
        {"model": ResNetConfig(width=8)},
        {"model": ResNetConfig(cardinality=4)},
        {"optim": SGDConfig(lr=0.05)},
        {"optim": SGDConfig(schedule=Schedule.cosine)},
        {"optim": SGDConfig(decay_norm=False)},
        {"optim": SGDConfig(steps_at=[0.5])},
        {"optim": AdamWConfig()},
        {"optim": AdamWConfig(lr=0.1, scaling=Scaling.linear, weight_decay=5e-4)},
        {"data": SyntheticConfig(limit=64)},
        {"data": SyntheticConfig(test_limit=64)},
        {"data": SyntheticConfig(val_fraction=0.1)},
        {"data": SyntheticConfig(pad=0)},
        {"data": SyntheticConfig(flip=False)},
    ],
    ids=str,
)
def test_what_can_change_a_result_changes_the_digest(values: dict[str, Any]) -> None:
    assert digest(**values) != digest()


def test_ghost_statistics_make_another_cell_and_those_of_the_whole_batch_do_not() -> None:
    norm = BatchNormConfig()

    assert digest(norm=norm, norm_batch=32) == digest(norm=norm)
    assert len({digest(norm=norm, norm_batch=size) for size in (2, 4, 32)}) == 3
    online = OnlineNormConfig()  # shares statistics with examples that came before, however many
    assert digest(norm=online, norm_batch=2) == digest(norm=online)
    assert config(norm=online, norm_batch=2).norm_batch is None, "no record may tell it"


def test_the_images_count_by_name_and_content_and_not_by_how_they_were_asked_for() -> None:
    images, others = image_set(), image_set(sha256="b" * 64)

    assert digest(images) != digest(others)
    assert digest(images) != digest(image_set(name="other"))
    assert digest(images, data=ImagesConfig(name="toy")) == digest(images, data=AutoConfig())


def test_the_digest_is_the_same_in_every_process() -> None:
    # A change here throws away everybody's results: raise RECIPE only where they really differ.
    identity = config().identity(image_set())

    assert identity["recipe"] == 1
    assert not {"name", "runs", "device", "threads", "seed", "seeds", "stack"} & identity.keys()
    assert identity["data"] == {"name": "toy", "sha256": "a" * 64}
    assert len(digest()) == 64


def test_results_with_carried_statistics_but_another_eps_are_not_taken_for_those_of_today() -> None:
    foreign, own = TorchvisionConfig(carry=True), ResNetConfig(carry=True)

    assert config(norm=BatchNormConfig(), model=foreign).identity(image_set())["recipe"] == 2
    assert config(norm=BatchNormConfig(), model=own).identity(image_set())["recipe"] == 1
    assert config(norm=GroupNormConfig(), model=foreign).identity(image_set())["recipe"] == 1


def test_asking_for_the_identity_changes_nothing() -> None:
    asked = config(data=ImagesConfig(name="toy"))
    before = replace(asked)
    asked.digest(image_set())

    assert asked == before
    assert asked.data.name == "toy"


# ---- the files in configs/ ----


def read() -> dict[str, Any]:
    text = files("normbench.configs").joinpath("config.yaml").read_text(encoding="utf-8")
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    del loaded["defaults"]
    return loaded


def test_the_main_file_says_what_the_class_does() -> None:
    people = {f.name for f in fields(Config)} - {"together"}  # which is a sweep's own
    own = {f.name: f.default for f in fields(Config) if f.name in people - set(REGISTRIES)}

    assert read() == {k: v.value if isinstance(v, Enum) else v for k, v in own.items()}


def test_the_main_file_explains_its_keys() -> None:
    text = files("normbench.configs").joinpath("config.yaml").read_text(encoding="utf-8")
    keys = [line for line in text.splitlines() if line[:1].isalpha() and "defaults:" not in line]

    assert [line for line in keys if "#" not in line] == []


def own_fields(cls: type[Any]) -> Iterator[tuple[str, bool]]:
    """The fields that the class body introduces, and whether a docstring follows each."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    inherited = {name for base in cls.__mro__[1:] for name in getattr(base, "__annotations__", {})}
    for statement, following in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
            documented = (
                isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            )
            if name not in inherited and name not in REGISTRIES:
                yield name, documented


CLASSES: set[type[Any]] = {base for _, cls in CHOICES for base in cls.__mro__} | {Config}
DOCUMENTED = sorted((cls.__name__, cls) for cls in CLASSES if "__dataclass_fields__" in vars(cls))


@pytest.mark.parametrize(
    "cls", [cls for _, cls in DOCUMENTED], ids=[name for name, _ in DOCUMENTED]
)
def test_every_key_has_a_docstring(cls: type[Any]) -> None:
    assert [name for name, documented in own_fields(cls) if not documented] == []


# ---- defaults ----

DEFAULTS: dict[str, dict[str, Any]] = {
    "": {"norm_batch": None, "epochs": 4, "batch": 32, "precision": Precision.float32},
    "optim/sgd": {
        "lr": 0.1,
        "scaling": Scaling.linear,
        "scaling_batch": 32,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "decay_norm": True,
        "label_smoothing": 0.0,
        "warmup": 0.1,
        "schedule": Schedule.linear,
        "steps_at": [0.3, 0.6, 0.9],
        "step_factor": 0.1,
    },
    "data/images": {"limit": None, "val_fraction": 0.0, "pad": 4, "flip": True},
    "model/resnet": {"depth": 8, "width": 16, "cardinality": 1, "zero_init": False},
    "model/convnet": {"depth": 3, "width": 16},
    "norm/batch": {"eps": 1e-5, "affine": True, "momentum": 0.1},
    "norm/group": {
        "eps": 1e-5,
        "affine": True,
        "groups": "auto",
        "channels_per_group": None,
        "max_groups": 32,
    },
    "norm/layer": {"eps": 1e-5, "affine": True},
    "norm/instance": {"eps": 1e-5, "affine": True},
}


@pytest.mark.parametrize("path", list(DEFAULTS))
def test_a_default_stays_what_it_was_when_results_were_made_with_it(path: str) -> None:
    """The digest leaves out what is the default: another default would find other results."""
    made: Any = config() if not path else dict(CHOICES)[path]()
    assert {key: getattr(made, key) for key in DEFAULTS[path]} == DEFAULTS[path]


def test_a_new_setting_at_its_default_leaves_every_digest_as_it_was() -> None:
    images = image_set()
    before = config().identity(images)
    assert before.keys() == {"recipe", "batch", "epochs", "norm", "model", "data", "optim"}
    assert before["optim"] == {}
    assert config(optim=SGDConfig(lr=0.2)).identity(images)["optim"] == {"lr": 0.2}
