"""Files of weights: read whoever wrote them, and nothing in them runs."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normbench.errors import UnreadableError
from normbench.models.files import tensors_in
from normbench.store.weights import write_weights

STATE = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


def test_weights_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    write_weights(tmp_path / "a" / "x.safetensors", STATE)

    assert same(tensors_in((tmp_path / "a" / "x.safetensors").read_bytes()))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
def test_what_torch_saved_is_read_with_its_usual_wrappers(
    tmp_path: Path, wrapper: str | None
) -> None:
    torch.save(STATE if wrapper is None else {wrapper: STATE, "epoch": 3}, tmp_path / "x.pt")

    assert same(tensors_in((tmp_path / "x.pt").read_bytes()))


class Running:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("run",)


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    torch.save({"a": Running()}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps({"a": Running()}))

    for name in ("x.pt", "y.pt"):
        with pytest.raises(UnreadableError, match=r"save model\.state_dict"):
            tensors_in((tmp_path / name).read_bytes())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"weights", b"\x80\x02}", b"\xff" * 100, b"\x08" + b"\0" * 7]
)
def test_what_is_no_weights_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)

    with pytest.raises(UnreadableError, match="neither a safetensors file"):
        tensors_in((tmp_path / "x").read_bytes())


@pytest.mark.parametrize("cut", [9, 100, 300])
def test_a_file_that_is_cut_short_is_said(tmp_path: Path, cut: int) -> None:
    write_weights(tmp_path / "x.safetensors", STATE)
    torch.save(STATE, tmp_path / "x.pt")

    for name in ("x.safetensors", "x.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
        with pytest.raises(UnreadableError, match="neither a safetensors file"):
            tensors_in((tmp_path / name).read_bytes())


@pytest.mark.parametrize("value", [[STATE["0.weight"]], {}, {"epoch": 3}, STATE["0.weight"]])
def test_tensors_without_names_are_said(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "x.pt")

    with pytest.raises(UnreadableError, match="no tensors by name"):
        tensors_in((tmp_path / "x.pt").read_bytes())
