"""The training loops that are timed against one another: the usual, the tuned, vmap, normbench's.

Each is a function that prepares the training of some seeds of one cell and returns a callable that
runs one step of all of them. All train the same network with the same hyper-parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from normbench import NORMS, stack
from normbench.data import DATA, ImageSet
from normbench.data.batches import Batches, Split, split
from normbench.models import MODELS
from normbench.models.base import initialize
from normbench.norms.parts import Slot
from normbench.run.placement import Arrangement, fastest, in_lanes
from normbench.training.loop import norm_parameters, training_step
from normbench.training.optim import SGDConfig

Step = Callable[[], None]
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4


@dataclass(frozen=True)
class Cell:
    """What is trained: a network, a norm, a batch, on these images and this device."""

    depth: int
    norm: str
    batch: int
    images: ImageSet
    device: torch.device

    def split(self) -> Split:
        """The padded training images."""
        config = DATA["synthetic"](source="synthetic")
        return split(self.images, config, self.device).train


def torch_model(cell: Cell, seed: int) -> nn.Module:
    """The cell's network with torch's own norm and ReLU modules in the slots."""

    config = MODELS["resnet"](name="resnet", depth=cell.depth)  # type: ignore[call-arg]
    model = config.network(len(cell.images.classes))
    initialize(model, torch.Generator().manual_seed(seed))
    for name, slot in list(model.named_modules()):
        if isinstance(slot, Slot):
            layer: nn.Module = nn.BatchNorm2d(slot.channels)
            if cell.norm == "group":
                groups = NORMS["group"](name="group").num_groups(slot.channels)  # type: ignore[attr-defined]
                layer = nn.GroupNorm(groups, slot.channels)
            filled = nn.Sequential(layer, nn.ReLU(inplace=True)) if slot.act else layer
            model.set_submodule(name, filled)
    return model.to(cell.device).train()


def normbench_model(cell: Cell, seed: int) -> nn.Module:
    """The cell's network as normbench builds it."""
    generator = torch.Generator().manual_seed(seed)
    config = MODELS["resnet"](name="resnet", depth=cell.depth)  # type: ignore[call-arg]
    return config.build(NORMS[cell.norm](name=cell.norm), len(cell.images.classes), generator)


class Pictures(Dataset[tuple[Tensor, int]]):
    """PIL images with torchvision's transforms, as most training scripts have them."""

    def __init__(self, images: ImageSet, *, train: bool = True) -> None:
        pixels = images.train_images if train else images.test_images
        labels = images.train_labels if train else images.test_labels
        self.pictures = [Image.fromarray(each) for each in pixels.permute(0, 2, 3, 1).numpy()]
        self.labels: list[int] = labels.tolist()
        augmentation = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose(
            [
                *(augmentation if train else []),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def _one_after_another(steps: list[Step]) -> Step:
    def step() -> None:
        for each in steps:
            each()

    return step


def usual(cell: Cell, seeds: list[int], workers: int = 0) -> Step:
    """DataLoader, PIL transforms, default SGD, ``.item()`` each step; one seed after another."""
    loader = DataLoader(
        Pictures(cell.images),
        batch_size=cell.batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
    )

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader

    steps: list[Step] = []
    for seed in seeds:
        model = torch_model(cell, seed)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY
        )
        batches = endless()

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            batches: Iterator[tuple[Tensor, Tensor]] = batches,
        ) -> None:
            images, labels = next(batches)
            images, labels = images.to(cell.device), labels.to(cell.device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()

        steps.append(step)
    return _one_after_another(steps)


def tuned(cell: Cell, seeds: list[int]) -> Step:
    """Resident tensors augmented beforehand, channels_last, fused SGD; one seed after another."""
    part = cell.split()
    count = len(part)
    middle = torch.full((count,), 4, device=cell.device)
    unmirrored = torch.zeros(count, dtype=torch.bool, device=cell.device)
    crops = part.crops(torch.arange(count, device=cell.device), middle, middle, unmirrored)
    images = part.normalized(crops, torch.float32).permute(0, 3, 1, 2)
    steps: list[Step] = []
    for seed in seeds:
        model = torch_model(cell, seed).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True
        )
        order = torch.randperm(count, device=cell.device)
        position = [0]

        def step(
            model: nn.Module = model,
            optimizer: torch.optim.Optimizer = optimizer,
            order: Tensor = order,
            position: list[int] = position,
        ) -> None:
            start = position[0] % (count - cell.batch)
            position[0] += cell.batch
            index = order[start : start + cell.batch]
            loss = F.cross_entropy(model(images[index]), part.labels[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        steps.append(step)
    return _one_after_another(steps)


def vmapped(cell: Cell, seeds: list[int]) -> Step:
    """``torch.func``: vmap over stacked parameters, gradients by ``grad``, SGD by foreach."""
    models = [torch_model(cell, seed) for seed in seeds]
    parameters, buffers = torch.func.stack_module_state(models)
    skeleton = torch_model(cell, 0)
    training = _training(cell, seeds)
    batches = training.batches()
    velocities = [torch.zeros_like(p) for p in parameters.values()]

    def loss_of(
        params: dict[str, Tensor], state: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        state = {name: tensor.clone() for name, tensor in state.items()}
        logits = torch.func.functional_call(skeleton, (params, state), (images,))
        return F.cross_entropy(logits, labels), state

    both = torch.func.vmap(
        torch.func.grad_and_value(loss_of, has_aux=True), in_dims=(0, 0, 1, 1), randomness="error"
    )

    def step() -> None:
        nonlocal buffers
        images, labels = next(batches)
        # torch 2.11 has no vmap of group norm over channels-last images.
        images = images.contiguous().unflatten(1, (len(seeds), 3))
        gradients, (_, buffers) = both(parameters, buffers, images, labels)
        with torch.no_grad():
            weights = list(parameters.values())
            slopes = list(gradients.values())
            torch._foreach_add_(slopes, weights, alpha=DECAY)
            torch._foreach_mul_(velocities, MOMENTUM)
            torch._foreach_add_(velocities, slopes)
            torch._foreach_add_(weights, velocities, alpha=-LR)

    return step


def solo(cell: Cell, seeds: list[int]) -> Step:
    """normbench, one seed after another."""
    steps = [_normbench(cell, [seed], normbench_model(cell, seed)) for seed in seeds]
    return _one_after_another(steps)


def stacked(cell: Cell, seeds: list[int]) -> Step:
    """normbench, all seeds as one network."""
    return _normbench(cell, seeds, stack([normbench_model(cell, seed) for seed in seeds]))


def arranged(cell: Cell, seeds: list[int], arrangement: Arrangement, inner: int) -> Step:
    """normbench, as ``stack=auto`` trains: ``inner`` steps of every seed, stacked, in lanes."""
    stacks = arrangement.divide(seeds)
    lanes = min(arrangement.lanes, len(stacks))
    steps = [stacked(cell, part) if len(part) > 1 else solo(cell, part) for part in stacks]

    def job(step: Step) -> Step:
        def several() -> None:
            for _ in range(inner):
                step()

        return several

    return lambda: in_lanes([job(step) for step in steps], lanes, arrangement.threads, Event())


def choose(cell: Cell, seeds: list[int]) -> Arrangement:
    """The arrangement that ``stack=auto`` chooses on this machine."""

    def prepare(size: int) -> Step:
        return stacked(cell, seeds[:size]) if size > 1 else solo(cell, seeds[:1])

    lanes = torch.get_num_threads() if cell.device.type == "cpu" else 1
    best, _ = fastest(prepare, len(seeds), lambda *_: None, steps=10**6, lanes=lanes)
    return best


def _training(cell: Cell, seeds: list[int]) -> Batches:
    return Batches(cell.split(), seeds=seeds, batch=cell.batch, flip=True)


def _normbench(cell: Cell, seeds: list[int], model: nn.Module) -> Step:
    model = model.to(device=cell.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optim = SGDConfig(lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    optimizer = optim.build(model, norm_parameters(model))
    batches = _training(cell, seeds).batches()
    kept: list[Tensor] = []

    def step() -> None:
        optimizer.lr = LR
        images, labels = next(batches)
        kept.append(training_step(model, optimizer, images, labels))
        if len(kept) == 50:  # what the loop does between two records
            torch.stack(kept).argmax(-1).cpu()
            kept.clear()

    return step
