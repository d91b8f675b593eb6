"""Checkpoints: what is saved is read back, and a write that fails changes nothing."""

import errno
import os
import subprocess
import sys
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from normbench.store import checkpoint
from normbench.store.checkpoint import Checkpoint
from normbench.store.weights import write_weights

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([7])}

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def never(_: object) -> None:
    raise AssertionError(f"was called with {_}")


def accept(_: Checkpoint) -> None:
    """Takes over anything."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def saved(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, step, TENSORS, {"step": step}) for step in steps]


def step_of(found: Checkpoint | None) -> int:
    assert found is not None
    return int(found.values["step"])


# ---- what is read back ----


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_type_and_shape_come_back_as_they_were(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    bits = torch.randint(0, 256, (3 * 5 * 2 * 2 * 8,), dtype=torch.uint8)
    values = bits % 2 == 0 if dtype is torch.bool else bits.view(dtype)
    count = values.numel() // 20 * 20
    tensors = {
        "scalar": values[0].clone(),
        "empty": values[:0].clone(),
        "4d": values[:count].view(-1, 5, 2, 2).contiguous(memory_format=torch.channels_last),
        "transposed": values[:count].view(-1, 20).t(),
        "γ.β/μ": values.clone(),
    }

    read = checkpoint.read(checkpoint.save(tmp_path, 1, tensors, {})).tensors

    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype
        assert read[name].shape == tensor.shape
        as_bytes = read[name].contiguous().view(-1).view(torch.uint8)
        assert torch.equal(as_bytes, tensor.contiguous().view(-1).view(torch.uint8)), name


def test_two_names_of_one_tensor_both_come_back(tmp_path: Path) -> None:
    memory = torch.arange(8.0)
    tensors = {"fc.weight": memory, "head.weight": memory, "part": memory[2:4], "other": -memory}

    read = checkpoint.read(checkpoint.save(tmp_path, 1, tensors, {})).tensors
    write_weights(tmp_path / "w.safetensors", tensors)
    written = load_file(tmp_path / "w.safetensors")

    for found in (read, written):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "numbers": [0, -1, 2**80, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0],
        "not finite": [inf, -inf, nan],
        "others": [None, True, False, "γ\n\x00 🦎", {"deep": [[[]]]}],
        "": "",
    }

    read = dict(checkpoint.read(checkpoint.save(tmp_path, 1, TENSORS, values)).values)

    *infinite, not_a_number = read.pop("not finite")
    assert infinite == [inf, -inf]
    assert isnan(not_a_number)
    del values["not finite"]
    assert read == values
    assert str(read["numbers"][-1]) == "-0.0"


def test_a_training_that_needs_gradients_is_saved_without_them(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))

    read = checkpoint.read(checkpoint.save(tmp_path, 1, {"w": weight}, {})).tensors["w"]

    assert not read.requires_grad
    assert torch.equal(read, torch.ones(2))


# ---- which files there are ----


def test_the_two_newest_are_kept_by_the_number_of_their_step(tmp_path: Path) -> None:
    saved(tmp_path, 2, 9, 10, 999_999_999)
    last = saved(tmp_path, 1_000_000_000)[0]  # a digit more than names are padded to

    found = checkpoint.files(tmp_path)
    assert [step_of(checkpoint.read(path)) for path in found] == [1_000_000_000, 999_999_999]
    assert found[0] == last
    assert len(names(tmp_path)) == 2


def test_saving_a_step_again_replaces_it_and_keeps_the_one_before(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3)
    checkpoint.save(tmp_path, 3, TENSORS, {"step": 33})

    found = [step_of(checkpoint.read(path)) for path in checkpoint.files(tmp_path)]
    assert found == [33, 2]


def test_other_files_are_no_checkpoints_and_are_left_alone(tmp_path: Path) -> None:
    others = ["step-1", "step-x.checkpoint", "step-1.checkpoint.txt", "astep-1.checkpoint", "a.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    saved(tmp_path, 1, 2, 3)

    assert len(checkpoint.files(tmp_path)) == 2
    assert set(others) <= set(names(tmp_path))


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, never, never) is None
    assert checkpoint.load(tmp_path / "nowhere", never, never) is None
    assert checkpoint.files(tmp_path / "nowhere") == []
    assert names(tmp_path) == []


def test_clearing_removes_all_of_a_training_and_nothing_else(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    for name in ("step-000000003.damaged", ".step-000000004.checkpoint.ab12", "result.json"):
        (tmp_path / name).write_text("x")

    checkpoint.clear(tmp_path)

    assert names(tmp_path) == ["result.json"]
    checkpoint.clear(tmp_path / "nowhere")


# ---- writing that fails ----


def failing(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("where", "call"), [(Path, "replace"), (os, "fsync"), (Path, "open"), (Path, "chmod")]
)
def test_a_write_that_fails_leaves_the_earlier_ones_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, call: str
) -> None:
    saved(tmp_path, 1, 2)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, call, failing)
        with pytest.raises(OSError, match="No space left"):
            saved(tmp_path, 3)

    assert contents(tmp_path) == before
    assert step_of(checkpoint.load(tmp_path, accept, never)) == 2


LIMITED = """
import errno, resource, sys
from pathlib import Path
import torch
from normbench.store import checkpoint
folder = Path(sys.argv[1])
checkpoint.save(folder, 1, {"a": torch.zeros(1)}, {"step": 1})
checkpoint.save(folder, 2, {"a": torch.zeros(1)}, {"step": 2})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save(folder, 3, {"a": torch.zeros(100_000)}, {"step": 3})
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_a_file_that_may_not_grow_leaves_the_earlier_ones_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.stdout, done.stderr, done.returncode) == ("EFBIG\n", "", 0)
    assert names(tmp_path) == ["step-000000001.checkpoint", "step-000000002.checkpoint"]
    assert step_of(checkpoint.load(tmp_path, accept, never)) == 2
