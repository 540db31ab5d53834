"""Expert maps and their agreement between domains, on two objects in two domains, three experts, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sfmoe_dg.analysis.expert_maps.compute import agreement, expert_maps, parts_in_patches, pictures, shared_objects
from sfmoe_dg.analysis.subject.annotations import no_annotations
from sfmoe_dg.analysis.subject.observations import LayerRouting, Observations
from sfmoe_dg.data.build import build_dataset
from sfmoe_dg.data.domains import DomainDataset, InMemoryDomain
from sfmoe_dg.data.sets.digit_attributes import parts
from sfmoe_dg.data.sets.styled_digits import HALF_INK, digits
from sfmoe_dg.foundation.errors import UserError

# Objects 7 and 9 in domain 0, then in domain 2; patches of a 1×3 grid behind one class token; two choices.
FIRST = [[0, 1, 2], [0, 0, 1], [0, 1, 1], [0, 0, 2]]


def observed(first=FIRST, **changes):
    top = np.array(first)
    experts = np.stack([np.insert(top, 0, 2, axis=1), np.full((len(top), 4), 1)], axis=-1).astype(np.uint8)
    gates = np.full(experts.shape, 0.25, np.float16)
    kept = np.ones(experts.shape, bool)
    kept[0, 2, 0] = False
    gates[0, 2, 0] = 0
    made = Observations(
        domain_names=("chalk", "ink", "neon"),
        seen=np.array([True, True, False]),
        class_names=("a", "b"),
        domain=np.array([0, 0, 2, 2]),
        index=np.array([3, 5, 8, 6]),
        split=np.array(["out"] * 4),
        label=np.array([0, 1, 0, 1]),
        predicted=np.array([0, 1, 0, 1]),
        identity=np.array([7, 9, 7, 9]),
        grid=(1, 3),
        prefix=1,
        layers={"moe": LayerRouting(3, experts, gates, kept)},
        annotations=no_annotations(4),
    )
    return replace(made, **changes)


def test_maps_are_the_first_choices_of_the_patches():
    maps = expert_maps(observed(), "moe")
    assert maps.num_experts == 3
    assert maps.experts.tolist() == [[row] for row in FIRST]
    assert maps.kept.tolist() == [[[True, False, True]]] + [[[True] * 3]] * 3
    assert maps.gates[0].tolist() == [[0.25, 0, 0.25]]
    with pytest.raises(UserError, match="nothing"):
        expert_maps(observed(), "nothing")


def test_the_same_object_is_found_in_every_domain():
    shared = shared_objects(observed(identity=np.array([9, 7, 7, 9])))
    assert shared.identities.tolist() == [7, 9]
    assert shared.domains == (0, 2)
    assert shared.rows.tolist() == [[1, 2], [0, 3]]
    one = shared_objects(observed(identity=np.array([7, 9, 7, 8])))
    assert one.rows.tolist() == [[0, 2]]
    with pytest.raises(UserError, match="no object is shown in all"):
        shared_objects(observed(identity=np.array([1, 2, 3, 4])))
    with pytest.raises(UserError, match="has no identities"):
        shared_objects(observed(identity=np.array([7, 9, -1, 9])))


def test_agreement_by_hand():
    row = agreement(observed()).iloc[0]
    # Object 7: 012 | 011 agree in two patches of three; object 9: 001 | 002 too.
    assert row["agreement"] == pytest.approx(4 / 6)
    # Shares of experts: 3 2 1 | 3 2 1, of six.
    assert row["chance"] == pytest.approx((9 + 4 + 1) / 36)
    assert row["kappa"] == pytest.approx((24 - 14) / (36 - 14))
    # Object 7 against the other's 002: 012 agrees twice; object 9: 001 against 011 twice.
    assert row["position"] == pytest.approx(4 / 6)
    assert (row["first"], row["second"], row["objects"], row["patches"]) == ("chalk", "neon", 2, 6)


def test_extremes_of_agreement():
    same = agreement(observed([[0, 1, 2], [1, 0, 0]] * 2)).iloc[0]
    assert (same["agreement"], same["kappa"]) == (1, 1)
    assert same["position"] == 0
    assert np.isnan(agreement(observed([[1, 1, 1]] * 4)).iloc[0]["kappa"])


def test_parts_in_patches_by_hand():
    # Grid of 2 rows and 4 columns: the upper left corner of the picture is half a patch from the first centre.
    found = parts_in_patches(np.array([[[0, 0, 1], [0.5, 0.25, 1], [1, 1, 1], [np.nan, np.nan, 0]]]), (2, 4))
    np.testing.assert_allclose(found[0, :3], [[-0.5, -0.5, 1], [1.5, 0, 1], [3.5, 1.5, 1]])
    assert np.isnan(found[0, 3, :2]).all()
    assert found[0, 3, 2] == 0


def test_parts_of_digits_lie_on_the_patch_that_shows_them():
    stroke = digits()[0][:20] >= HALF_INK
    shares = parts()[:20].astype(np.float64)
    shares[..., :2] = (shares[..., :2] + 0.5) / 32
    placed = parts_in_patches(shares, (4, 4))
    for i in range(20):
        for column, row, _ in placed[i, :4]:  # the four extremes are stroke pixels
            r, c = round(row), round(column)
            assert stroke[i, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].any()


def test_pictures_are_drawn_as_they_are():
    dataset = build_dataset("StyledDigits")
    drawn = pictures(dataset, np.array([0, 3]), np.array([5, 5]))
    assert drawn.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(drawn[1], dataset[3].image(5).permute(1, 2, 0).numpy())
    grey = InMemoryDomain("grey", torch.tensor([[[[-1.0, 1.0], [0.0, 1.0]]]]), [0])
    small = DomainDataset("Grey", (grey,), (1, 2, 2), ("a",), ("g",))
    stretched = pictures(small, np.array([0]), np.array([0]))
    assert stretched[0, :, :, 2].tolist() == [[0, 255], [128, 255]]
