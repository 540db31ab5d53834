"""The style network: shapes, weights of every width, refused inputs, and the published network's output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cub_trees import WIDTHS, photo, style_weights
from PIL import Image
from safetensors.torch import save_file

from sfmoe_dg.data.cub_dg.styles import TransformerNet, load_style, stylise
from sfmoe_dg.foundation.errors import UserError


def network(seed: int = 0) -> TransformerNet:
    made = TransformerNet(WIDTHS)
    made.load_state_dict(style_weights(seed))
    return made.eval()


def test_published_network_has_1_7_million_weights() -> None:
    # Weights and biases of 16 convolutions and 15 normalisations at widths 32, 64, 128, 64, 32:
    # 9·9·3·32 + 9·32·64 + 9·64·128 + 10·9·128·128 + 9·128·64 + 9·64·32 + 9·9·32·3 weights,
    # 32 + 64 + 11·128 + 64 + 32 + 3 biases, 2·(32 + 64 + 11·128 + 64 + 32) of the normalisations.
    weights = 7776 + 18432 + 73728 + 1474560 + 73728 + 18432 + 7776
    assert sum(p.numel() for p in TransformerNet().parameters()) == weights + 1603 + 3200


@pytest.mark.parametrize("size", [(40, 30), (33, 41), (5, 5), (6, 7), (4, 9), (1, 1), (2, 60)])
def test_every_size_is_kept(size: tuple[int, int]) -> None:
    picture = photo(size, 1)[None]
    made = stylise(network(), picture)
    assert (made.shape, made.dtype) == (picture.shape, np.uint8)


def test_sides_grow_to_a_multiple_of_four_and_the_surplus_is_cut() -> None:
    picture = photo((33, 41), 0)
    with torch.inference_mode():
        whole = network()(torch.from_numpy(picture).permute(2, 0, 1)[None].float())
    assert whole.shape == (1, 3, 44, 36)
    expected = whole[0, :, :41, :33].clamp(0, 255).permute(1, 2, 0).numpy().astype(np.uint8)  # cut, not rounded
    assert np.array_equal(stylise(network(), picture[None])[0], expected)
    assert len(np.unique(expected)) > 100


def test_a_batch_equals_its_pictures_one_by_one_within_a_grey_level() -> None:
    pictures = np.stack([photo((41, 30), seed) for seed in range(5)])
    together = stylise(network(), pictures).astype(int)
    alone = np.concatenate([stylise(network(), pictures[i : i + 1]) for i in range(5)])
    assert np.abs(together - alone).max() <= 1
    assert (together != alone).mean() < 0.001
    assert np.array_equal(together, stylise(network(), pictures))


def test_files_of_any_width_and_kind(tmp_path: Path) -> None:
    weights = style_weights(3, (3, 5, 4, 2, 6))
    torch.save(weights, tmp_path / "new.pth")
    torch.save(weights, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({name: tensor.double() for name, tensor in weights.items()}, tmp_path / "double.pth")
    save_file(weights, tmp_path / "a.safetensors")
    old = {**weights, "in1.running_mean": torch.ones(3), "res2.in1.running_var": torch.ones(4)}
    torch.save(old, tmp_path / "old.pth")
    for name in ("new.pth", "legacy.pth", "double.pth", "a.safetensors", "old.pth"):
        style = load_style(tmp_path / name)
        assert style.widths == (3, 5, 4, 2, 6)
        assert style.dropped == (("in1.running_mean", "res2.in1.running_var") if name == "old.pth" else ())
        assert all(torch.equal(tensor, weights[key]) for key, tensor in style.network.state_dict().items())


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.conv2d.weight": None}, "no fast-neural-style network: no convolution conv1.conv2d.weight"),
        ({"res3.in2.bias": None}, r"no res3.in2.bias \(1 missing, 0 extra\)"),
        ({"res6.in2.bias": torch.ones(3)}, r"unknown res6.in2.bias \(0 missing, 1 extra\)"),
        ({"in4.weight": torch.ones(7)}, r"in4.weight has the shape \(7,\), not \(3,\)"),
        ({"in4.weight": torch.tensor([1, float("nan"), 1])}, "not finite in in4.weight"),
        ({"in4.weight": 3}, "does not hold a dictionary of tensors"),
        ({"in4.weight": Evil()}, "is not a file of weights"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, capsys, change, message: str) -> None:
    weights = {name: value for name, value in {**style_weights(0), **change}.items() if value is not None}
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_style(tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_that_are_not_weights(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} cannot be read"):
        load_style(tmp_path / name)
    for content in (b"", b"<html>not found</html>", b"PK\x03\x04 cut short"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} is not a file of weights"):
            load_style(tmp_path / name)


def test_numbers_that_overflow_are_refused() -> None:
    made = network()
    with torch.no_grad():
        made.deconv3.conv2d.bias[0] = float("inf")
    with pytest.raises(UserError, match="gives numbers that are not finite"):
        stylise(made, photo((8, 8), 0)[None])


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["candy.pth", "candy_nc16.pth"])
def test_candy_equals_the_published_network(shared_data: Path, name: str) -> None:
    folder = shared_data / "style_weights"
    picture = np.asarray(Image.open(folder / "amber_256.png").convert("RGB"))
    expected = np.asarray(Image.open(folder / "amber_256_candy.png").convert("RGB")).astype(int)
    difference = np.abs(stylise(load_style(folder / name).network, picture[None])[0] - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.001


@pytest.mark.shared_data
def test_pixels_keep_their_place_at_odd_sizes(shared_data: Path) -> None:
    """With each side 1, 2 or 3 pixels off a multiple of 4, no shift fits the whole picture's painting better."""
    folder = shared_data / "style_weights"
    candy = load_style(folder / "candy_nc16.pth").network
    picture = np.asarray(Image.open(folder / "amber_256.png").convert("RGB"))
    whole = stylise(candy, picture[None])[0].astype(int)
    for width, height in ((253, 254), (255, 253)):
        part = stylise(candy, picture[None, :height, :width])[0].astype(int)
        assert part.shape == (height, width, 3)
        shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
        inner = part[20:220, 20:220]
        errors = [np.abs(inner - whole[20 + dy : 220 + dy, 20 + dx : 220 + dx]).mean() for dy, dx in shifts]
        assert shifts[int(np.argmin(errors))] == (0, 0)
