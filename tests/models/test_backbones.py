"""From hyper-parameters to featurizers."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tiny_twins import TINY_TWINS
from torch import nn

from sfmoe_dg.algorithms.common_hparams import MODEL_DEFAULT, common_hparams
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.models.architectures import registry
from sfmoe_dg.models.architectures.preset import Preset
from sfmoe_dg.models.backbones import TIMM_NAMES, build_backbone, known_backbones
from sfmoe_dg.models.moe.capacity import ALLOCATIONS
from sfmoe_dg.models.moe.hparams import MODELS, MOE_HPARAMS
from sfmoe_dg.models.moe.layers import moe_layers, set_routing

SCRATCH = {"pretrained": False}


def test_every_file_that_registers_a_model_is_listed():
    folder = Path(registry.__file__).parent
    registering = {p.stem for p in folder.glob("*.py") if "@moe_model(" in p.read_text()}
    assert registering == set(registry.ARCHITECTURES)


def test_every_preset_is_listed_and_is_one_of_the_backbones_of_its_file():
    for name, place in registry.presets().items():
        module = importlib.import_module(place.partition(":")[0])
        preset = getattr(module, name)
        assert all(timm.model_entrypoint(backbone).__module__ == module.__name__ for backbone in preset.backbones)
    modules = [importlib.import_module(f"{registry.FOLDER}.{file}") for file in registry.ARCHITECTURES]
    declared = {id(value): name for m in modules for name, value in vars(m).items() if isinstance(value, Preset)}
    assert set(declared.values()) == set(registry.presets())


@pytest.mark.parametrize(
    ("shape", "hparams", "kind", "width"),
    [
        ((20,), {"mlp_width": 16, "mlp_depth": 3, "mlp_dropout": 0.1}, "MLP", 16),
        ((20,), {}, "MLP", 256),
        ((2, 28, 28), {}, "MnistCNN", 128),
        ((3, 32, 32), {}, "SparseVisionTransformer", 64),
        ((3, 224, 224), {}, "ResNet", 2048),
        ((3, 224, 224), {"resnet50_augmix": False, "resnet18": True}, "ResNet", 512),
        ((3, 224, 224), {"resnet50_augmix": False, "resnet18": False}, "ResNet", 2048),
        ((3, 224, 224), {"vit": True}, "VisionTransformer", 384),
    ],
)
def test_auto_follows_domainbed(shape, hparams, kind, width):
    featurizer = build_backbone(shape, {"backbone": "auto", **SCRATCH, **hparams})
    assert type(featurizer.network).__name__ == kind
    assert featurizer.n_outputs == width
    features, losses = featurizer.forward_with_losses(torch.randn(2, *shape))
    assert features.shape == (2, width)
    assert losses == {}


@pytest.mark.parametrize("name", TINY_TWINS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 28, 28)])
def test_tiny_models_are_featurizers(name, shape):
    # Published weights do not exist for these: True means that there is nothing to load.
    featurizer = build_backbone(shape, {"backbone": name, "pretrained": True})
    x = torch.randn(3, *shape)
    features, losses = featurizer.forward_with_losses(x)
    assert features.shape == featurizer(x).shape == (3, featurizer.n_outputs)
    assert bool(losses) == any(layer.options.losses for _, layer in moe_layers(featurizer))
    assert featurizer.normalization == ((0.5,) * shape[0], (0.5,) * shape[0])


def test_normalization_is_what_the_weights_expect():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert build_backbone((3, 224, 224), {"backbone": "resnet18", **SCRATCH}).normalization == imagenet
    hybrid = build_backbone((3, 224, 224), {"backbone": "vit_tiny_patch16_224", **SCRATCH})
    assert hybrid.normalization == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert build_backbone((1, 28, 28), SCRATCH).normalization == ((0.0,), (1.0,))


def test_moe_hyper_parameters_reach_the_model():
    given = {
        "num_experts": 8,
        "top_k": 1,
        "moe_layers": "last-2",
        "capacity_ratio": 1.5,
        "allocation": "batch_priority",
        "router": "cosine",
        "routing_loss_weight": 0.1,
        "drop_path": 0.2,
    }
    assert set(given) <= set(MOE_HPARAMS)
    featurizer = build_backbone((3, 32, 32), {"backbone": "sf_moe_tiny_32", **given})
    assert [name for name, _ in moe_layers(featurizer)] == ["network.blocks.1.mlp", "network.blocks.3.mlp"]
    options = moe_layers(featurizer)[0][1].options
    assert (options.num_experts, options.top_k, options.capacity_ratio) == (8, 1, 1.5)
    assert options.losses == (("balance", 0.1),)
    assert featurizer.network.blocks[3].drop_path1.drop_prob == pytest.approx(0.2)
    set_routing(featurizer, k=2)
    defaults = dict.fromkeys(given, "default")
    plain = build_backbone((3, 32, 32), {"backbone": "sf_moe_tiny_32", **defaults})
    assert moe_layers(plain)[0][1].options.top_k == 2
    dropless = build_backbone((3, 32, 32), {"backbone": "sf_moe_tiny_32", "capacity_ratio": None})
    assert moe_layers(dropless)[0][1].options.capacity_ratio is None


@pytest.mark.parametrize("name", ["mnist_cnn", "resnet18", "vit_tiny_32", "deit_small_patch16_224"])
def test_moe_hyper_parameters_are_refused_by_dense_backbones(name):
    shape = (3, 224, 224) if "224" in name else (3, 32, 32)
    with pytest.raises(UserError, match=f"'{name}' is dense and has no use for top_k"):
        build_backbone(shape, {"backbone": name, "top_k": 1, **SCRATCH})


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [
        ((3, 32, 32), "sf_moe_tinny_32", "did you mean sf_moe_tiny_32"),
        ((3, 224, 224), "resnet_50", "did you mean resnet50"),
        ((3, 224, 224), "convnext_tinny", "did you mean convnext_tiny"),
        ((3, 224, 224), "resnet50.no_such_weights", "unknown backbone"),
        ((3, 224, 224), "qqqqqqqq", "and any timm model"),
        ((3, 64, 64), "auto", "name one with the 'backbone' hparam"),
        ((20,), "vit_tiny_32", "wants pictures"),
        ((20,), "mnist_cnn", "wants pictures"),
        ((3, 32, 32), "mlp", "wants vectors"),
    ],
)
def test_backbones_that_are_refused(shape, name, message):
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(shape, {"backbone": name, **SCRATCH})
    assert "\n" not in str(caught.value)


def test_what_a_timm_model_says_of_its_arguments_is_one_sentence(monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("sizes do not go together")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"'resnet18' cannot be built .* sizes do not go together"):
        build_backbone((3, 64, 64), {"backbone": "resnet18", **SCRATCH})


def test_any_timm_model_is_a_featurizer():
    featurizer = build_backbone((1, 64, 64), {"backbone": "mobilenetv3_small_050", **SCRATCH}).eval()
    assert featurizer(torch.randn(2, 1, 64, 64)).shape == (2, featurizer.n_outputs)


def test_frozen_batch_norm_stays_in_evaluation_mode():
    hparams = {"backbone": "resnet18", "resnet_dropout": 0.3, **SCRATCH}
    frozen = build_backbone((3, 64, 64), {**hparams, "freeze_bn": True}).train()
    norms = [m for m in frozen.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert frozen.dropout.training
    assert frozen.dropout.p == 0.3
    assert all(m.training for m in build_backbone((3, 64, 64), {**hparams, "freeze_bn": False}).modules())


def test_weights_of_a_plain_timm_model_from_a_file(tmp_path):
    full = timm.create_model("resnet18", num_classes=1000)
    path = tmp_path / "r.safetensors"
    save_file(full.state_dict(), path)
    featurizer = build_backbone((2, 64, 64), {"backbone": "resnet18", "pretrained": str(path)})
    torch.testing.assert_close(featurizer.network.layer4[1].conv2.weight, full.layer4[1].conv2.weight)
    with pytest.raises(UserError, match="do not fit"):
        build_backbone((3, 64, 64), {"backbone": "resnet50", "pretrained": str(path)})


def test_dinov2_concatenates_four_class_tokens_and_the_mean_patch():
    hparams = {"backbone": "dinov2", "vit_attn_tune": True, **SCRATCH}
    featurizer = build_backbone((3, 28, 28), hparams)
    assert featurizer(torch.randn(2, 3, 28, 28)).shape == (2, 5 * 768)
    trainable = {n for n, p in featurizer.named_parameters() if p.requires_grad}
    assert trainable
    assert all("attn" in n for n in trainable)


def test_mnist_cnn_is_domainbeds():
    network = build_backbone((2, 28, 28), {"backbone": "mnist_cnn"}).network
    # Convolutions 2→64→128→128→128 with biases, group norms of 64, 128, 128, 128.
    assert sum(p.numel() for p in network.parameters()) == (18 + 1) * 64 + 577 * 128 + 2 * 1153 * 128 + 2 * (
        64 + 3 * 128
    )
    assert [type(m).__name__ for m in network.children()] == ["Conv2d"] * 4 + ["GroupNorm"] * 4


def test_every_allocation_can_be_chosen():
    assert common_hparams("PACS")["allocation"].choices == (MODEL_DEFAULT, *ALLOCATIONS)
    featurizer = build_backbone((3, 32, 32), {"backbone": "sf_moe_tiny_32", "allocation": "token_order"})
    assert moe_layers(featurizer)[0][1].options.allocation == "token_order"


def test_every_name_has_a_description():
    assert all(text and "\n" not in text for text in known_backbones().values())
    assert {"auto", "mnist_cnn", "sf_moe_tiny_32", "resnet50_augmix"} <= set(known_backbones())


def test_the_page_of_architectures_lists_every_network(request):
    """Its rows name families: ``sf_moe_{small,base}_patch16_224``."""
    page = (request.config.rootpath / "docs" / "architectures.md").read_text()
    rows = [line.split(" | ")[1] for line in page.splitlines() if line.startswith("| ") and "_32`" in line]
    names = [name for row in rows for family in re.findall(r"`([^`]+)`", row) for name in expanded(family)]
    assert sorted(name for name in names if name not in TIMM_NAMES) == sorted(MODELS)


def expanded(family):
    before, brace, rest = family.partition("{")
    inside, _, after = rest.partition("}")
    return [f"{before}{choice}{after}" for choice in inside.split(",")] if brace else [family]
