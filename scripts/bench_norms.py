"""What each norm costs: time of a training step and of inference, and memory, by batch size.

    python scripts/bench_norms.py --out results/cost

All norms of a network and batch size are timed in turns, in one process, a step of one seed at a
time, so that their ratios hold even where the machine's mood changes; the seconds of a training
(`normbench report`) are as good as the machine was idle. Inference is timed with the norms as they
were trained and, where a norm can be folded into the convolution before it, folded. Writes a table
as Markdown and CSV, and a picture. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from loops import Cell, normbench_model, solo
from timing import Step, machine, turns
from torch import nn

from normbench import NORMS
from normbench.data import ImageSet
from normbench.data.synthetic import draw
from normbench.models.inspection import memory_of_step
from normbench.norms.folding import fold_norms
from normbench.report.compare.statistics import Estimate, estimate

REFERENCE = "batch"
TRAINING, INFERENCE, FOLDED = "training", "inference", "folded"
TURN = 0.15
"""Seconds of a turn."""

CAPTION = """\
How many times as long as with batch norm, by batch size: a training step of one seed; inference
with the norms as they were trained; and inference with those that can be folded into the
convolutions before them, over batch norm's that is not folded. Mean over rounds in which the norms
take turns, with its 95 % interval; another start of the process may lie outside of it. Memory: what
a training step holds, over batch norm's. `none` keeps γ and β, whose gradients are sums over all
values, too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One norm at one batch size.

    Attributes:
        network, batch, norm: which.
        kind: training step, inference, or inference with the norms folded into the convolutions.
        seconds: of a step, the median of the rounds.
        ratio: how many times as long as batch norm's step of that kind; folded: as batch norm's
            inference.
        memory: the bytes that a training step holds; 0 in inference.
    """

    network: str
    batch: int
    norm: str
    kind: str
    seconds: float
    ratio: Estimate
    memory: int

    @property
    def said(self) -> str:
        """``1.05 ± 0.02``; ``1.05`` of one round."""
        half = self.ratio.half
        return f"{self.ratio.mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


def measure(
    depth: int, batch: int, images: ImageSet, device: torch.device, rounds: int
) -> list[Row]:
    """A row for every norm and kind."""
    cells = {norm: Cell(depth, norm, batch, images, device) for norm in sorted(NORMS)}
    pictures = torch.rand(batch, 3, 32, 32, device=device).contiguous(
        memory_format=torch.channels_last
    )
    rows = _rows(
        {(norm, TRAINING): solo(cell, [0]) for norm, cell in cells.items()},
        f"ResNet-{depth}",
        batch,
        {norm: _memory(cell) for norm, cell in cells.items()},
        rounds,
    )
    inference: dict[tuple[str, str], Step] = {}
    for norm, cell in cells.items():
        config = NORMS[norm](name=norm)
        inference[norm, INFERENCE] = _inference(_evaluated(cell), pictures)
        if config.folds:
            folded = fold_norms(_evaluated(cell), config)
            inference[norm, FOLDED] = _inference(folded, pictures)
    return rows + _rows(inference, f"ResNet-{depth}", batch, {}, rounds)


def _rows(
    steps: Mapping[tuple[str, str], Step],
    network: str,
    batch: int,
    memory: Mapping[str, int],
    rounds: int,
) -> list[Row]:
    named = {"/".join(key): step for key, step in steps.items()}
    times = {
        tuple(name.split("/")): t for name, t in turns(named, rounds=rounds, seconds=TURN).items()
    }
    kind = next(iter(steps))[1]
    usual = times[REFERENCE, kind]
    rows = []
    for (norm, what), own in times.items():
        ratio = estimate(a / b for a, b in zip(own, usual, strict=True))
        assert ratio is not None
        rows.append(Row(network, batch, norm, what, median(own), ratio, memory.get(norm, 0)))
    return rows


def _evaluated(cell: Cell) -> nn.Module:
    model = normbench_model(cell, 0).to(cell.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    made: nn.Module = model.eval()
    return made


def _inference(model: nn.Module, images: torch.Tensor) -> Step:
    @torch.inference_mode()
    def step() -> None:
        model(images).sum().item()

    return step


def _memory(cell: Cell) -> int:
    model = normbench_model(cell, 0).train()
    images = torch.zeros(cell.batch, 3, 32, 32)
    return memory_of_step(model, images, torch.zeros(cell.batch, dtype=torch.int64))


def tables(rows: Sequence[Row], network: str) -> str:
    """Training and inference, a line a norm, sorted by its training step."""
    mine = {(r.norm, r.kind, r.batch): r for r in rows if r.network == network}
    batches = sorted({r.batch for r in rows})
    norms = sorted(NORMS, key=lambda norm: mine[norm, TRAINING, batches[0]].ratio.mean)
    held = {
        norm: [
            mine[norm, TRAINING, b].memory / mine[REFERENCE, TRAINING, b].memory for b in batches
        ]
        for norm in norms
    }
    memory = {norm: f"{min(held[norm]):.2f} to {max(held[norm]):.2f}" for norm in norms}
    parts = []
    for kinds, more in (((TRAINING,), memory), ((INFERENCE, FOLDED), None)):
        columns = [(kind, b) for kind in kinds for b in batches]
        head = [f"{kind}, {b}" for kind, b in columns] + (["memory"] if more else [])
        lines = [f"| norm | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
        for norm in norms:
            said = [
                mine[norm, kind, b].said if (norm, kind, b) in mine else "-" for kind, b in columns
            ]
            lines.append(f"| {norm} | {' | '.join(said + ([more[norm]] if more else []))} |")
        times = [f"{1e3 * mine[REFERENCE, kinds[0], b].seconds:.3g} ms at {b}" for b in batches]
        parts += ["\n".join(lines), f"Batch norm's {kinds[0]} takes {', '.join(times)}."]
    return "\n\n".join(parts)


def draw_picture(rows: Sequence[Row], network: str, path: Path) -> None:
    """A mark a norm and batch size: training on the left, inference on the right."""
    from matplotlib.figure import Figure

    batches = sorted({r.batch for r in rows})
    norms = sorted(
        NORMS,
        key=lambda n: max(
            r.ratio.mean
            for r in rows
            if r.norm == n and r.kind == TRAINING and r.network == network
        ),
    )
    figure = Figure(figsize=(9, 0.32 * len(norms) + 1.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, (TRAINING, INFERENCE), strict=True):
        for marker, batch in zip("o^sDvPX", batches, strict=False):
            at = {
                r.norm: r.ratio.mean
                for r in rows
                if (r.kind, r.batch, r.network) == (kind, batch, network)
            }
            axes.plot(
                [at[n] for n in norms], range(len(norms)), marker, label=f"batch {batch}", ms=5
            )
        axes.axvline(1, color="0.6", lw=1, zorder=0)
        axes.set_xscale("log", base=2)
        ticks = [t for t in (0.5, 1, 2, 4, 8) if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axes.set_xlabel(f"{kind}: time over batch norm's")
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(norms)), norms)
    panels[1].legend(loc="lower right", fontsize=8)
    figure.suptitle(f"{network}, one seed", fontsize=11)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results/cost"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--depths", type=int, nargs="+", default=[8])
    parser.add_argument("--batches", type=int, nargs="+", default=[2, 8, 32, 128])
    parser.add_argument("--rounds", type=int, default=5, help="turns of each norm")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    images = draw()
    rows: list[Row] = []
    for depth in arguments.depths:
        for batch in arguments.batches:
            rows += measure(depth, batch, images, device, arguments.rounds)
            print(f"ResNet-{depth}, batch {batch}: done", flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    _write_csv(rows, arguments.out / "cost.csv")
    networks = list(dict.fromkeys(row.network for row in rows))
    draw_picture(rows, networks[0], arguments.out / "cost.png")
    command = f"python scripts/bench_norms.py --rounds {arguments.rounds}"
    text = f"Made by `{command}`; {machine(device)}.\n\n{CAPTION}\n\n![cost](cost.png)\n"
    for network in networks:
        text += f"\n## {network}\n\n{tables(rows, network)}\n"
    (arguments.out / "cost.md").write_text(text, encoding="utf-8")
    print("\n" + text)


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            (
                "network",
                "batch",
                "norm",
                "kind",
                "ms",
                "ratio",
                "ratio_half_interval",
                "memory_bytes",
            )
        )
        for row in rows:
            numbers = (
                f"{1e3 * row.seconds:.3f}",
                f"{row.ratio.mean:.3f}",
                f"{row.ratio.half or 0:.3f}",
            )
            writer.writerow(
                (row.network, row.batch, row.norm, row.kind, *numbers, row.memory or "")
            )


if __name__ == "__main__":
    main()
