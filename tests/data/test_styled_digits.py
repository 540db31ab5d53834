"""StyledDigits: the same bits everywhere, the same shapes in every style."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.catalog import CATALOG
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.data.sets.styled_digits import STYLES, digits, draw, enlarge
from sfmoe_dg.data.splits import count_shared_identities, split_domains

# MD5 of all 1,797 pictures, uint8 [N, 32, 32, 3]. Integer arithmetic: the same on every platform.
CHECKSUMS = {
    "ink amount": "fd03006939c8f47f76f6cd33e22b8d8d",
    "chalk": "ee8f6674350c0d9205bf54a4869d95d9",
    "ink": "df88a8334de01e59e0c29a6b9205fd14",
    "mosaic": "a75fb2afc8ae5f5ce6b081a7b8c0da18",
    "neon": "54bfa840b27ee1235d5a4a2aaf406996",
}


@pytest.fixture(scope="module")
def styled() -> DomainDataset:
    return build_dataset("StyledDigits")


def test_pictures_are_these_bits(styled: DomainDataset) -> None:
    found = {"ink amount": hashlib.md5(digits()[0].tobytes()).hexdigest()}
    for domain in styled:
        assert isinstance(domain, InMemoryDomain)
        found[domain.name] = hashlib.md5(domain.images.permute(0, 2, 3, 1).numpy().tobytes()).hexdigest()
    assert found == CHECKSUMS


def test_facts_and_domains_agree(styled: DomainDataset) -> None:
    entry = CATALOG.load("StyledDigits")
    assert styled.domain_names == entry.domains == tuple(sorted(STYLES))
    assert tuple(map(len, styled)) == entry.counts
    assert (styled.num_classes, styled.input_shape) == (entry.num_classes, entry.input_shape)
    for domain in styled:
        assert isinstance(domain, InMemoryDomain)
        assert np.array_equal(domain.identities, np.arange(1797))
        assert np.array_equal(domain.targets, digits()[1])
        x = domain.batch(np.arange(100))
        assert x.shape == (100, 3, 32, 32)
        assert -1 <= x.min() < 0 < x.max() <= 1


def test_a_picture_depends_on_its_digit_alone() -> None:
    ink = digits()[0]
    for style in STYLES:
        assert np.array_equal(draw(style, ink[:3]), draw(style, ink[:20])[:3])


def test_enlarging_by_hand() -> None:
    """Away from the empty border these splines reproduce constants and straight lines."""
    flat = enlarge(np.full((1, 8, 8), 16))
    assert (flat[0, 9:23, 9:23] == 255).all()
    assert (enlarge(np.zeros((1, 8, 8), dtype=np.int64)) == 0).all()
    ramp = enlarge(np.tile(np.arange(8) * 2, (1, 8, 1)))[0, 16]
    inner = np.arange(12, 20)  # at (10 i - 11) / 32 - 1 in the unpadded row, whose values are twice the position
    assert ramp[inner].tolist() == [int(255 * 2 * ((10 * i - 11) / 32 - 1) / 16) for i in inner]


def test_styles_keep_the_shape(styled: DomainDataset) -> None:
    """The stroke can be told from the background by colour in every picture, though not by the same rule."""
    ink = digits()[0]
    for style in STYLES:
        pictures = draw(style, ink[:200]).astype(int)
        inside, outside = ink[:200] >= 200, ink[:200] == 0
        contrast = [
            np.abs(p[i].mean(axis=0) - p[o].mean(axis=0)).max()
            for p, i, o in zip(pictures, inside, outside, strict=True)
        ]
        assert min(contrast) > 50, style


def test_identity_split_keeps_handwriting_apart(styled: DomainDataset) -> None:
    shared = {
        policy: count_shared_identities(styled, split_domains(styled, [1], policy=policy), [1])
        for policy in ("random", "identity")
    }
    assert shared["identity"] == 0
    # Of 1,797 digits, 80 % are tested on, and nearly all of them (1 - 0.2³) are trained on in some other style.
    assert shared["random"] == pytest.approx(1797 * 0.8 * (1 - 0.2**3), abs=15)
