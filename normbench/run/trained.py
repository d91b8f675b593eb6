"""A trained network in a file: loaded, diagnosed, and written with better statistics."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor, nn

from normbench.config import Config, Precision
from normbench.errors import UnreadableError, UsageError
from normbench.models.base import trained_here
from normbench.models.files import plain_name, tensors_in, without_counters
from normbench.norms import Norm, NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.parts import Slot
from normbench.run.cell import Cell
from normbench.run.diagnose import Findings, diagnose
from normbench.run.machine import prepared
from normbench.run.remedies import Gain
from normbench.store.weights import ENDINGS, WEIGHTS, write_weights
from normbench.terminal.screen import Screen
from normbench.terminal.words import count


def diagnose_file(
    config: Config,
    weights: Path,
    screen: Screen,
    *,
    fix: Path | None = None,
    replace: bool = False,
) -> Findings:
    """Diagnoses the network of ``config`` with the weights in a file, and prints what was found.

    Accuracies are those of the held-out images, where ``data.val_fraction`` says so, else of the
    test images.

    Args:
        config: the network, its images, and the batch size that it was trained with.
        weights: a safetensors file, one that ``torch.save`` wrote, or a seed's folder.
        screen: where it is printed.
        fix: where the weights are written with re-estimated statistics, see ``write_weights``.
        replace: whether a file that is there is replaced.

    Raises:
        UsageError: a file or the images are missing, the weights do not fit the network, or it has
            no batch norm. Nothing is written then.
    """
    if fix is not None:
        _check_place(fix, replace)
    path = _file(weights)
    tensors = _read(path)
    cell = Cell.of(config)
    with prepared(config) as device:
        network = _network(cell, tensors, path)
        cell.check_fit()
        splits = cell.splits(device)
        with screen.working(path.name) as bar:
            found = diagnose(
                network.to(device),
                splits.train,
                splits.validation or splits.test,
                batch=config.statistics_batch,
                step=config.batch,
                frozen=_frozen(config.norm),
                flip=config.data.flip,
                epoch=config.epochs,
                autocast=config.precision is Precision.bf16,
                told=bar.update,
            )
    _show(screen, f"{path}: {config.model.title} on {cell.images.name}", found)
    if prepared_so := _preparation(config):
        screen.line(
            f"re-estimated from training images {prepared_so}; if training did otherwise, say so"
            " (data.pad=0 data.flip=false)"
        )
    if fix is not None:
        write_weights(fix, _fixed(tensors, found.statistics))
        screen.line(f"written with re-estimated statistics: {fix}")
        if (loss := Gain(*found.accuracies[:2])).clear:
            screen.line(f"the running averages were better: {loss.points}")
    elif found.change.clear:
        screen.line("--fix FILE writes the weights with re-estimated statistics")
    return found


def _preparation(config: Config) -> str:
    """What is done to training images, in words; "" for nothing."""
    pad, flip = config.data.pad, config.data.flip
    if not pad:
        return "mirrored at random" if flip else ""
    end = ", cropped and mirrored at random" if flip else " and cropped at random"
    return f"padded by {count(pad, 'pixel')}{end}"


def _frozen(norm: NormConfig) -> bool:
    """Whether training ended with frozen running statistics."""
    return isinstance(norm, BatchNormConfig) and (norm.frozen or norm.freeze_at is not None)


def _check_place(place: Path, replace: bool) -> None:
    """Raises UsageError where a file cannot be written, before any work is done."""
    if place.is_dir():
        raise UsageError(f"--fix {place}: is a folder; name a file")
    if place.suffix not in ENDINGS:
        raise UsageError(f"--fix {place}: must end in one of {', '.join(ENDINGS)}")
    if place.exists() and not replace:
        raise UsageError(f"--fix {place}: is there already; --replace replaces it")
    if not (place.parent.is_dir() and os.access(place.parent, os.W_OK)):
        raise UsageError(f"--fix {place}: {place.parent} is no folder that can be written to")


def _file(weights: Path) -> Path:
    """The file of weights that is meant: a folder is a seed's.

    Raises:
        UsageError: it is the folder of a cell.
    """
    if not weights.is_dir():
        return weights
    seeds = sorted(weights.glob(f"seed-*/{WEIGHTS}"))
    if seeds:
        raise UsageError(
            f"{weights}: is a cell; name the folder of one of its seeds, such as {seeds[0].parent}"
        )
    if any(weights.glob("seed-*")):
        raise UsageError(
            f"{weights}: is a cell, none of whose seeds has been trained to its end;"
            " run the command that trains it again"
        )
    return weights / WEIGHTS


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():  # a pipe would be waited for without end
        raise UsageError(f"{path}: " + ("is no file" if path.exists() else "there is no such file"))
    try:
        return tensors_in(path.read_bytes())
    except UnreadableError as error:
        raise UsageError(f"{path}: {error}") from None


def _network(cell: Cell, tensors: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The network of ``cell`` with the weights of a file.

    One that was written elsewhere is as its own code builds it, each layer with the ε, momentum and
    activation that it has there; if it was trained here, its norms are those of the configuration.

    Raises:
        UsageError: they are of another network, or have no running statistics.
    """
    config = cell.config
    theirs = {plain_name(name): value for name, value in tensors.items()}
    if not any(name.endswith("running_mean") for name in theirs):
        if any(name.rpartition(".")[2].startswith("running_") for name in theirs):
            reason = "its running statistics are not those of batch norm"
        else:
            reason = (
                "no running statistics are in it, so its network computes the same in training and"
                " in evaluation"
            )
        raise UsageError(f"{path}: there is nothing to diagnose: {reason}")
    network, settings = cell.start(config.seed).network, f"model={config.model.name}"
    swapped = any(isinstance(module, Slot | Norm) for module in network.modules())
    if swapped or trained_here(network, theirs):
        network = cell.build_model(config.seed)
        settings += f" norm={config.norm.name}"
    theirs = without_counters(theirs)
    own = without_counters(network.state_dict())
    names = {plain_name(name): name for name in own}
    misfit = next(_misfits({plain_name(k): v for k, v in own.items()}, theirs), None)
    if misfit is not None:
        raise UsageError(
            f"{path}: {misfit} {settings} on these images; give the settings that it was trained"
            " with"
        )
    network.load_state_dict({names[k]: v for k, v in theirs.items()}, strict=False)
    return network


def _misfits(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Iterator[str]:
    """What does not fit, in the order of the network; each to be followed by its name."""
    for name, tensor in own.items():
        if name not in theirs:
            yield f"has no {name}, as there is in"
        elif theirs[name].shape != tensor.shape:
            found, wanted = list(theirs[name].shape), list(tensor.shape)
            yield f"{name} has shape {found}, not {wanted} as in"
    for name in theirs:
        if name not in own:
            yield f"has {name}, which is not in"


def _fixed(tensors: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, under their names there, with other statistics."""
    anew = {plain_name(name): value for name, value in statistics.items()}
    return {
        name: anew.get(plain_name(name), value).to(value.dtype).clone()
        for name, value in tensors.items()
    }


def _show(screen: Screen, title: str, found: Findings) -> None:
    """Prints accuracies, layers and advice."""
    names = {"running": "running averages", "slow": "slow averages of {}", "batch": "batches of {}"}
    screen.table(
        title,
        ("statistics", "accuracy", "± (95 %)", "images"),
        [
            (
                names.get(each.statistics, each.statistics).format(each.size),
                f"{each.accuracy:.2%}",
                f"{each.half:.2%}",
                f"{each.images:,}",
            )
            for each in found.accuracies
        ],
    )
    screen.table(
        "running statistics μ, σ² against re-estimated ones μ', σ'²",
        ("layer", "channels", "|μ - μ'| / σ'", "|log σ²/σ'²|"),
        [(x.layer, str(x.channels), f"{x.mean:.3f}", f"{x.variance:.3f}") for x in found.layers],
    )
    for each in found.advice:
        screen.line(f"advice: {each}")
    if not found.advice:
        screen.line(
            "nothing to do about the statistics: re-estimated ones change"
            f" {found.change}, on {found.accuracies[0].images:,} images"
        )
