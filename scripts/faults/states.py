"""Hostile checkpoints, with the digest that goes with them, and records for the fault matrix."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save as bytes_of
from torch import Tensor

from faults.archives import Bomb
from normbench.store import checkpoint

CELL = ["norm=batch", "batch=4", "epochs=3"]

Tensors = dict[str, Tensor]
Values = dict[str, Any]
State = Callable[[Path, Random], None]


def _write(path: Path, head: bytes, body: bytes) -> None:
    digest = hashlib.sha256(head + b"\n" + body).hexdigest().encode()
    path.write_bytes(checkpoint.MAGIC + digest + b"\n" + head + b"\n" + body)


def _changed(change: Callable[[Tensors, Values], object]) -> State:
    """Changes what all checkpoints hold, and signs them."""

    def state(folder: Path, _: Random) -> None:
        for path in checkpoint.files(folder):
            found = checkpoint.read(path)
            tensors, values = dict(found.tensors), json.loads(json.dumps(found.values))
            change(tensors, values)
            _write(path, json.dumps(values).encode(), bytes_of(tensors))

    return state


def _instead(head: bytes | None, body: bytes | None) -> State:
    """Puts another head or body into all checkpoints, and signs them."""

    def state(folder: Path, _: Random) -> None:
        for path in checkpoint.files(folder):
            found = checkpoint.read(path)
            own_head = json.dumps(found.values).encode()
            _write(path, head or own_head, bytes_of(dict(found.tensors)) if body is None else body)

    return state


def _replaced(make: Callable[[Path], object]) -> State:
    def state(folder: Path, _: Random) -> None:
        for path in checkpoint.files(folder):
            path.unlink()
            make(path)

    return state


def _progress(**changed: Any) -> State:
    return _changed(lambda _, values: values["progress"].update(changed))


def _values(**changed: Any) -> State:
    return _changed(lambda _, values: values.update(changed))


def _reshape(tensors: Tensors, _: Values) -> None:
    name = next(name for name in tensors if name.startswith("model."))
    tensors[name] = torch.zeros(3, 3)


def _retype(tensors: Tensors, _: Values) -> None:
    tensors["hits"] = tensors["hits"].double() + 0.5


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(checkpoint.MAGIC)
        file.truncate(1 << 42)


def _tensor(shape: list[int], end: int) -> bytes:
    header = {"loss": {"dtype": "F64", "shape": shape, "data_offsets": [0, end]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


STATES: dict[str, State] = {
    "weights of another shape": _changed(_reshape),
    "weights missing": _changed(lambda tensors, _: tensors.pop("velocity.0")),
    "no weights": _changed(lambda tensors, _: tensors.clear()),
    "hits of another type": _changed(_retype),
    "step as text": _progress(step="21"),
    "step below zero": _progress(step=-5, recorded=-5),
    "step beyond the end": _progress(step=10**9, recorded=10**9),
    "step without bound": _progress(step=10**30, recorded=10**30),
    "step as a fraction": _progress(step=20.5, recorded=20.5),
    "step not a number": _progress(step=float("nan")),
    "recorded after step": _progress(recorded=10**6),
    "diverged of other seeds": _progress(diverged=[None] * 5),
    "diverged as text": _progress(diverged="x"),
    "diverged as a list of text": _progress(diverged=["x"]),
    "evaluation of nothing": _progress(evaluation={}),
    "evaluation as text": _progress(evaluation="x"),
    "evaluation of text": _progress(evaluation={"loss": "x", "accuracy": "y"}),
    "seconds as text": _progress(seconds="x"),
    "seconds not a number": _values(seconds=float("nan")),
    "seconds below zero": _values(seconds=-1e9),
    "seeds of another stack": _values(seeds=[0, 1]),
    "seeds as text": _values(seeds=["0"]),
    "seeds that lead out": _values(seeds=["../../../x"]),
    "seeds without end": _values(seeds=list(range(200_000))),
    "no seeds": _values(seeds=[]),
    "threads below one": _values(threads=0),
    "threads without bound": _values(threads=10**9),
    "threads as text": _values(threads="x"),
    "another cell": _values(digest="0" * 64),
    "progress as a list": _values(progress=[]),
    "values as a list": _instead(b"[1,2]", None),
    "values without end": _instead(b"[" * 200_000, None),
    "values that name code": _values(_target_="os.system", _args_=["touch pwned"]),
    "a header of exabytes": _instead(None, struct.pack("<Q", 1 << 62)),
    "tensors of terabytes": _instead(None, _tensor([1 << 40], 1 << 43)),
    "a pickle": _replaced(lambda path: path.write_bytes(pickle.dumps(Bomb()))),
    "a pickle with a digest": _instead(None, pickle.dumps(Bomb())),
    "a link to noise without end": _replaced(lambda path: path.symlink_to("/dev/zero")),
    "a pipe": _replaced(os.mkfifo),
    "a folder": _replaced(Path.mkdir),
    "four terabytes of nothing": _replaced(_sparse),
}

YAML = "!!python/object/apply:os.system ['touch pwned']\n"
NESTED = "[" * 100_000


def _plant(name: str, text: str) -> State:
    def state(cell: Path, _: Random) -> None:
        path = cell / name
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")

    return state


def _edit(name: str, **changed: Any) -> State:
    def state(cell: Path, _: Random) -> None:
        path = cell / name
        values = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(values | changed), encoding="utf-8")

    return state


def _link(name: str, target: str) -> State:
    def state(cell: Path, _: Random) -> None:
        (cell / name).unlink(missing_ok=True)
        (cell / name).symlink_to(target)

    return state


LINE = json.dumps({"step": 1, "epoch": 0.1, "time": 1e300, "train/loss": "x"})

PLANTED: dict[str, State] = {
    "config.yaml that names code": _plant("config.yaml", YAML),
    "config.yaml of aliases": _plant(
        "config.yaml", "a: &a [x]\n" + "".join(f"b{i}: &b{i} [*a,*a]\n" for i in range(2000))
    ),
    "config.yaml without end": _plant("config.yaml", NESTED),
    "result.json without end": _plant("seed-0/result.json", NESTED),
    "result.json of other types": _edit("seed-0/result.json", test_accuracy="x", steps=[]),
    "result.json of numbers that are none": _edit("seed-0/result.json", test_accuracy=float("nan")),
    "result.json as a script": _edit(
        "seed-0/result.json", status="failed", error="<script>alert(1)</script>\x1b]0;x\x07"
    ),
    "summary.json as a script": _edit("summary.json", norm="<script>alert(1)</script>"),
    "summary.json without end": _plant("summary.json", NESTED),
    "metrics.jsonl of noise": _plant("seed-0/metrics.jsonl", "\x00\x01\n{}\n[]\nnull\n"),
    "metrics.jsonl of other types": _plant("seed-0/metrics.jsonl", f"{LINE}\n"),
    "metrics.jsonl without end": _plant("seed-0/metrics.jsonl", NESTED + "\n"),
    "hparams.json of other types": _plant("seed-0/hparams.json", '{"time": "x", "values": 3}'),
    "sweep.json without end": _plant("../sweep.json", NESTED),
    "sweep.json that leads out": _plant(
        "../sweep.json", '{"cells": [{"folder": "../../../etc", "norm": 1}, 5, {"folder": []}]}'
    ),
    "holder.json of all processes": _plant(
        ".holder.json", '{"pid": -1, "host": "x", "since": "<script>alert(1)</script>"}'
    ),
    "a folder of a seed that is none": _plant("seed-x", "x"),
    "environment.json without end": _plant("environment.json", NESTED),
    "result.json as a link": _link("seed-0/result.json", "/etc/passwd"),
}
