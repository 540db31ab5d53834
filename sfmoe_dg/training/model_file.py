"""The trained model on disk: in DomainBed's format, and as safetensors."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.algorithms.registry import ALGORITHMS
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.files import read_json, write_atomic
from sfmoe_dg.foundation.torch_files import load_torch, save_torch
from sfmoe_dg.runs.folder import RunFolder

_SHOWN = 300
"""How many characters of torch's error message are shown."""


def save_trained(folder: RunFolder, algorithm: Algorithm, args: dict[str, Any], write: bool = True) -> None:
    """Write a finished run's model.pkl, which DomainBed's code can read, and model.safetensors.

    ``write`` is False in processes that only contribute their part of the weights; the leading one writes.
    """
    save_model(folder.model, algorithm, args, write)
    save_tensors(folder.tensors, algorithm, args, write)


def save_model(path: Path, algorithm: Algorithm, args: dict[str, Any], write: bool = True) -> None:
    """Write a file with upstream's six keys atomically; tensors are on the CPU, so that any machine can load them."""
    state = {name: tensor.detach().cpu() for name, tensor in algorithm.state_dict().items()}
    content = {
        "args": args,
        "model_input_shape": algorithm.input_shape,
        "model_num_classes": algorithm.num_classes,
        "model_num_domains": algorithm.num_domains,
        "model_hparams": algorithm.hparams,
        "model_dict": state,
    }
    if write:
        save_torch(path, content)


def save_tensors(path: Path, algorithm: Algorithm, args: dict[str, Any], write: bool = True) -> None:
    """Write the model as safetensors, which cannot hold code: each tensor once, and the rest as JSON in the header."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    kept: dict[tuple[Any, ...], str] = {}
    for name, tensor in algorithm.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in kept:
            aliases[name] = kept[place]
        else:
            kept[place] = name
            tensors[name] = tensor.detach().cpu().contiguous()
    about = {
        "args": args,
        "model_input_shape": algorithm.input_shape,
        "model_num_classes": algorithm.num_classes,
        "model_num_domains": algorithm.num_domains,
        "model_hparams": algorithm.hparams,
        "aliases": aliases,
    }
    header = {"format": "pt"} | {name: json.dumps(value) for name, value in about.items()}
    if write:
        write_atomic(path, safetensors.torch.save(tensors, header))


def _read_tensors(path: Path) -> dict[str, Any]:
    """What :func:`save_tensors` wrote, with the keys of model.pkl."""
    with safetensors.safe_open(path, framework="pt") as file:
        if "aliases" not in (file.metadata() or {}):
            raise ValueError("it was not saved by this package")
        content = {name: json.loads(value) for name, value in file.metadata().items() if name != "format"}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    state |= {name: state[kept] for name, kept in content.pop("aliases").items()}
    return content | {"model_dict": state, "model_input_shape": tuple(content["model_input_shape"])}


def load_model(run_folder: str | os.PathLike[str]) -> Algorithm:
    """The trained algorithm of a finished run, in evaluation mode, on the CPU.

    It is read from model.safetensors, or from model.pkl if that is missing.

    Raises:
        UserError: if the folder holds no model, or one that cannot be read.
    """
    content = _read_model(RunFolder(Path(run_folder)))
    # The weights come from the file, so no pre-trained ones need to be downloaded.
    hparams = content["model_hparams"] | {"pretrained": False}
    algorithm = ALGORITHMS.load(content["args"]["algorithm"])(
        content["model_input_shape"], content["model_num_classes"], content["model_num_domains"], hparams
    )
    try:
        algorithm.load_state_dict(content["model_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        raise UserError(f"the model in {run_folder} is not of its own algorithm: {reason}; train it again") from None
    algorithm.hparams = content["model_hparams"]
    return algorithm.eval()


def _read_model(folder: RunFolder) -> dict[str, Any]:
    tensors, pickled = folder.tensors, folder.model
    path = tensors if tensors.is_file() else pickled
    try:
        if path == tensors:
            return _read_tensors(tensors)
        return dict(load_torch(pickled))
    except FileNotFoundError:
        raise UserError(
            f"{pickled} does not exist; train without skip_model_save to keep the model", "skip_model_save"
        ) from None
    except (safetensors.SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read as a model ({reason}); train again, or copy it again") from None


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, ready to predict: ``class_names[algorithm.predict(transform(image)[None]).argmax()]``.

    ``transform`` turns a PIL image into the model's input as evaluation does. Data sets that are made in memory (the
    MNIST pair, StyledDigits) have their own inputs; get them from ``sfmoe_dg.data.build.build_dataset``.
    """

    algorithm: Algorithm
    transform: ImageTransform
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    test_domains: tuple[str, ...]


def load(run_folder: str | os.PathLike[str]) -> TrainedRun:
    """Open the folder of a finished run.

    Raises:
        UserError: if there is no model, or the file run.json beside it cannot be read.

    Examples:
        >>> from torchvision.transforms.functional import to_pil_image
        >>> from sfmoe_dg import build_dataset, load
        >>> trained = load("results/one")
        >>> trained.test_domains
        ('neon',)
        >>> image = to_pil_image(build_dataset("StyledDigits").domains[3].image(0))
        >>> trained.algorithm.predict(trained.transform(image)[None]).shape  # a logit for each class
        torch.Size([1, 10])
    """
    algorithm = load_model(run_folder)
    about = read_json(RunFolder(Path(run_folder)).about)
    mean, std = algorithm.normalization
    return TrainedRun(
        algorithm,
        ImageTransform(size=algorithm.input_shape[-1], mean=mean, std=std),
        tuple(about["classes"]),
        tuple(about["domains"]),
        tuple(about["test_domains"]),
    )
