"""Damaged checkpoints: whatever has happened to a file, it is found out and never believed."""

import errno
import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as bytes_of
from torch import Tensor

from normbench.data.batches import Batches, split
from normbench.data.sources import ImagesConfig
from normbench.errors import UnreadableError, UsageError
from normbench.store import checkpoint
from normbench.store.checkpoint import MAGIC, Checkpoint
from normbench.training.progress import Progress

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([7])}


def never(_: object) -> None:
    raise AssertionError(f"was called with {_}")


def accept(_: Checkpoint) -> None:
    """Takes over anything."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def saved(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(folder, step, TENSORS, {"step": step}) for step in steps]


def step_of(found: Checkpoint | None) -> int:
    assert found is not None
    return int(found.values["step"])


# ---- damage ----


def test_a_flipped_bit_is_found_in_every_byte(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    whole = path.read_bytes()
    assert len(whole) < 1000
    for place in range(len(whole)):
        wrong = bytearray(whole)
        wrong[place] ^= 1 << place % 8
        path.write_bytes(wrong)
        with pytest.raises(UnreadableError):
            checkpoint.read(path)


def test_every_cut_and_everything_appended_is_found(tmp_path: Path) -> None:
    (path,) = saved(tmp_path, 1)
    whole = path.read_bytes()
    draw = random.Random(0)
    wrong = [whole[:length] for length in range(len(whole))]
    wrong += [whole + draw.randbytes(count) for count in (1, 2, 64, 4096)]
    wrong += [whole + b"\n", whole + b"\0", whole + whole, b"\n" + whole]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(UnreadableError):
            checkpoint.read(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 16
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def a_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGES = [cut, flipped, emptied, a_folder, a_dead_link]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_moved_away_and_the_one_before_used(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    before, newest = saved(tmp_path, 1, 2)
    damage(newest)
    told: list[str] = []

    assert step_of(checkpoint.load(tmp_path, accept, told.append)) == 1

    assert len(told) == 1
    assert "\n" not in told[0]
    assert str(newest) in told[0]
    assert names(tmp_path) == [before.name, "step-000000002.damaged"]
    assert step_of(checkpoint.load(tmp_path, accept, never)) == 1, "and is not told of again"
    saved(tmp_path, 2)
    assert step_of(checkpoint.load(tmp_path, accept, never)) == 2


def test_what_cannot_be_used_counts_as_damaged(tmp_path: Path) -> None:
    def use(found: Checkpoint) -> None:
        if found.values["step"] > 1:
            raise KeyError("velocity.0")

    saved(tmp_path, 1, 2)
    told: list[str] = []

    assert step_of(checkpoint.load(tmp_path, use, told.append)) == 1
    assert "velocity.0" in told[0]


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_all_are_damaged_it_is_for_people_to_decide(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for path in saved(tmp_path, 1, 2):
        damage(path)
    before = names(tmp_path)

    for _ in range(2):
        with pytest.raises(UsageError, match=r"no checkpoint can be used .*remove them") as caught:
            checkpoint.load(tmp_path, accept, lambda _: None)
        assert "\n" not in str(caught.value)
        assert "step-000000001" in str(caught.value)
        assert "step-000000002" in str(caught.value)
    assert names(tmp_path) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_one_that_may_not_be_read_counts_as_damaged(tmp_path: Path) -> None:
    _, newest = saved(tmp_path, 1, 2)
    newest.chmod(0)
    told: list[str] = []

    assert step_of(checkpoint.load(tmp_path, accept, told.append)) == 1
    assert "Permission denied" in told[0]


def test_one_whose_disk_fails_counts_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, newest = saved(tmp_path, 1, 2)
    read_bytes = Path.read_bytes

    def reading(path: Path) -> bytes:
        if path == newest:
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    told: list[str] = []

    assert step_of(checkpoint.load(tmp_path, accept, told.append)) == 1
    assert "Input/output error" in told[0]


def test_half_written_files_are_swept_up(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    (tmp_path / ".step-000000002.checkpoint.x7ab").write_bytes(MAGIC)

    assert step_of(checkpoint.load(tmp_path, accept, never)) == 1
    assert names(tmp_path) == ["step-000000001.checkpoint"]


# ---- content that nobody of us has saved, under a digest that is right ----


def forged(path: Path, head: bytes, body: bytes) -> Path:
    digest = hashlib.sha256(head + body).hexdigest().encode()
    path.write_bytes(MAGIC + digest + b"\n" + head + body)
    return path


BODY = bytes_of(TENSORS)
HEADER = (1 << 63).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"[]\n", BODY),
        (b"null\n", BODY),
        (b'"values"\n', BODY),
        (b"\n", BODY),
        (b"{\n", BODY),
        (b"[" * 100_000 + b"\n", BODY),
        (b'{"a":' * 100_000 + b"\n", BODY),
        (b"\xff\xfe{}\n", BODY),
        (b"{}", b""),
        (b"{}\n", b""),
        (b"{}\n", BODY[:-1]),
        (b"{}\n", BODY + b"\0"),
        (b"{}\n", HEADER + BODY[8:]),
        (b"{}\n", (2).to_bytes(8, "little") + b"{}" + b"\0" * 8),
        (b"{}\n", b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR."),
        (b"1" * 10_000 + b"\n", BODY),
    ],
    ids=range(16),
)
def test_nonsense_under_a_right_digest_counts_as_damaged(
    tmp_path: Path, head: bytes, body: bytes
) -> None:
    forged(tmp_path / "step-000000001.checkpoint", head, body)

    with pytest.raises(UsageError, match="makes no sense") as caught:
        checkpoint.load(tmp_path, never, lambda _: None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert names(tmp_path) == ["step-000000001.checkpoint"]


def progress() -> Progress:
    """That of a training with metrics after one step, and two steps since."""
    config = ImagesConfig(name="tiny")
    images = split(config.load(), config, torch.device("cpu"))
    one = Progress(Batches(images.train, seeds=[0], batch=4, flip=True))
    for step in range(3):
        one.add(torch.ones(4, 1, 3) * step, torch.ones(4, 1, dtype=torch.int64))
        if step == 0:
            one.record(one.read(0.1))
    return one


@pytest.mark.usefixtures("tiny")
def test_a_progress_comes_back_as_it_was() -> None:
    tensors, values = progress().state()
    values["seconds"] = 1000.0
    other = progress()
    other.add(torch.zeros(4, 1, 3), torch.zeros(4, 1, dtype=torch.int64))
    other.record(other.read(0.1))

    other.restore(tensors, json.loads(json.dumps(values)))

    again, same = other.state()
    assert (same["step"], same["recorded"]) == (3, 1)
    assert same["seconds"] == pytest.approx(1000.0, abs=1)
    assert same | {"seconds": 0} == values | {"seconds": 0}
    assert again.keys() == tensors.keys() == {"loss", "hits", "logits", "labels"}
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("tensors", "values"),
    [
        ({"loss": torch.zeros(2)}, {}),
        ({"hits": torch.zeros(1, 1)}, {}),
        ({"labels": torch.zeros(1, 4, 1)}, {}),
        ({"labels": torch.zeros(2, 4)}, {}),
        ({}, {"step": "3"}),
        ({}, {"step": None}),
        ({}, {"step": 4}),
        ({}, {"diverged": 3}),
        ({}, {"evaluation": {"accuracy": [1.0]}}),
        ({}, {"evaluation": 7}),
        ({}, {"seconds": "long"}),
    ],
    ids=range(11),
)
def test_the_progress_of_another_training_counts_as_damaged(
    tmp_path: Path, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    own_tensors, own_values = progress().state()
    told: list[str] = []

    def use(found: Checkpoint) -> None:
        progress().restore(found.tensors, found.values["progress"])

    checkpoint.save(tmp_path, 2, own_tensors, {"step": 2, "progress": own_values})
    changed = {"step": 3, "progress": own_values | values}
    checkpoint.save(tmp_path, 3, own_tensors | tensors, changed)

    assert step_of(checkpoint.load(tmp_path, use, told.append)) == 2
    assert len(told) == 1
