"""Fast neural style: a feed-forward network that repaints a picture in the style it was trained for.

Three convolutions (9×9, then 3×3 of stride 2 twice), five residual blocks, two convolutions behind nearest-neighbour
upsampling, a 9×9 convolution to RGB; all padded by reflection, all but the last followed by instance normalisation.
Input and output are pixels from 0 to 255. Module names are those of the published weight files.

Legend: B pictures, H height, W width, C colours (3).

Source: Johnson, Alahi, Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution", ECCV 2016, in
the form of pytorch/examples ``fast_neural_style``, whose weight files are read.
"""

from __future__ import annotations

import contextlib
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from sfmoe_dg.foundation.errors import UserError

MIN_SIDE = 5
"""The shortest side with which the network's reflection padding works."""
WEIGHT_SUFFIXES = (".pth", ".pt", ".model", ".safetensors")

_RUNNING_STATISTICS = re.compile(r"(^|\.)in\d+\.(running_mean|running_var|num_batches_tracked)$")
_WIDTH_KEYS = tuple(f"{name}.conv2d.weight" for name in ("conv1", "conv2", "conv3", "deconv1", "deconv2"))


class ReflectedConv(nn.Module):
    """A convolution that keeps the size (up to its stride), optionally behind nearest-neighbour upsampling."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, upsample: int = 1) -> None:
        super().__init__()
        self.padding, self.upsample = kernel // 2, upsample
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsample > 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="nearest")
        return self.conv2d(F.pad(x, (self.padding,) * 4, mode="reflect"))


def _norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a skip connection, without a ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.in1 = ReflectedConv(channels, channels, 3), _norm(channels)
        self.conv2, self.in2 = ReflectedConv(channels, channels, 3), _norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.in2(self.conv2(F.relu(self.in1(self.conv1(x)))))


class TransformerNet(nn.Module):
    """The style network; ``widths`` are the channels of its five inner convolutions, 32, 64, 128, 64, 32 as published.

    ``forward`` takes and returns [B, 3, H, W] on the scale 0–255, not clamped. Sides that are not a multiple of 4
    are rounded up to one; see ``stylise``.
    """

    def __init__(self, widths: tuple[int, int, int, int, int] = (32, 64, 128, 64, 32)) -> None:
        super().__init__()
        first, second, inner, fourth, fifth = widths
        self.conv1, self.in1 = ReflectedConv(3, first, 9), _norm(first)
        self.conv2, self.in2 = ReflectedConv(first, second, 3, stride=2), _norm(second)
        self.conv3, self.in3 = ReflectedConv(second, inner, 3, stride=2), _norm(inner)
        self.res1, self.res2, self.res3 = ResidualBlock(inner), ResidualBlock(inner), ResidualBlock(inner)
        self.res4, self.res5 = ResidualBlock(inner), ResidualBlock(inner)
        self.deconv1, self.in4 = ReflectedConv(inner, fourth, 3, upsample=2), _norm(fourth)
        self.deconv2, self.in5 = ReflectedConv(fourth, fifth, 3, upsample=2), _norm(fifth)
        self.deconv3 = ReflectedConv(fifth, 3, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.in1(self.conv1(x)))
        x = F.relu(self.in2(self.conv2(x)))
        x = F.relu(self.in3(self.conv3(x)))
        for block in (self.res1, self.res2, self.res3, self.res4, self.res5):
            x = block(x)
        x = F.relu(self.in4(self.deconv1(x)))
        x = F.relu(self.in5(self.deconv2(x)))
        return self.deconv3(x)


@dataclass(frozen=True)
class StyleNetwork:
    """A network with its weights.

    Attributes:
        network: in evaluation mode, float32.
        widths: see ``TransformerNet``.
        dropped: names of running statistics that old files carry and that instance normalisation does not use.
    """

    network: TransformerNet
    widths: tuple[int, ...]
    dropped: tuple[str, ...]


def load_style(path: str | Path, device: torch.device | str = "cpu") -> StyleNetwork:
    """Read a weight file of any width (PyTorch's, without running code from it, or safetensors).

    Raises:
        UserError: if the file cannot be read, or its tensors are not those of a ``TransformerNet``, by name.
    """
    tensors = _read_tensors(Path(path))
    dropped = tuple(sorted(name for name in tensors if _RUNNING_STATISTICS.search(name)))
    weights = {name: tensor.float() for name, tensor in tensors.items() if name not in dropped}
    missing = [name for name in _WIDTH_KEYS if name not in weights or weights[name].dim() != 4]
    if missing:
        raise UserError(f"{path} holds no fast-neural-style network: no convolution {missing[0]}")
    first, second, inner, fourth, fifth = (int(weights[name].shape[0]) for name in _WIDTH_KEYS)
    widths = (first, second, inner, fourth, fifth)
    network = TransformerNet(widths)
    _check_tensors(path, weights, network.state_dict())
    network.load_state_dict(weights)
    return StyleNetwork(network.requires_grad_(False).eval().to(device), widths, dropped)


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"style weights {path} cannot be read ({error.strerror or error})") from None
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} is not a file of weights ({reason}); download it again") from None
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UserError(f"{path} does not hold a dictionary of tensors; save the network's state_dict() there")
    return dict(loaded)


def _check_tensors(path: str | Path, weights: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Load weights; all names, shapes and numbers must fit, so that no weight stays random and none is ignored."""
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or extra:
        found = [f"{what} {names[0]}" for what, names in (("no", missing), ("unknown", extra)) if names]
        raise UserError(
            f"{path} does not fit the style network: {' and '.join(found)} ({len(missing)} missing, {len(extra)} extra)"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise UserError(f"{path} does not fit the style network: {name} has the shape {shapes}")
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path} holds numbers that are not finite in {name}; download it again")


def stylise(network: TransformerNet, pictures_BHWC: np.ndarray) -> np.ndarray:
    """Repaint uint8 pictures [B, H, W, 3] of one size; the result has the same size and type.

    Values are clamped to 0–255 and cut, not rounded, to 8 bits, as the reference implementation does. The network's
    strided convolutions centre feature i on pixel 4i, and sides that are not a multiple of 4 grow at the bottom and the
    right only; this surplus (at most 3 pixels) is cut off, so that pixels keep their places and annotations fit.
    Sides below ``MIN_SIDE`` are extended by repeating the last row or column first.

    The pictures of a batch do not influence each other, but libraries choose their algorithm by the batch's shape, so
    a batch may round a few pixels by one grey level otherwise than single pictures. (At the published widths the CPU
    gives the same bits.) To get the same bytes again, use the same batches.

    Raises:
        UserError: if the device's memory is too small, or the network gives numbers that are not finite.
    """
    _, height, width, _ = pictures_BHWC.shape
    grow = [(0, 0), (0, max(0, MIN_SIDE - height)), (0, max(0, MIN_SIDE - width)), (0, 0)]
    device = next(network.parameters()).device
    pixels = torch.from_numpy(np.pad(pictures_BHWC, grow, mode="edge")).to(device)
    try:
        with torch.inference_mode(), _exact_float32(device):
            painted = network(pixels.permute(0, 3, 1, 2).float())[:, :, :height, :width]
            if not torch.isfinite(painted).all():
                raise UserError("a style network gives numbers that are not finite; its weight file is damaged")
            result = painted.clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    except torch.OutOfMemoryError:
        raise UserError(
            f"{len(pictures_BHWC)} pictures of {width}×{height} at once do not fit in the memory of {device}; "
            "give a smaller batch_size or fewer jobs",
            "batch_size",
            "jobs",
        ) from None
    return np.ascontiguousarray(result.cpu().numpy())


@contextlib.contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """On a GPU: always the same algorithm, and no TensorFloat-32, whose 10 bits would be visible in the picture."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
