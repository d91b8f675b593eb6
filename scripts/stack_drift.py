"""How far float32 runs of the same seed come apart: in a stack and alone, on one thread and two.

    python scripts/stack_drift.py --out results/stacking/drift.md

A kernel sums in another order for another number of channels or threads. Training multiplies such
rounding errors, whatever their cause; so a stack is measured against a control that nobody calls
another training: the same network alone on two threads. A stack is also measured against one of one
replica less. ResNet-8 on random images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from normbench import NORMS, stack, unstack
from normbench.models import MODELS
from normbench.training.loop import norm_parameters, training_step
from normbench.training.optim import SGDConfig
from normbench.training.stacking import Stack

BATCH = 2
OPTIM = SGDConfig()


def network(norm: str, seed: int) -> nn.Module:
    """ResNet-8 as the command trains it."""
    generator = torch.Generator().manual_seed(seed)
    return MODELS["resnet"](name="resnet").build(NORMS[norm](name=norm), 10, generator)


def images(seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The seed's batches: each class is a colour, with noise."""
    generator = torch.Generator().manual_seed(1000 + seed)
    colours = torch.randn(10, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        labels = torch.randint(10, (BATCH,), generator=generator)
        noise = torch.randn(BATCH, 3, 32, 32, generator=generator)
        yield colours[labels] + noise, labels


def weights(
    norm: str, seeds: Sequence[int], looks: Sequence[int], threads: int
) -> Iterator[Tensor]:
    """The seeds' weights, [K, weights], after each number of steps in ``looks``."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    models = [network(norm, seed) for seed in seeds]
    model = (stack(models) if len(models) > 1 else models[0]).to(memory_format=torch.channels_last)
    optimizer = OPTIM.build(model.train(), norm_parameters(model))
    streams = zip(*(images(seed, looks[-1]) for seed in seeds), strict=True)
    for step, batches in enumerate(streams):
        pixels = torch.cat([x for x, _ in batches], 1)
        labels = torch.stack([y for _, y in batches], 1)
        optimizer.lr = OPTIM.rate(step, looks[-1], BATCH)
        training_step(
            model, optimizer, pixels.contiguous(memory_format=torch.channels_last), labels
        )
        if step + 1 in looks:
            each = unstack(model) if isinstance(model, Stack) else [model]
            flat = [[p.detach().flatten() for p in network.parameters()] for network in each]
            yield torch.stack([torch.cat(parts) for parts in flat])
    torch.set_num_threads(before)


def drift(norm: str, replicas: int, looks: Sequence[int]) -> dict[str, list[float]]:
    """The largest relative distance |w - w'| / |w| of the seeds that two runs share, by kind."""
    solo = list(weights(norm, [0], looks, 1))
    together = list(weights(norm, range(replicas), looks, 1))
    pairs = {
        f"stack of {replicas}": (together, solo),
        f"stack of {replicas - 1} against {replicas}": (
            weights(norm, range(replicas - 1), looks, 1),
            together,
        ),
        "alone, 2 threads": (weights(norm, [0], looks, 2), solo),
        "alone again": (weights(norm, [0], looks, 1), solo),
    }
    return {
        name: [distance(w, v) for w, v in zip(*pair, strict=True)] for name, pair in pairs.items()
    }


def distance(w: Tensor, v: Tensor) -> float:
    """The largest distance of two rows, of the first rows of both."""
    shared = min(len(w), len(v))
    w, v = w[:shared], v[:shared]
    return float(((w - v).norm(dim=1) / v.norm(dim=1)).max())


def table(norms: Sequence[str], replicas: int, looks: Sequence[int]) -> str:
    """One row a norm and kind of run, one column a number of steps."""
    lines = [
        "| norm | run | " + " | ".join(f"step {look:,}" for look in looks) + " |",
        "|---|---|" + "---:|" * len(looks),
    ]
    for norm in norms:
        for run, distances in drift(norm, replicas, looks).items():
            lines.append(f"| {norm} | {run} | " + " | ".join(f"{d:.0e}" for d in distances) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/stacking/drift.md"))
    parser.add_argument("--norms", nargs="+", default=sorted(NORMS))
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10, 100])
    arguments = parser.parse_args()
    head = (
        "Relative distance of a seed's weights from those of the same seed trained alone on one"
        " thread; of a smaller stack, from those in the larger."
        f" Float32, ResNet-8, batch size {BATCH}, random images"
        " (`python scripts/stack_drift.py`).\n\n"
    )
    rows = table(arguments.norms, arguments.replicas, sorted(arguments.steps))
    text = head + rows + "\n"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
