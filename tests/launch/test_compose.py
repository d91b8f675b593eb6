"""From overrides to a configuration: what composes, and what is said where it does not."""

import subprocess
import sys
from importlib.resources import files

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

from normbench.config import Config, Precision
from normbench.data import DATA
from normbench.data.sources import AutoConfig, SyntheticConfig
from normbench.errors import UsageError
from normbench.launch.compose import check, load_config, parse, to_yaml
from normbench.launch.hints import group_names
from normbench.models import MODELS
from normbench.models.convnet import ConvNetConfig
from normbench.models.resnet import ResNetConfig
from normbench.norms import NORMS
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNormConfig
from normbench.training.optim import Scaling, Schedule, SGDConfig

_FOLDER = files("normbench.configs").joinpath("experiment")
EXPERIMENTS = sorted(
    entry.name.removesuffix(".yaml")
    for entry in (_FOLDER.iterdir() if _FOLDER.is_dir() else ())
    if entry.name.endswith(".yaml")
)


def refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what composes ----


def test_nothing_on_the_command_line_is_the_dataclasses_defaults() -> None:
    assert load_config([]) == Config(
        norm=GroupNormConfig(), model=ResNetConfig(), data=AutoConfig(), optim=SGDConfig()
    )


def test_overrides_arrive_with_their_types() -> None:
    config = load_config(
        [
            "norm=group",
            "norm.groups=4",
            "model=convnet",
            "model.depth=2",
            "data=synthetic",
            "data.limit=64",
            "optim.lr=1",
            "optim.scaling=sqrt",
            "optim.schedule=step",
            "optim.steps_at=[0.25,0.5]",
            "batch=2",
            "norm_batch=1",
            "precision=bf16",
            "stack=3",
            "name=trial",
        ]
    )

    assert config.norm == GroupNormConfig(groups=4)
    assert config.model == ConvNetConfig(depth=2)
    assert config.data == SyntheticConfig(limit=64)
    assert config.optim == SGDConfig(
        lr=1.0, scaling=Scaling.sqrt, schedule=Schedule.step, steps_at=[0.25, 0.5]
    )
    assert isinstance(config.optim.lr, float)
    assert (config.batch, config.norm_batch, config.stack, config.name) == (2, 1, 3, "trial")
    assert config.precision is Precision.bf16


@pytest.mark.parametrize("name", list(NORMS))
def test_every_norm_composes_to_its_own_class(name: str) -> None:
    assert type(load_config([f"norm={name}"]).norm) is NORMS[name]


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_composes_to_its_own_class(name: str) -> None:
    assert type(load_config([f"model={name}"]).model) is MODELS[name]


@pytest.mark.parametrize("name", list(DATA))
def test_every_source_composes_to_its_own_class(name: str) -> None:
    assert type(load_config([f"data={name}"]).data) is DATA[name]


def test_every_experiment_composes() -> None:
    for name in EXPERIMENTS:
        assert isinstance(load_config([f"experiment={name}"]), Config), name


def test_the_order_of_overrides_does_not_matter_except_between_two_of_one_key() -> None:
    assert load_config(["norm.momentum=0.2", "norm=batch"]).norm == BatchNormConfig(momentum=0.2)
    assert load_config(["batch=2", "batch=4"]).batch == 4


@pytest.mark.parametrize(
    "name", ["7", "1e3", "7028e87", "123e4567", "2026_11_23", "12.50", "true", "0x1f", "nan"]
)
def test_a_number_is_a_fine_name(name: str) -> None:
    """For example a commit's: whatever it looks like, the folder is called so."""
    assert load_config([f"name={name}"]).name == name
    assert load_config(["data=images", f"data.name={name}"]).data.name == name


def test_a_number_with_too_many_digits_is_one_line() -> None:
    assert "must be a whole number" in refusal("batch=" + "1" * 5000)


def test_the_choices_are_the_files() -> None:
    assert group_names()["norm"] == sorted(NORMS)
    assert group_names()["model"] == sorted(MODELS)
    assert group_names()["data"] == sorted(DATA)


def test_the_printed_configuration_is_whole_and_says_what_was_asked() -> None:
    printed = yaml.safe_load(to_yaml(load_config(["norm=batch", "batch=2"])))

    assert printed["norm"]["name"] == "batch"
    assert printed["batch"] == 2
    assert "schema" not in printed
    assert "experiment" not in printed


def test_composing_leaves_hydra_as_it_was() -> None:
    load_config([])
    refusal("batch=x")

    assert not GlobalHydra.instance().is_initialized()


def test_composing_waits_for_nothing_it_does_not_need() -> None:
    program = (
        "import sys\n"
        "from normbench.launch.compose import load_config\n"
        "load_config(['norm=group', 'batch=2'])\n"
        "heavy = 'tensorboard matplotlib scipy typer PIL torchvision requests'.split()\n"
        "print(*[name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True
    )

    assert done.stdout.split() == []


# ---- what is said where it does not ----


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("btach=2", "batch"),
        ("bach=2", "batch"),
        ("epoch=2", "epochs"),
        ("lr=0.1", "optim.lr"),
        ("depth=8", "model.depth"),
        ("limit=8", "data.limit"),
        ("optim.lrr=1", "optim.lr"),
        ("norm.group=4", "norm.groups"),
        ("models=resnet", "model"),
        ("norms=batch", "norm"),
        ("norm=grup", "group"),
        ("norm=bacth", "batch"),
        ("model=resnext", "resnet"),
        ("data=cifar", "cifar10"),
    ],
)
def test_the_nearest_name_is_suggested(typed: str, meant: str) -> None:
    message = refusal(typed)

    assert message.startswith(f"{typed}: unknown ")
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("group", ["norm", "model", "data"])
def test_an_unknown_choice_lists_what_there_is(group: str) -> None:
    message = refusal(f"{group}=xyzzy")

    assert (
        message == f"{group}=xyzzy: unknown {group} (choose from {', '.join(group_names()[group])})"
    )


def test_a_key_of_another_choice_is_named_with_the_keys_of_this_one() -> None:
    message = refusal("norm=batch", "norm.groups=4")

    start = "norm.groups=4: norm=batch has no groups; its keys: eps, affine, momentum"
    assert message.startswith(start)


@pytest.mark.parametrize(
    ("override", "allowed"),
    [
        ("batch=two", "a whole number"),
        ("batch=2.5", "a whole number"),
        ("batch=true", "a whole number"),
        ("batch=[2]", "a whole number"),
        ("batch={a: 2}", "a whole number"),
        ("batch=", "a whole number"),
        ("data.limit=1.5", "a whole number"),
        ("optim.lr=fast", "a number"),
        ("optim.steps_at=[early]", "a list of numbers"),
        ("optim.steps_at=0.5", "a list of numbers, for example [0.3,0.6]"),
        ("optim.steps_at={a: 1}", "a list of numbers"),
        ("batch=???", "a whole number"),
        ("batch==2", "a whole number"),
        ("batch='2", "a whole number"),
        ("data.limit=größe", "a whole number or null"),
        ("precision={a: 1}", "float32, bf16"),
        ("optim.nesterov=maybe", "true or false"),
        ("precision=fp16", "float32, bf16"),
        ("optim.schedule=sine", "linear, cosine, step, constant"),
        ("optim.scaling=cubic", "linear, sqrt, none"),
        ("norm.groups=2.5", "auto or a whole number"),
        ("norm.groups=some", "auto or gcd32 or C//16 or a whole number"),
        ("stack=2.5", "auto or a whole number"),
    ],
)
def test_a_wrong_type_is_named_with_what_is_right(override: str, allowed: str) -> None:
    message = refusal(override)

    assert message.startswith(f"{override}: must be")
    assert allowed in message


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("batch", "a whole number"),
        ("epochs", "a whole number"),
        ("optim.lr", "a number"),
        ("optim.nesterov", "true or false"),
        ("optim.scaling", "one of linear, sqrt, none"),
        ("norm.groups", "auto or a whole number"),
        ("name", "text"),
        ("device", "text"),
    ],
)
def test_null_is_refused_where_there_has_to_be_a_value(key: str, allowed: str) -> None:
    assert refusal(f"{key}=null") == f"{key}=null: must be {allowed}"


@pytest.mark.parametrize("value", ["[1]", "{a: 1}"])
def test_a_text_that_is_none_is_named(value: str) -> None:
    assert refusal(f"name={value}") == f"name={value}: must be text"


@pytest.mark.parametrize(
    "override",
    ["batch=${nope}", "batch=${oc.env:HOME}", "batch=${", "name=${nope}", "batch=${x:1}"],
)
def test_a_reference_is_refused(override: str) -> None:
    assert refusal(override).startswith(f"{override}: write the value itself")


@pytest.mark.parametrize("value", ["größe", "a'b", 'a"b', "a b", "a,b'c", "~a", "50%", "a\\", "#1"])
def test_a_name_needs_no_quotes(value: str) -> None:
    if "\\" in value:
        assert "without slashes" in refusal(f"name={value}")
    else:
        assert load_config([f"name={value}"]).name == value


def test_home_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")

    assert load_config(["runs=~/x"]).runs == "/somewhere/x"
    assert "runs: /somewhere/x" in to_yaml(load_config(["runs=~/x"]))


@pytest.mark.parametrize("override", ["--batch=2", "-batch=2"])
def test_a_setting_with_dashes_is_answered_with_one_without(override: str) -> None:
    assert refusal(override) == f"{override}: settings have no dashes; write batch=2"


@pytest.mark.parametrize("override", ["+foo=1", "++batch=1", "+batch=1", "~batch", "~norm", "~foo"])
def test_keys_are_neither_added_nor_removed(override: str) -> None:
    assert refusal(override) == (f"{override}: keys cannot be added or removed; write KEY=VALUE")


@pytest.mark.parametrize("override", ["batch=2,4", "norm=batch,group", "batch=range(1,3)"])
def test_several_values_are_refused(override: str) -> None:
    assert refusal(override).startswith(f"{override}: one run takes one value")


@pytest.mark.parametrize("override", ["name=a,b", "stack=1,2", "experiment=quick,long"])
def test_several_values_of_what_a_sweep_takes_one_of_name_no_sweep(override: str) -> None:
    assert refusal(override) == f"{override}: takes one value"


@pytest.mark.parametrize(
    "override",
    ["seed=interval(1,5)", "seeds=glob(*)", "seed=range(1,5,0)", "seed=range(0,100000000000)"],
)
def test_seeds_that_cannot_be_listed_are_refused_as_well(override: str) -> None:
    assert refusal(override).startswith(f"{override}: every cell has all its seeds; write seed")


def test_lists_within_lists_without_end_are_refused() -> None:
    text = f"optim.steps_at={'[' * 2000}{']' * 2000}"
    assert refusal(text).startswith("optim.steps_at=[[[")


@pytest.mark.parametrize("override", ["batch", "batch 2", "", " ", "=", "a'b=2"])
def test_what_is_no_override_is_answered_with_one_that_is(override: str) -> None:
    message = refusal(override)

    assert "KEY=VALUE" in message or "keys" in message


def test_a_value_without_a_key_is_no_key_that_is_unknown() -> None:
    assert refusal("=2").startswith("=2: cannot be read as a setting; write KEY=VALUE")


@pytest.mark.parametrize("override", ["hydra.run.dir=x", "hydra/launcher=joblib", "hydra=x"])
def test_hydras_own_settings_are_not_ours(override: str) -> None:
    assert "Hydra's own settings" in refusal(override)


@pytest.mark.parametrize("override", ["norm@model=batch", "norm@x.y=batch"])
def test_packages_are_refused(override: str) -> None:
    assert refusal(override).startswith(f"{override}: write norm=VALUE")


@pytest.mark.parametrize(
    "override", ["schema=config", "schema/norm=group", "norm._target_=os.system"]
)
def test_there_is_no_back_door(override: str) -> None:
    assert refusal(override).startswith(f"{override}: unknown key")


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("norm.name=batch", "norm=batch"),
        ("model.name=convnet", "model=convnet"),
        ("data.source=cifar10", "data=cifar10"),
    ],
)
def test_a_choice_is_made_by_its_group(override: str, instead: str) -> None:
    assert refusal(override).startswith(f"{override}: write {instead}")


def test_of_several_mistakes_one_is_named() -> None:
    message = refusal("batch=0", "epochs=-1", "norm=grup", "btach=3")

    assert message.startswith(("norm=grup: ", "btach=3: ", "batch=0: ", "epochs=-1: "))


# ---- one override ----


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("batch=2", "batch", 2),
        ("optim.lr=1e-3", "optim.lr", 0.001),
        ("norm=group", "norm", "group"),
        ("norm.groups=auto", "norm.groups", "auto"),
        ("norm_batch=null", "norm_batch", None),
        ("optim.steps_at=[0.5,0.75]", "optim.steps_at", [0.5, 0.75]),
        ("name='a b'", "name", "a b"),
        ("name=größe", "name", "größe"),
        ("runs=/a/b c/d", "runs", "/a/b c/d"),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_an_override_is_read_as_its_key_and_its_value(text: str, key: str, value: object) -> None:
    typed = parse(text)

    assert (typed.text, typed.key, typed.value) == (text, key, value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("batch=2", "batch: 2"),
        ("norm=layer", "  name: layer"),
        ("experiment=quick", "name: quick"),
        ("save_every=0", "save_every: 0.0"),
    ],
)
def test_what_a_run_takes_passes_and_takes_effect(text: str, line: str) -> None:
    check(parse(text))

    assert line in to_yaml(load_config([text])).splitlines()
    assert line not in to_yaml(load_config([])).splitlines()


@pytest.mark.parametrize("value", ["-1", "inf", "nan", "soon", "null"])
def test_the_time_between_checkpoints_is_a_number_of_seconds(value: str) -> None:
    assert refusal(f"save_every={value}").startswith("save_every=")


def test_an_unknown_experiment_lists_what_there_is() -> None:
    message = refusal("experiment=naiv")

    assert message.startswith("experiment=naiv: unknown experiment; did you mean naive?")
    assert all(name in message for name in EXPERIMENTS)


def test_a_single_run_of_an_experiment_is_the_cell_with_its_defaults() -> None:
    config = load_config(["experiment=isolated", "norm=batch", "norm_batch=2"])

    assert (config.name, config.batch, config.norm_batch) == ("isolated", 128, 2)
    assert config.norm == BatchNormConfig()


def test_the_command_line_wins_over_an_experiment() -> None:
    config = load_config(["experiment=quick", "batch=8", "epochs=9", "name=mine", "data.limit=32"])

    assert (config.batch, config.epochs, config.name, config.data.limit) == (8, 9, "mine", 32)
