"""Layer norm for sequences: a small transformer on a generated task, and what padding changes.

The task: a sequence of 4 to 24 symbols holds one marker; say which symbol comes after it. A batch
is padded to its longest sequence. The size of the task was set with a network without norms, before
any norm was tried on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from claims.base import Finding, Table, judged, number, said, spread
from claims.layers import configured, layer, random
from claims.runs import suited
from normbench.report.compare.statistics import welch

SYMBOLS, MARKER, PAD = 8, 8, 9
SHORTEST, LONGEST = 4, 24
WIDTH, BLOCKS, HEADS = 32, 2, 4
BATCH, STEPS, HELD_OUT, TESTED = 16, 600, 1000, 4000
RATES = (0.001, 0.003, 0.01)
EXTENSIONS = 3
SEEDS = (1, 2, 3, 4, 5)
ARMS = {
    "layer": ("layer", True),
    "batch": ("batch", True),
    "batch, real tokens only": ("batch", False),
}
"""Norm, and whether padding goes through it; layer norm treats each token by itself."""


def sequences_of(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Padded sequences [count, L] of tokens, and the symbols that come after the marker."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=generator)
    tokens = torch.randint(SYMBOLS, (count, LONGEST), generator=generator)
    places = (torch.rand(count, generator=generator) * (lengths - 1)).long()
    rows = torch.arange(count)
    tokens[rows, places] = MARKER
    answers = tokens[rows, places + 1]
    tokens[torch.arange(LONGEST) >= lengths[:, None]] = PAD
    return tokens[:, : int(lengths.max())], answers


class Normed(nn.Module):
    """A norm over the features of tokens [N, L, C], of all tokens or without the padding."""

    def __init__(self, name: str, padded: bool) -> None:
        super().__init__()
        self.norm, self.padded = configured(name).build(WIDTH, act=False), padded

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        if self.padded:
            y: Tensor = self.norm(x.flatten(0, 1)).view(x.shape)
            return y
        y = torch.zeros_like(x)
        y[real] = self.norm(x[real])
        return y


class Transformer(nn.Module):
    """Pre-norm blocks of attention and a layer of 2·WIDTH units, then the mean of real tokens."""

    def __init__(self, name: str, padded: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(PAD + 1, WIDTH), nn.Embedding(LONGEST, WIDTH)
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(WIDTH, HEADS, batch_first=True) for _ in range(BLOCKS)
        )
        self.units = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))
            for _ in range(BLOCKS)
        )
        self.norms = nn.ModuleList(Normed(name, padded) for _ in range(2 * BLOCKS + 1))
        self.head = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, tokens: Tensor) -> Tensor:
        real = tokens != PAD
        x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
        for i, (attention, units) in enumerate(zip(self.attention, self.units, strict=True)):
            y = self.norms[2 * i](x, real)
            x = x + attention(y, y, y, key_padding_mask=~real, need_weights=False)[0]
            x = x + units(self.norms[2 * i + 1](x, real))
        x = self.norms[-1](x, real) * real[..., None]
        found: Tensor = self.head(x.sum(1) / real.sum(1, keepdim=True))
        return found


def trained(name: str, padded: bool, rate: float, seed: int) -> Transformer:
    """A network after STEPS steps of Adam on fresh sequences, its rate falling to 0."""
    torch.manual_seed(seed)
    network = Transformer(name, padded)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, 10 * (step + 1) / STEPS) * (1 - step / STEPS)
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        tokens, answers = sequences_of(BATCH, generator)
        loss = F.cross_entropy(network(tokens), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def score(network: nn.Module, count: int, seed: int) -> tuple[float, float]:
    """Accuracy and loss on generated sequences, in batches as in training."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count // 100):
        tokens, answers = sequences_of(100, generator)
        said_ = network(tokens)
        right = (said_.argmax(1) == answers).double().mean()
        found.append(torch.stack([right, F.cross_entropy(said_, answers).double()]))
    accuracy, loss = torch.stack(found).mean(0).tolist()
    return accuracy, loss


def measure_training() -> dict[str, Any]:
    """By arm: the held-out loss by learning rate (seed 0), and the test accuracy of each seed."""
    found: dict[str, Any] = {}
    for label, arm in ARMS.items():
        tried = {rate: _held_out(arm, rate) for rate in RATES}
        for _ in range(EXTENSIONS):
            best = min(tried, key=lambda rate: tried[rate])
            if min(tried) < best < max(tried):
                break
            grown = best / 3 if best == min(tried) else best * 3
            tried[grown] = _held_out(arm, grown)
        best = min(tried, key=lambda rate: tried[rate])
        tests = {seed: score(trained(*arm, best, seed), TESTED, -2)[0] for seed in SEEDS}
        losses = {f"{rate:.2g}": loss for rate, loss in sorted(tried.items())}
        found[label] = {"tried": losses, "rate": best, "tests": tests}
    return found


def _held_out(arm: tuple[str, bool], rate: float) -> float:
    loss = score(trained(*arm, rate, 0), HELD_OUT, -1)[1]
    return loss if loss == loss else inf  # not a number: it diverged


def measure_padding() -> dict[str, Any]:
    """How far the outputs of real tokens move when a sequence is padded further."""
    x = random(8, 64, 12)  # N×C×L
    padded = torch.cat([x, torch.zeros(8, 64, 12, dtype=torch.float64)], 2)
    language = nn.LayerNorm(64).double()
    found = {"token": (language(x.mT), language(padded.mT)[:, :12])}
    for name in ("batch", "layer", "instance", "group"):
        found[name] = (layer(name, 64)(x), layer(name, 64)(padded)[..., :12])
    return {
        name: float((second - first).std() / first.std()) for name, (first, second) in found.items()
    }


def sequences(found: Mapping[str, Any], padding: Mapping[str, float]) -> Finding:
    """Layer norm for sequences: better than batch norm with and without padding in its way."""
    tests = {label: each["tests"] for label, each in found.items()}
    padded, real = (welch(tests["layer"], tests[label]) for label in list(ARMS)[1:])
    rows = [
        [
            label,
            "; ".join(f"{rate}: {loss:.3f}" for rate, loss in each["tried"].items()),
            f"{each['rate']:.2g}",
            spread(list(each["tests"].values()), 1, 100),
        ]
        for label, each in found.items()
    ]
    labels = {"token": "layer norm over the features of a token"}
    moved = [[labels.get(name, f"norm={name}"), number(each)] for name, each in padding.items()]
    return Finding(
        "Layer norm for sequences",
        "Layer norm is better suited than batch norm to sequences, as in text tasks.",
        f"A transformer of {BLOCKS} blocks and width {WIDTH} on a generated task: which of"
        f" {SYMBOLS} symbols comes after the marker in a sequence of {SHORTEST} to {LONGEST} tokens"
        f" (chance: {100 / SYMBOLS:.1f} %). {STEPS} steps of Adam at batch size {BATCH}, each batch"
        " padded to its longest sequence. Layer norm over the features of each token; batch norm"
        " over all tokens of the padded batch, or over the real ones only. Each at the learning"
        f" rate of the lowest held-out loss (seed 0); then seeds 1 to {SEEDS[-1]} on {TESTED:,}"
        " other sequences. The claim holds if layer norm is more accurate than both batch norms, in"
        " part if than one."
        " Second table: 8 sequences of 12 tokens, 64 features, padded by zeros to 24; how far the"
        " outputs of the 12 real tokens move, relative to their deviation.",
        suited(judged(padded), judged(real)),
        f"Accuracy of layer norm against batch norm over the padded batch:"
        f" {said(padded, 'higher', 'lower')}; against batch norm over real tokens only:"
        f" {said(real, 'higher', 'lower')}. Layer norm over a token's features does not see padding"
        " or other tokens. The layer norm of the article's picture, over C·H·W, would: taken over a"
        " whole sequence, it depends on the padding too.",
        [
            Table(
                f"Test accuracy in %, n = {len(SEEDS)}",
                ["norm", "held-out loss by learning rate", "chosen", "test accuracy"],
                rows,
            ),
            Table("Change of the real tokens' outputs by padding", ["norm", "change"], moved),
        ],
        "Text; longer sequences; larger batches.",
    )
