"""A run's checkpoint: what it saves so that any process can resume it, on any device.

``checkpoint.pt`` holds the whole algorithm (weights, optimisers, scaler, and all its counters, queues and moving
averages), the states of all random generators, the step, and the values since the last record. Loaders have no state:
what a step draws follows from the seed and the step (``data.batches.loaders``). The file is a ``torch.save`` of
tensors, numbers, strings and containers. It is read with ``weights_only``, and replaced atomically.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.torch_files import save_torch
from sfmoe_dg.runs.folder import RunFolder
from sfmoe_dg.training.prepare import Setup

FORMAT = 1
"""Raised when the content of the file changes."""


@dataclass(frozen=True)
class Position:
    """How far a run is.

    Attributes:
        step: the last step whose update is in the weights; -1 before the first.
        due: whether the evaluation after this step is not in the records yet.
        seen: the values since the last record, by name.
        record: what is already measured of the record that is due.
        records_bytes: the length of the results file.
        notice: a sentence for the user.
    """

    step: int = -1
    due: bool = False
    seen: dict[str, list[float]] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    records_bytes: int = 0
    notice: str = ""


@dataclass(frozen=True)
class Random:
    """The states of the global random generators of Python, NumPy and torch, on the CPU and the run's device."""

    states: dict[str, Any]

    @classmethod
    def now(cls, device: torch.device) -> Random:
        kind, keys, *rest = np.random.get_state(legacy=True)
        states: dict[str, Any] = {"python": random.getstate()}
        states["numpy"] = (kind, torch.from_numpy(np.array(keys)), *rest)
        states["torch"] = torch.get_rng_state()
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            states["mps"] = torch.mps.get_rng_state()
        return cls(states)

    def restore(self, device: torch.device) -> None:
        version, internal, gauss = self.states["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, *rest = self.states["numpy"]
        np.random.set_state((kind, keys.numpy(), *rest))
        torch.set_rng_state(self.states["torch"])
        # A run that moves to another kind of device continues with the random numbers of that device.
        if device.type == "cuda" and "cuda" in self.states:
            torch.cuda.set_rng_state(self.states["cuda"], device)
        elif device.type == "mps" and "mps" in self.states:
            torch.mps.set_rng_state(self.states["mps"])


def save_state(folder: RunFolder, setup: Setup, position: Position, random_states: Random) -> None:
    """Write ``checkpoint.pt`` atomically: a crash while writing leaves the previous one.

    All processes of a run must call this, since each may hold a part of the state; the leading one writes.
    """
    content = {
        "format": FORMAT,
        "run": _identity(setup),
        "position": {
            "step": position.step,
            "due": position.due,
            "seen": position.seen,
            "record": position.record,
            "records_bytes": position.records_bytes,
        },
        "random": random_states.states,
        "algorithm": capture(setup.algorithm),
    }
    if setup.execution.world.leads:
        save_torch(folder.checkpoint, content)


def load_state(folder: RunFolder, setup: Setup) -> Position:
    """Restore a prepared run from its checkpoint; without one, the run is at its beginning.

    A checkpoint is not used if it cannot be read, is of another version, or counts more records than the results file
    holds (files were copied or lost). The run then begins anew, with the same records, and ``notice`` says so.

    Raises:
        UserError: if the checkpoint is of another run.
    """
    path = folder.checkpoint
    if not path.exists():
        return Position()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.get("format") != FORMAT:
            return Position(notice=f"{path} is of another version of sfmoe_dg; the run begins anew")
        saved, position = content["run"], Position(**content["position"])
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Position(notice=f"{path} cannot be read ({reason}); the run begins anew")
    wanted = _identity(setup)
    differing = [name for name in wanted if saved.get(name) != wanted[name]]
    if differing:
        described = ", ".join(f"{name} {saved.get(name)!r} there, {wanted[name]!r} here" for name in differing)
        raise UserError(
            f"{folder} holds an interrupted run of another kind ({described}); choose another output_dir", "output_dir"
        )
    results = folder.results
    if position.records_bytes > (results.stat().st_size if results.exists() else 0):
        return Position(notice=f"{results} is shorter than when {path.name} was saved; the run begins anew")
    restore(setup.algorithm, content["algorithm"])
    Random(content["random"]).restore(setup.device)
    return position


def _identity(setup: Setup) -> dict[str, Any]:
    """What must agree for a run to be resumed: all that decides its records, but not where its data or output lie."""
    spec = setup.spec
    return {name: value for name, value in spec.identity().items() if name not in ("data_dir", "hparams")} | {
        "steps": setup.steps,
        "checkpoint_freq": setup.checkpoint_freq,
        "hparams": setup.hparams,
    }


# ----------------------------------------------------------------------------------------- an algorithm, whole

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def capture(algorithm: nn.Module) -> dict[str, Any]:
    """Everything that training changes, as tensors, numbers, strings and containers."""
    known = {
        id(thing) for things in (algorithm.modules(), algorithm.parameters(), algorithm.buffers()) for thing in things
    }
    return {
        "modules": algorithm.state_dict(),
        "frozen": [name for name, p in algorithm.named_parameters(remove_duplicate=False) if not p.requires_grad],
        "attributes": {name: _Capture(known).attributes(module, name) for name, module in algorithm.named_modules()},
    }


def restore(algorithm: nn.Module, captured: dict[str, Any]) -> None:
    """Put a captured state into an algorithm that was built with the same arguments; it may be on another device."""
    device = next((p.device for p in algorithm.parameters()), torch.device("cpu"))
    algorithm.load_state_dict(captured["modules"])
    frozen = set(captured["frozen"])
    for name, parameter in algorithm.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(name not in frozen)
    for name, module in algorithm.named_modules():
        _restore_attributes(module, captured["attributes"][name], device)
    if isinstance(algorithm, Algorithm):
        # The optimisers' settings are those of the device on which the state was saved.
        algorithm.fit_optimizers()


class _Capture:
    """Turns attributes into (kind, content), or None if training does not change them.

    ``known`` are the ids of the modules, parameters and buffers that are in the algorithm's state_dict.
    """

    def __init__(self, known: set[int]) -> None:
        self._known = known

    def attributes(self, thing: Any, where: str) -> dict[str, Any]:
        """The attributes of a plain object, or those of a module that its state_dict does not hold."""
        values = dict(vars(thing))
        if isinstance(thing, nn.Module):
            # torch gives such names to attributes of modules that it has wrapped.
            own = (name for name in values if name not in _OF_EVERY_MODULE and not name.startswith("__"))
            values = {name: values[name] for name in own}
            # These buffers are registered, but not part of the state_dict.
            values |= {name: thing._buffers[name] for name in thing._non_persistent_buffers_set}
            self._known -= {id(thing._buffers[name]) for name in thing._non_persistent_buffers_set}
        captured = {name: self(values[name], f"{where}.{name}") for name in sorted(values)}
        return {name: value for name, value in captured.items() if value is not None}

    def __call__(self, value: Any, where: str) -> tuple[str, Any] | None:
        """
        Raises:
            TypeError: for an object that may change and that no case covers; give it state_dict and load_state_dict.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if id(value) in self._known or _is_constant(value):
            return None
        if value is None or isinstance(value, (bool, int, float, str)):
            return "value", value
        if isinstance(value, Tensor):
            return "tensor", (value.detach(), value.device.type == "cpu")
        if isinstance(value, np.ndarray):
            return "array", torch.from_numpy(value.copy())
        if isinstance(value, torch.Generator):
            return "generator", value.get_state()
        if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
            return "state", value.state_dict()
        if isinstance(value, dict):
            return "dict", [(key, self(item, f"{where}[{key!r}]")) for key, item in value.items()]
        if isinstance(value, (list, tuple, deque)):
            return "sequence", [self(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if hasattr(value, "__dict__"):
            return "object", self.attributes(value, where)
        kind = type(value).__name__
        raise TypeError(f"{where} is a {kind}, which cannot be saved; give it state_dict and load_state_dict")


def _is_constant(value: Any) -> bool:
    """Whether training cannot change it: classes, functions, sizes, members of enumerations, frozen dataclasses."""
    if isinstance(value, (type, Enum, torch.device, torch.dtype, torch.Size, range, frozenset)):
        return True
    parameters = getattr(type(value), "__dataclass_params__", None)
    return (parameters is not None and parameters.frozen) or (callable(value) and not isinstance(value, nn.Module))


def _restore_attributes(thing: Any, captured: dict[str, Any], device: torch.device) -> None:
    for name, (kind, content) in captured.items():
        setattr(thing, name, _restore(getattr(thing, name, None), kind, content, device))


def _restore(now: Any, kind: str, content: Any, device: torch.device) -> Any:
    """The value that an attribute gets; ``now`` is what a newly built algorithm has there."""
    if kind == "tensor":
        tensor, on_cpu = content
        return tensor.to(now.device if isinstance(now, Tensor) else torch.device("cpu") if on_cpu else device)
    if kind == "array":
        return content.numpy()
    if kind == "dict":
        return _restore_dict(now, content, device)
    if kind == "sequence":
        return _restore_sequence(now, content, device)
    if kind == "generator":
        now.set_state(content)
    elif kind == "state":
        now.load_state_dict(content)
    elif kind == "object":
        _restore_attributes(now, content, device)
    else:
        return content
    return now


def _restore_dict(now: Any, content: list[tuple[Any, Any]], device: torch.device) -> Any:
    old = dict(now) if isinstance(now, dict) else {}
    # An item that was not captured is a constant and stays as it is.
    new = {key: old[key] if item is None else _restore(old.get(key), item[0], item[1], device) for key, item in content}
    if not isinstance(now, dict):
        return new
    now.clear()
    now.update(new)
    return now


def _restore_sequence(now: Any, content: list[Any], device: torch.device) -> Any:
    old = list(now) if isinstance(now, (list, tuple, deque)) else []
    old += [None] * (len(content) - len(old))
    pairs = zip(old, content, strict=False)
    new = [was if item is None else _restore(was, item[0], item[1], device) for was, item in pairs]
    if isinstance(now, deque):
        return deque(new, now.maxlen)
    if hasattr(now, "_fields"):
        return type(now)(*new)
    return tuple(new) if isinstance(now, tuple) else new
