"""The trained model on disk, in DomainBed's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sfmoe_dg.algorithms.base import Algorithm
from sfmoe_dg.errors import UserError
from sfmoe_dg.records import atomic_file

MODEL_FILE = "model.pkl"


def save_model(path: Path, algorithm: Algorithm, args: dict[str, Any]) -> None:
    """Write upstream's six keys atomically; tensors go to the CPU, so that any machine can load them."""
    state = {name: tensor.detach().cpu() for name, tensor in algorithm.state_dict().items()}
    content = {
        "args": args,
        "model_input_shape": algorithm.input_shape,
        "model_num_classes": algorithm.num_classes,
        "model_num_domains": algorithm.num_domains,
        "model_hparams": algorithm.hparams,
        "model_dict": state,
    }
    with atomic_file(path) as file:
        try:
            torch.save(content, file)
        except (OSError, RuntimeError) as error:
            # torch may hide the file system's own error (a full disk) behind one about its archive; both lack the name.
            cause = error if isinstance(error, OSError) else error.__context__
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(path)) from None
            raise


def load_model(run_folder: str | Path) -> Algorithm:
    """The trained algorithm of a finished run, in evaluation mode, on the CPU.

    Raises:
        UserError: if the folder holds no model, or one that does not fit its algorithm.
    """
    from sfmoe_dg.algorithms import ALGORITHMS

    path = Path(run_folder) / MODEL_FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist; train without --skip_model_save to keep the model")
    content = torch.load(path, map_location="cpu", weights_only=True)
    hparams = content["model_hparams"] | {"pretrained": False}
    algorithm = ALGORITHMS.load(content["args"]["algorithm"])(
        content["model_input_shape"], content["model_num_classes"], content["model_num_domains"], hparams
    )
    algorithm.load_state_dict(content["model_dict"])
    algorithm.hparams = content["model_hparams"]
    return algorithm.eval()
