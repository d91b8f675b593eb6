"""What people type by mistake, and the answer: one line that says what to write instead."""

import shlex
from pathlib import Path

import pytest

from tests.cli.test_refusals import refused
from tests.conftest import Command

# command line -> the words its answer has to contain
MISTAKES = {
    # a word for a setting
    "run group": "write KEY=VALUE, here norm=group",
    "run layer batch=2": "here norm=layer",
    "run resnet": "here model=resnet",
    "run cifar10": "here data=cifar10",
    "run sgd": "here optim=sgd",
    "run batch 8": "here batch=8",
    "run norm group": "here norm=group",
    "run seeds": "here seeds=VALUE",
    "run norm = group": "here norm=group",
    "run norm =group": "here norm=group",
    "run norm= group": "here norm=group",
    "run norm:group": "here norm=group",
    "run batch: 8": "here batch=8",
    "run bs 8": "here batch=8",
    "run 8": "write KEY=VALUE, for example batch=2",
    "show group": "here norm=group",
    "sweep group": "here norm=group",
    "sweep quick": "here experiment=quick",
    # options
    "run --norm group": "here norm=group",
    "run --norm=group": "settings have no dashes; write norm=group",
    "run --batch-size 8": "here batch=8",
    "run -seeds=3": "settings have no dashes; write seeds=3",
    "run --dry-run": "--dry-run: is for normbench sweep, not run",
    "sweep norm=group --fresh": "--fresh: is for normbench run, not sweep",
    "advise --dry-run": "--dry-run: is for normbench sweep, not advise",
    "run -batch 2": "write KEY=VALUE, here batch=2",
    "run -batch=2": "settings have no dashes; write batch=2",
    "run -fresh": "options have two dashes; write --fresh;",
    # the options of advise
    "advise group": "norms are named together, without blanks: --norms batch,group",
    "advise --norms batch, group": "group: norms are named together, without blanks: --norms",
    "advise --norms group, batch": "batch: norms are named together, without blanks: --norms",
    "advise --norms batch,group batch 2": "here batch=2",
    "advise --norm batch,group": "--norm: advise chooses; use --norms batch,group",
    "advise --norm=batch,group": "--norm=batch,group: advise chooses; use --norms batch,group",
    "advise norm=batch,group": "advise chooses; use --norms batch,group",
    "advise -norm batch,group": "advise chooses; use --norms batch,group",
    "advise norms=batch,group": "norms=batch,group: write --norms batch,group",
    "advise norms batch,group": "write --norms batch,group",
    "advise -norms batch,group": "write --norms",
    "advise within=30m": "within=30m: write --within 30m",
    "advise within 30m": "write --within 30m",
    "advise -within 3m": "-within: options have two dashes; write --within;",
    "advise -within=3m": "options have two dashes; write --within 3m;",
    "advise --seeds 3": "advise chooses; use --within: it buys seeds",
    "run --nope": "for example batch=2; see normbench --help",
    "sweep --norm=batch,group": "write norm=batch,group",
    # quotes
    "run 'norm=group batch=2'": "remove the quotes: normbench run norm=group batch=2",
    "sweep 'norm=batch,group batch=2,8'": "normbench sweep norm=batch,group batch=2,8",
    "run 'norm=group; batch=2'": "remove the quotes: normbench run norm=group batch=2",
    # norms, as others write them
    "run norm=gn": "did you mean group?",
    "run norm=bn": "did you mean batch?",
    "run norm=ln": "did you mean layer?",
    "run norm=in": "did you mean instance?",
    "run norm=GroupNorm": "did you mean group?",
    "run norm=BatchNorm2d": "did you mean batch?",
    "run norm=layer_norm": "did you mean layer?",
    "run norm=Group": "did you mean group?",
    "run norm=grup": "did you mean group? (choose from ",
    "run norm=xyzzy": "unknown norm (choose from ",
    "sweep norm=bn,gn": "norm=bn: unknown norm; did you mean batch?",
    # models and data
    "run model=resnet20": "did you mean model=resnet model.depth=20?",
    "run model=ResNet-20": "did you mean model=resnet model.depth=20?",
    "run model=convnet3": "did you mean model=convnet model.depth=3?",
    "run model=resnext": "did you mean resnet?",
    "run data=cifar": "did you mean cifar10?",
    "run data=CIFAR-10": "did you mean cifar10?",
    "run data=imagenet": "unknown data",
    "run data=cifar10": "normbench data fetch cifar10",
    "run data=tiny": "did you mean data=images data.name=tiny?",
    "run data.name=tiny": "write data=images data.name=tiny",
    "run data=images": "data.name=NAME; imported: tiny",
    "run data=images data.name=tinny": "has: tiny",
    # keys, as others call them
    "run bs=8": "did you mean batch?",
    "run batch_size=8": "did you mean batch?",
    "run lr=0.1": "did you mean optim.lr?",
    "run learning_rate=0.1": "did you mean optim.lr?",
    "run wd=0": "did you mean optim.weight_decay?",
    "run num_epochs=3": "did you mean epochs?",
    "run epoch=3": "did you mean epochs?",
    "run dataset=cifar10": "did you mean data?",
    "run arch=resnet": "did you mean model?",
    "run num_groups=4": "did you mean norm.groups?",
    "run groups=4": "did you mean norm.groups?",
    "run depth=20": "did you mean model.depth?",
    "run gpu=0": "did you mean device?",
    "run BATCH=8": "did you mean batch?",
    "run btach=8": "did you mean batch?",
    "run norm.group=4": "did you mean norm.groups?",
    "run xyzzy=1": "`normbench show` lists the keys",
    # values
    "run seeds=0,1,2": "every cell has all its seeds; write seeds=3",
    "run seed=0,1,2": "write seeds=3",
    "sweep seeds=0,1,2": "write seeds=3",
    "sweep seed=5,6": "write seed=5 seeds=2",
    "run 'seeds=[0,1,2]'": "seeds=[0,1,2]: must be a whole number",
    "run batch=2,8": "for several: normbench sweep batch=2,8",
    "run norm=batch,group": "normbench sweep norm=batch,group",
    "run batch=two": "must be a whole number",
    "run batch=8.5": "must be a whole number",
    "run batch=1e3": "must be a whole number",
    "run batch=0": "must be at least 1",
    "run norm=batch norm.groups=4": "norm=batch has no groups; its keys: ",
    "run optim.schedule=cos": "one of linear, cosine, step, constant",
    "run precision=fp16": "one of float32, bf16",
    "run device=gpu": "must be auto, cpu, cuda",
    "run device=0": "must be auto, cpu, cuda",
    # experiments
    "run experiment=quick": "use sweep: normbench sweep experiment=quick",
    "run experiment=naive seeds=2": "normbench sweep experiment=naive seeds=2",
    "sweep experiment=quik": "did you mean quick?",
    # commands
    "train norm=group": "No such command 'train'",
    "norm": "Did you mean 'norms'",
    "norms gn": "did you mean group?",
    "norms GroupNorm": "did you mean group?",
    "report": "Missing argument",
    "report nowhere": "nowhere",
    "runs nowhere": "give one like runs/NAME, or train some with normbench sweep",
    "tensorboard nowhere": "no runs there; train one with `normbench run`",
    "data import nowhere --name x": "nowhere does not exist",
    "data import . --name x --fit squeeze": "--fit",
    "data fetch mnist": "cifar10, cifar100",
    "completion fish": "bash",
    "completion": "Missing argument 'shell'. Choose from: bash, zsh; see",
    "sweep 'batch=range(2,8,0)'": "the step of a range must not be 0",
}


@pytest.mark.parametrize("line", list(MISTAKES))
def test_a_mistake_is_answered_with_what_to_write(
    nb: Command, tiny: list[str], tmp_path: Path, line: str
) -> None:
    answer = refused(nb(*shlex.split(line)), tmp_path)

    assert MISTAKES[line].lower() in answer.lower()


@pytest.mark.parametrize("line", ["run 'name=a b' norm=gruop", "run name= norm=gruop"])
def test_what_is_no_mistake_is_passed_over(
    nb: Command, tiny: list[str], tmp_path: Path, line: str
) -> None:
    """A blank belongs in a name, and a value may be empty: the next mistake is the one named."""
    assert "norm=gruop" in refused(nb(*shlex.split(line)), tmp_path)


def test_an_experiment_whose_cell_is_given_in_full_is_run(nb: Command, tiny: list[str]) -> None:
    result = nb("run", *tiny, "experiment=quick", "norm=group", "seeds=1")

    assert result.exit_code == 0, result.output
