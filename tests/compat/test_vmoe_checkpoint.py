"""The reader of released V-MoE checkpoints: the authors' own file, trees of full size, damaged and foreign files."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import timm
import torch
import vmoe_format as fmt
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from sfmoe_dg.cli.main import main
from sfmoe_dg.compat.vmoe.checkpoint import ShardedCheckpoint
from sfmoe_dg.compat.vmoe.convert import convert, load_converted, read_config, registered_name
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.backbones import build_backbone

SMALL = {
    "patch": 8, "image": 32, "width": 12, "depth": 3, "hidden": 20, "heads": 2, "experts": 3, "sparse": (1,),
    "classes": 7, "pre_logits": True,
}  # fmt: skip
S32 = {"patch": 32, "image": 224, "width": 512, "depth": 8, "hidden": 2048, "heads": 8, "experts": 8, "sparse": (5, 7)}
B16 = {"patch": 16, "image": 224, "width": 768, "depth": 12, "hidden": 3072, "heads": 12, "experts": 8}


def random_arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def cut_from(arrays: dict[str, np.ndarray]) -> Callable[[str, fmt.Region], np.ndarray]:
    return lambda name, region: arrays[name][tuple(slice(*bounds) for bounds in region)]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A small complete checkpoint; returns its prefix."""
    shapes = fmt.parameter_shapes(**SMALL)
    fmt.write(tmp_path / "ckpt_1", shapes, cut_from(random_arrays(shapes)))
    return tmp_path / "ckpt_1"


def shard(prefix: Path, number: int) -> Path:
    return Path(f"{prefix}.data-{number:05d}-of-00002")


# ------------------------------------------------------------------------------------------------ the authors' file


@pytest.fixture(scope="module")
def converted(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authors' checkpoint as our command line converts it."""
    out = tmp_path_factory.mktemp("vmoe") / "out.safetensors"
    assert main(["convert-vmoe", str(shared_data / "vmoe_checkpoint" / "ckpt_1"), str(out)]) == 0
    return out


@pytest.mark.shared_data
class TestAuthorsOwnFile:
    @pytest.mark.parametrize("k", [1, 2])
    @pytest.mark.parametrize("batch_priority", [0, 1])
    @pytest.mark.parametrize("ratio", [0.5, 1.05, 4.0])
    def test_logits_and_losses(self, shared_data: Path, converted: Path, ratio: float, batch_priority: int, k: int):
        expected = np.load(shared_data / "vmoe_checkpoint" / "expected.npz")
        images = torch.from_numpy(expected["images"].astype(np.float32)).permute(0, 3, 1, 2)
        model = load_converted(converted).eval()
        model.set_routing(k=k, capacity_ratio=ratio, allocation=("vanilla", "batch_priority")[batch_priority])
        with torch.no_grad():
            logits, losses = model.forward_with_losses(images)
        setting = f"C{ratio}_bpr{batch_priority}_K{k}"
        np.testing.assert_allclose(logits.numpy(), expected[f"logits_{setting}"], rtol=0, atol=1e-5)
        # Without noise the load loss is not defined, in their code as in ours: what remains is importance.
        assert set(losses) == {"importance"}
        assert losses["importance"].item() == pytest.approx(float(expected[f"aux_{setting}"]), rel=1e-5)

    def test_sizes(self, converted: Path):
        config = read_config(converted)
        sizes = {name: config[name] for name in ("patch_size", "img_size", "embed_dim", "depth", "num_heads")}
        assert sizes == {"patch_size": 32, "img_size": 96, "embed_dim": 48, "depth": 4, "num_heads": 3}
        assert (config["moe_layers"], config["num_experts"]) == ([1, 3], 6)
        assert (config["num_classes"], config["pre_logits"]) == (10, True)


# ------------------------------------------------------------------------------------------------------- the format


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)])
def test_every_array_arrives_where_it_belongs(tmp_path: Path, dtype: str, tolerance: float):
    shapes = fmt.parameter_shapes(**SMALL)
    arrays = random_arrays(shapes)
    fmt.write(tmp_path / "c", shapes, cut_from(arrays), shards=3, dtype=dtype, pieces=4)
    config = convert(tmp_path / "c", tmp_path / "c.safetensors")
    assert config == read_config(tmp_path / "c.safetensors")
    got = {key: value.numpy() for key, value in load_file(tmp_path / "c.safetensors").items()}

    def check(key: str, theirs: np.ndarray) -> None:
        np.testing.assert_allclose(got.pop(key), theirs, rtol=tolerance, atol=0, err_msg=key)

    check("patch_embed.proj.weight", np.einsum("yxcd->dcyx", arrays["embedding/kernel"]))
    check("pos_embed", arrays["Encoder/posembed_input/pos_embedding"])
    check("pre_logits.fc.weight", arrays["pre_logits/kernel"].T)
    check("head.weight", arrays["head/kernel"].T)
    attention = "Encoder/encoderblock_2/SelfAttention"
    parts = [arrays[f"{attention}/{part}/kernel"].reshape(12, 12).T for part in ("query", "key", "value")]
    check("blocks.2.attn.qkv.weight", np.concatenate(parts))
    parts = [arrays[f"{attention}/{part}/bias"].reshape(12) for part in ("query", "key", "value")]
    check("blocks.2.attn.qkv.bias", np.concatenate(parts))
    check("blocks.2.attn.proj.weight", arrays[f"{attention}/out/kernel"].reshape(12, 12).T)
    check("blocks.2.mlp.fc1.weight", arrays["Encoder/encoderblock_2/Mlp/Dense_0/kernel"].T)
    check("blocks.1.mlp.experts.fc1.weight", arrays["Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel"])
    check("blocks.1.mlp.experts.fc2.bias", arrays["Encoder/encoderblock_1/Moe/Mlp/Dense_1/bias"])
    check("blocks.1.mlp.router.weight", arrays["Encoder/encoderblock_1/Moe/Router/dense/kernel"].T)
    assert all(tensor.any() for tensor in got.values())


def test_ten_blocks_are_numbered_in_the_order_of_text(tmp_path: Path):
    """encoderblock_10 lies between encoderblock_1 and encoderblock_2."""
    shapes = fmt.parameter_shapes(**{**SMALL, "depth": 12})
    arrays = random_arrays(shapes)
    fmt.write(tmp_path / "c", shapes, cut_from(arrays))
    for leaf, region, values in ShardedCheckpoint(tmp_path / "c").pieces():
        np.testing.assert_array_equal(values, cut_from(arrays)(leaf.name, region))


def test_metadata_and_atomicity(small: Path, tmp_path: Path):
    out = tmp_path / "sub" / "o.safetensors"
    out.parent.mkdir()
    convert(small, out)
    with safe_open(out, "pt") as file:
        assert file.metadata()["format"] == "pt"
    before = out.read_bytes()
    shard(small, 1).write_bytes(shard(small, 1).read_bytes()[:-3] + b"\xc1\xc1\xc1")
    with pytest.raises(UserError):
        convert(small, out)
    assert out.read_bytes() == before
    assert list(out.parent.iterdir()) == [out]


def test_load_changed(small: Path, tmp_path: Path):
    convert(small, tmp_path / "o.safetensors")
    model = load_converted(tmp_path / "o.safetensors", img_size=48, num_classes=0)
    assert model(torch.zeros(2, 3, 48, 48)).shape == (2, 12)
    assert load_converted(tmp_path / "o.safetensors", num_classes=4).head.weight.shape == (4, 12)
    with pytest.raises(UserError, match="do not fit"):
        load_converted(tmp_path / "o.safetensors", embed_dim=24)


# ----------------------------------------------------------------------------------------------------- full size


def numbered(shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, int], Callable[[str, fmt.Region], np.ndarray]]:
    """Every array filled with its own number, which bfloat16 holds exactly; no array is made before it is written."""
    numbers = {name: i + 1 for i, name in enumerate(shapes)}
    assert len(numbers) <= 256
    return numbers, lambda name, region: np.full(prod(b - a for a, b in region), numbers[name], np.float32)


def check_full_size(tmp_path: Path, shapes: dict[str, tuple[int, ...]], parameters: int, name: str) -> Path:
    assert sum(prod(shape) for shape in shapes.values()) == parameters
    numbers, values = numbered(shapes)
    fmt.write(tmp_path / "full", shapes, values, shards=8, dtype="bfloat16")
    out = tmp_path / "full.safetensors"
    config = convert(tmp_path / "full", out)
    assert registered_name(config) == name
    with safe_open(out, "np") as file:
        keys = list(file.keys())
        assert sum(prod(file.get_slice(key).get_shape()) for key in keys) == parameters
        experts = file.get_tensor(f"blocks.{config['moe_layers'][-1]}.mlp.experts.fc2.weight")
        last = f"Encoder/encoderblock_{config['moe_layers'][-1]}/Moe/Mlp/Dense_1/kernel"
        assert (experts == numbers[last]).all()
        qkv = file.get_tensor("blocks.0.attn.qkv.weight")
        parts = [numbers[f"Encoder/encoderblock_0/SelfAttention/{part}/kernel"] for part in ("query", "key", "value")]
        np.testing.assert_array_equal(np.unique(qkv.reshape(3, -1), axis=1)[:, 0], parts)
    return out


def test_small_32_at_full_size(tmp_path: Path):
    shapes = fmt.parameter_shapes(**S32, classes=1000, pre_logits=True)
    out = check_full_size(tmp_path, shapes, 56_999_400, "v_moe_small_patch32_224")
    hparams = {"backbone": "v_moe_small_patch32_224", "pretrained": str(out), "moe_layers": "last-2", "num_experts": 8}
    backbone = build_backbone((3, 224, 224), hparams)
    assert backbone.n_outputs == 512
    model = timm.create_model(
        "v_moe_small_patch32_224", pretrained=True, pretrained_cfg_overlay={"file": str(out)},
        moe_layers="last-2", num_experts=8, pre_logits=True, device="cpu",
    )  # fmt: skip
    assert torch.equal(model.head.weight, load_file(out)["head.weight"])


@pytest.mark.slow
def test_base_16_at_full_size(tmp_path: Path):
    shapes = fmt.parameter_shapes(**B16, sparse=range(1, 12, 2), classes=21_843, pre_logits=False)
    check_full_size(tmp_path, shapes, 300_974_931, "v_moe_base_patch16_224")


# ------------------------------------------------------------------------------------- files that are not what they say


def refuse(prefix: Path, *parts: str) -> None:
    with pytest.raises(UserError) as raised:
        convert(prefix, prefix.parent / "o.safetensors")
    message = str(raised.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message
    assert not (prefix.parent / "o.safetensors").exists()


def edit_index(prefix: Path, edit: Callable[[dict], None]) -> None:
    path = Path(f"{prefix}.index")
    index = msgpack.unpackb(path.read_bytes())
    edit(index)
    path.write_bytes(msgpack.packb(index))


class TestRefused:
    def test_no_index(self, small: Path):
        refuse(small.with_name("ckpt"), "ckpt.index does not exist", "there is", "ckpt_1.index")

    def test_missing_shard(self, small: Path):
        shard(small, 1).unlink()
        refuse(small, "1 of 2 files are missing", "ckpt_1.data-00001-of-00002")

    @pytest.mark.parametrize("cut", [1, 100, 2000])
    def test_truncated_shard(self, small: Path, cut: int):
        shard(small, 0).write_bytes(shard(small, 0).read_bytes()[:-cut])
        refuse(small, "truncated")

    def test_truncated_index(self, small: Path):
        path = Path(f"{small}.index")
        path.write_bytes(path.read_bytes()[:-40])
        refuse(small, "ckpt_1.index is not the index of a V-MoE checkpoint")

    @pytest.mark.parametrize(
        "content", [b"", b"\x89PNG\r\n\x1a\n" * 9, pickle.dumps({"a": 1}), b'{"version": 1}', b"\xc0"]
    )
    def test_foreign_files(self, small: Path, content: bytes):
        saved = Path(f"{small}.index").read_bytes()
        Path(f"{small}.index").write_bytes(content)
        refuse(small, "ckpt_1.index is not the index")
        Path(f"{small}.index").write_bytes(saved)
        # As large as the true one, or it would be called truncated first.
        shard(small, 0).write_bytes(content.ljust(shard(small, 0).stat().st_size, b"\x00"))
        refuse(small, "ckpt_1.data-00000-of-00002 is")

    def test_other_version(self, small: Path):
        edit_index(small, lambda index: index.update(version="20200101"))
        refuse(small, "version is '20200101', not '20220622'")

    def test_something_after_the_end(self, small: Path):
        shard(small, 0).write_bytes(shard(small, 0).read_bytes() + b"\x00")
        refuse(small, "follows after its end")

    def test_sizes_beyond_the_disk_are_not_allocated(self, small: Path):
        def edit(index: dict) -> None:
            region = ((0, 1 << 30), (0, 1 << 30))
            index["index"]["head"]["kernel"] = fmt.index_leaf((1 << 30, 1 << 30), "float32", [region], [0])

        edit_index(small, edit)
        refuse(small, "truncated", "its index promises")

    @pytest.mark.parametrize(
        "regions", [[((0, 7),)] * 2, [((0, 3),), ((4, 7),)], [((0, 4),), ((3, 6),)], [((0, 8),)], []]
    )
    def test_regions_that_do_not_tile(self, small: Path, regions: list):
        def edit(index: dict) -> None:
            index["index"]["head"]["bias"] = fmt.index_leaf((7,), "float32", regions, [0] * len(regions))

        edit_index(small, edit)
        refuse(small, "the regions of head/bias do not make up its shape (7,)")

    @pytest.mark.parametrize("dtype", ["int64", "object", "complex64"])
    def test_types_that_are_not_weights(self, small: Path, dtype: str):
        leaf = fmt.index_leaf((7,), dtype, [((0, 7),)], [0])
        edit_index(small, lambda index: index["index"]["head"].update(bias=leaf))
        refuse(small, f"head/bias is of type {dtype}")

    @pytest.mark.parametrize(
        ("shape", "shards"), [(7, [0]), (None, [0]), ([7], 0), ([7], None)], ids=["shape", "no shape", "shard", "none"]
    )
    def test_numbers_where_lists_should_be(self, small: Path, shape: Any, shards: Any):
        shaped = msgpack.packb([shape, "float32", False, {}])
        leaf = fmt.ext(8, shaped, [msgpack.packb(fmt.slices(((0, 7),)))], shards)
        edit_index(small, lambda index: index["index"]["head"].update(bias=leaf))
        refuse(small, "ckpt_1.index is not the index of a V-MoE checkpoint")

    @pytest.mark.parametrize("whole", [True, False], ids=["all", "one of several"])
    def test_names_that_are_bytes(self, small: Path, whole: bool):
        def edit(index: dict) -> None:
            head = index["index"]["head"]
            kept = {} if whole else head
            index["index"]["head"] = {**kept, b"bias": head["bias"]}

        edit_index(small, edit)
        refuse(small, "a name that is no text below head")

    def test_a_classifier_without_axes(self, small: Path):
        leaf = fmt.index_leaf((), "float32", [()], [0])
        edit_index(small, lambda index: index["index"]["head"].update(bias=leaf))
        refuse(small, "ckpt_1.index is not the index of a V-MoE checkpoint")

    def test_unknown_extension(self, small: Path):
        edit_index(small, lambda index: index["index"].update(step=msgpack.ExtType(3, b"x")))
        refuse(small, "extension type 3")

    def test_another_network(self, tmp_path: Path):
        shapes = fmt.parameter_shapes(**SMALL) | {"Encoder/extra/scale": (4,), "head/bias": (9,)}
        del shapes["cls"]
        fmt.write(tmp_path / "c", shapes, cut_from(random_arrays(shapes)))
        refuse(tmp_path / "c", "1 missing: cls", "1 left over: Encoder/extra/scale", "of another shape: head/kernel")

    def test_not_a_transformer(self, tmp_path: Path):
        fmt.write(tmp_path / "c", {"a/b": (3,)}, lambda *_: np.zeros(3))
        refuse(tmp_path / "c", "it lacks patches, positions or blocks")

    def test_arrays_in_the_wrong_file(self, small: Path):
        first, second = shard(small, 0).read_bytes(), shard(small, 1).read_bytes()
        shard(small, 0).write_bytes(second)
        shard(small, 1).write_bytes(first)
        refuse(small, "twice or in the wrong file")

    def test_an_array_is_missing(self, small: Path):
        shapes = fmt.parameter_shapes(**SMALL)
        fmt.write_shard(shard(small, 0), [], cut_from({}), "float32", 1)
        shard(small, 1).write_bytes(shard(small, 1).read_bytes() + b"\x00" * 4 * sum(map(prod, shapes.values())))
        refuse(small, "ckpt_1.data-00000-of-00002 is incomplete", "of the index are missing")

    def test_output_is_named_for_what_it_is(self, small: Path):
        with pytest.raises(UserError, match=r"must end in \.safetensors"):
            convert(small, small.parent / "o.bin")

    def test_not_a_converted_file(self, tmp_path: Path):
        (tmp_path / "x.safetensors").write_bytes(b"no")
        with pytest.raises(UserError, match="cannot be read"):
            read_config(tmp_path / "x.safetensors")

    def test_command_line(self, small: Path, capsys: pytest.CaptureFixture[str]):
        assert main(["convert-vmoe", f"{small}.index", str(small.parent / "o.safetensors")]) == 0
        assert "3 blocks of width 12, 3 experts in 1, 7 classes" in capsys.readouterr().out
        assert main(["convert-vmoe", str(small) + "x", str(small.parent / "o.safetensors")]) == 2
        assert "does not exist" in capsys.readouterr().err


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("fuzz")
    shapes = fmt.parameter_shapes(**{**SMALL, "depth": 2})
    fmt.write(folder / "c", shapes, cut_from(random_arrays(shapes)))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_of_ours_or_a_changed_number(content: tuple[Path, dict[str, bytes]], data: st.DataObject):
    folder, files = content
    name = data.draw(st.sampled_from(sorted(files)))
    damaged = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        # Half of the damage near the beginning, where the structure is densest.
        end = data.draw(st.sampled_from([min(200, len(damaged)), len(damaged)]))
        damaged[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
    for other, old in files.items():
        (folder / other).write_bytes(bytes(damaged) if other == name else old)
    with contextlib.suppress(UserError):
        checkpoint = ShardedCheckpoint(folder / "c")
        for leaf, region, values in checkpoint.pieces():
            assert values.shape == tuple(stop - start for start, stop in region)
            assert len(region) == len(leaf.shape)
