"""Load dense weights into dense or sparse models, from a file, the hub's local cache or the hub. No key is ignored."""

from __future__ import annotations

import inspect
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.torch_files import load_torch
from sfmoe_dg.models.moe.layers import moe_layers

_PATIENCE = 4.0
"""Seconds to wait for the hub to answer."""

FROM_SCRATCH = "'{\"pretrained\": false}'"


def load_pretrained(model: nn.Module, source: bool | str | Path, name: str) -> None:
    """Load weights into ``model``, in place. Dense feed-forward weights go into every expert ("sparse upcycling").

    The classifier keeps its initial values if its size differs, and so do the routers of upcycled layers.

    Args:
        source: True for the weights that timm's record of the model names; or the path of a .safetensors or torch file.
        name: the model's name in messages.

    Raises:
        UserError: if there are no weights, the file cannot be read, or any key is missing, left over or of
            another shape (all are listed). Nothing is loaded then.
    """
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    if source is True and config.get("state_dict"):
        state, where = dict(config["state_dict"]), f"the state_dict given for {name}"
    else:
        path = weights_file(config, name) if source is True else Path(str(source))
        state, where = read_state_dict(path), str(path)
    wrapped = type(model).__name__.startswith("Feature") and hasattr(model, "model")  # features_only=True
    target: Any = model.model if wrapped else model
    state = _filtered(state, target, where)
    state = _adapt_first_conv(state, target, config)
    may_miss = _upcycle(state, target)
    may_miss |= _drop_other_head(state, target, config)
    _check_keys(state, target, may_miss, where, name)
    target.load_state_dict(state, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or a torch file (read with ``weights_only=True``), on the CPU.

    Raises:
        UserError: if the file does not exist or is neither.
    """
    if not path.is_file():
        raise UserError(
            f"pretrained weights not found: {path} is not a file; give a .safetensors or .pth file, or false"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(str(path))
        else:
            state = load_torch(path)
    except Exception as error:  # of torch's, pickle's and safetensors' own classes
        raise UserError(
            f"pretrained weights in {path} cannot be read ({_short(error)}); give a .safetensors or .pth file"
        ) from None
    for key in ("model", "state_dict", "model_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"pretrained weights in {path} are not a dictionary of tensors")
    return state


def weights_file(config: dict[str, Any], name: str) -> Path:
    """The local file of the weights that timm's record names, downloaded only if it is not in the cache.

    Raises:
        UserError: within seconds if it is not cached and the hub does not answer; timm itself would retry for a minute.
    """
    if config.get("file"):
        return Path(config["file"])
    hub_id = config.get("hf_hub_id")
    if not hub_id:
        if str(config.get("url") or "").startswith("gs://"):
            raise UserError(
                f"the pretrained weights of {name} are released in another format: fetch {config['url']}.*, "
                f"convert them with sfmoe-dg convert-vmoe and give the file, or say hparams {FROM_SCRATCH}",
                "hparams",
            )
        raise UserError(
            f"no pretrained weights are published for {name}; give a file or say hparams {FROM_SCRATCH}", "hparams"
        )
    import huggingface_hub
    from huggingface_hub import constants

    repo, _, revision = hub_id.partition("@")
    given = config.get("hf_hub_filename")
    names = [given] if given else [constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME]
    for filename in names:
        cached = huggingface_hub.try_to_load_from_cache(repo, filename, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    help_text = (
        'give the file with hparams \'{"pretrained": "path.safetensors"}\' '
        f"(from https://huggingface.co/{repo}), or train from scratch with {FROM_SCRATCH}"
    )
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise UserError(
            f"the pretrained weights {repo} of {name} are not cached and the hub cannot be reached: {help_text}",
            "hparams",
        )
    try:
        return Path(huggingface_hub.hf_hub_download(repo, names[0], revision=revision or None))
    except Exception as error:
        raise UserError(
            f"the pretrained weights {repo} of {name} cannot be downloaded ({_short(error)}): {help_text}",
            "hparams",
        ) from None


def _answers(endpoint: str) -> bool:
    """Whether a server answers. Asked in a thread, because the look-up of its name cannot be given a time limit."""
    heard: list[bool] = []

    def knock() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_PATIENCE).close()
            heard.append(True)
        except urllib.error.HTTPError:
            heard.append(True)
        except (OSError, ValueError):
            pass

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(_PATIENCE + 1)
    return bool(heard)


def _filtered(state: dict[str, Tensor], model: nn.Module, where: str) -> dict[str, Tensor]:
    """The state in the names and shapes of the model: by its own ``fit_weights``, or by timm's filter for its class."""
    fit = getattr(model, "fit_weights", None) or _timm_filter(model)
    try:
        return dict(state if fit is None else fit(dict(state)))
    except UserError:
        raise
    except (KeyError, AttributeError, IndexError, ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise UserError(f"pretrained weights in {where} do not fit the model ({_short(error)})") from None


def _timm_filter(model: nn.Module) -> Callable[[dict[str, Tensor]], Any] | None:
    """The ``checkpoint_filter_fn`` of the timm module that defines the model's class, or a class it derives from."""
    for cls in type(model).__mro__:
        filter_fn = getattr(inspect.getmodule(cls), "checkpoint_filter_fn", None)
        if filter_fn is not None:
            return lambda state: filter_fn(state, model)
    return None


def _adapt_first_conv(state: dict[str, Tensor], model: nn.Module, config: dict[str, Any]) -> dict[str, Tensor]:
    """Sum or repeat the input channels of the first convolution if the pictures do not have three."""
    from timm.models import adapt_input_conv

    names = config.get("first_conv") or ()
    for name in (names,) if isinstance(names, str) else names:
        key = f"{name}.weight"
        wanted = dict(model.named_parameters()).get(key)
        if key in state and wanted is not None and state[key].shape[1] == 3 != wanted.shape[1]:
            state[key] = adapt_input_conv(wanted.shape[1], state[key])
    return state


def _upcycle(state: dict[str, Tensor], model: nn.Module) -> set[str]:
    """Copy the weights and biases of dense layers into every expert, in place.

    The dense layer of the experts ``<moe>.experts.<layer>`` is ``<moe>.<layer>``.

    Returns:
        the keys of the model that a file of dense weights lacks.
    """
    beginnings = getattr(model, "not_in_checkpoints", ())
    routers = {key for key in model.state_dict() if key.startswith(beginnings)} if beginnings else set()
    for prefix, layer in moe_layers(model):
        names = "|".join(re.escape(name) for name, _ in layer.experts.named_children())
        dense = {key for key in state if re.fullmatch(rf"{re.escape(prefix)}\.({names})\.(weight|bias)", key)}
        for key in dense:
            value = state.pop(key)
            layer_name, kind = key[len(prefix) + 1 :].split(".")
            value = value.T if kind == "weight" else value
            state[f"{prefix}.experts.{layer_name}.{kind}"] = value.expand(layer.options.num_experts, *value.shape)
        if dense:
            routers |= {f"{prefix}.router.{key}" for key in layer.router.state_dict()}
    return routers


def _drop_other_head(state: dict[str, Tensor], model: nn.Module, config: dict[str, Any]) -> set[str]:
    """Remove a classifier of another size than the model's, in place; returns the keys that may be missing."""
    names = config.get("classifier") or ()
    own = model.state_dict()
    may_miss: set[str] = set()
    for name in (names,) if isinstance(names, str) else names:
        keys = [f"{name}.weight", f"{name}.bias"]
        if any(k in state and (k not in own or own[k].shape != state[k].shape) for k in keys) or keys[0] not in state:
            for key in keys:
                state.pop(key, None)
            may_miss |= set(keys)
    return may_miss


def _check_keys(state: dict[str, Tensor], model: nn.Module, may_miss: set[str], where: str, name: str) -> None:
    own = model.state_dict()
    missing = [k for k in own if k not in state and k not in may_miss and not k.endswith("num_batches_tracked")]
    left_over = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in state
        if k in own and own[k].shape != state[k].shape
    ]
    problems = [
        f"{len(keys)} {what}: {', '.join(keys)}"
        for what, keys in (("missing", missing), ("left over", left_over), ("of another shape", shapes))
        if keys
    ]
    if problems:
        raise UserError(f"pretrained weights in {where} do not fit {name}: {'; '.join(problems)}")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def has_weights(config: dict[str, Any] | None) -> bool:
    """Whether timm's record names any weights."""
    return any((config or {}).get(key) for key in ("file", "state_dict", "hf_hub_id", "url"))
