"""Expert maps: which expert every patch of an image goes to, layer by layer, and in every domain of the same object.

Source: SF-MoE (arXiv 2206.04046), the maps of the top-1 expert over the image. The agreement between domains is new
here.

Legend: N images, M domains, O objects that all domains show, P parts, E experts, h×w patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from PIL import Image

from sfmoe_dg.analysis.subject.observations import Observations
from sfmoe_dg.data.batches.transforms import ImageTransform
from sfmoe_dg.data.domains import DomainDataset
from sfmoe_dg.foundation.errors import UserError


@dataclass(frozen=True, eq=False)
class ExpertMaps:
    """One layer's first choices over the patches of some images; class and register tokens are left out.

    Attributes:
        num_experts: E.
        experts: int64 [N, h, w], the first choice of every patch, dropped or not.
        gates: float32 [N, h, w], its combine weight; 0 where it was dropped.
        kept: bool [N, h, w], whether the first choice found a slot.
    """

    num_experts: int
    experts: np.ndarray
    gates: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True, eq=False)
class SharedObjects:
    """Objects that every observed domain shows.

    Attributes:
        identities: int64 [O], ascending.
        domains: the M domains, as positions in the data set, ascending.
        rows: int64 [O, M], the row of the observed image of each object in each domain; the first of several.
    """

    identities: np.ndarray
    domains: tuple[int, ...]
    rows: np.ndarray


def expert_maps(observed: Observations, layer: str) -> ExpertMaps:
    """The maps of one layer for all observed images.

    Raises:
        UserError: if there is no such layer.
    """
    routing, shape = observed.patches(layer), (len(observed), *observed.grid)
    return ExpertMaps(
        routing.num_experts,
        routing.experts[..., 0].astype(np.int64).reshape(shape),
        routing.gates[..., 0].astype(np.float32).reshape(shape),
        routing.kept[..., 0].reshape(shape),
    )


def shared_objects(observed: Observations) -> SharedObjects:
    """The objects that every observed domain shows.

    Raises:
        UserError: if the data set has no identities, or no object is in all domains.
    """
    if (observed.identity < 0).any():
        raise UserError("this data set has no identities: it does not say which images show the same object")
    domains = tuple(observed.present_domains())
    first: list[dict[int, int]] = []
    for env in domains:
        rows = np.flatnonzero(observed.domain == env)
        identities, positions = np.unique(observed.identity[rows], return_index=True)
        first.append(dict(zip(identities.tolist(), rows[positions].tolist(), strict=True)))
    common = sorted(set.intersection(*(set(of_domain) for of_domain in first))) if first else []
    if not common:
        raise UserError("no object is shown in all of these domains; observe the same split of each, or more images")
    table = np.array([[of_domain[identity] for of_domain in first] for identity in common], dtype=np.int64)
    return SharedObjects(np.array(common, dtype=np.int64), domains, table)


def agreement(observed: Observations, layers: Sequence[str] | None = None) -> pd.DataFrame:
    """Whether a patch keeps its expert in another domain: one row per layer and pair of domains.

    Every patch of every object that all observed domains show is compared. ``chance`` is the agreement that follows
    from the two domains' shares of experts. ``position`` is the agreement with the same patch of *another* object (the
    next in the list) in the other domain; a router that uses positions only reaches 1 there.

    Returns:
        columns ``layer``, ``first``, ``second`` (domain names), ``agreement``, ``position``, ``chance`` (Σ p_e q_e),
        ``kappa`` (Cohen's: (agreement - chance) / (1 - chance); NaN where one expert takes all), ``objects``,
        ``patches``.

    Raises:
        UserError: as :func:`shared_objects`.
    """
    shared = shared_objects(observed)
    names = [observed.domain_names[env] for env in shared.domains]
    rows = []
    for layer in layers or list(observed.layers):
        maps = expert_maps(observed, layer)
        chosen = maps.experts[shared.rows]
        for a, b in combinations(range(len(names)), 2):
            measured = _agreement(chosen[:, a], chosen[:, b], maps.num_experts)
            rows.append({"layer": layer, "first": names[a], "second": names[b], **measured})
    return pd.DataFrame(rows)


def _agreement(one: np.ndarray, two: np.ndarray, num_experts: int) -> dict[str, float]:
    """The measures of :func:`agreement` for the maps of two domains, int64 [O, h, w] each."""
    same = float((one == two).mean())
    shares = [np.bincount(maps.ravel(), minlength=num_experts) / maps.size for maps in (one, two)]
    chance = float(shares[0] @ shares[1])
    return {
        "agreement": same,
        "position": float((one == np.roll(two, 1, axis=0)).mean()) if len(one) > 1 else np.nan,
        "chance": chance,
        "kappa": (same - chance) / (1 - chance) if chance < 1 else np.nan,
        "objects": len(one),
        "patches": one.size,
    }


def parts_in_patches(parts: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Part locations in patch coordinates, floats [N, P, 3]: column, row, 1 if visible; otherwise NaN, NaN, 0.

    The patch in row r and column c has its centre at (c, r) and is one unit wide, so the image covers -0.5 to w - 0.5
    and -0.5 to h - 0.5. Evaluation resizes every image to a square, so shares of width and height are enough.

    Args:
        parts: [N, P, 3] as in :class:`sfmoe_dg.analysis.subject.annotations.Annotations`, shares of width and height.
        grid: rows and columns of patches, (h, w).
    """
    rows, columns = grid
    x, y, visible = np.split(parts, 3, axis=-1)
    return np.concatenate([x * columns - 0.5, y * rows - 0.5, visible], axis=-1)


def pictures(dataset: DomainDataset, domain: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Images to draw maps on, cropped and resized as in evaluation, uint8 [N, height, width, 3].

    Images in memory that are not uint8 are each scaled to 0 to 255; a single channel is repeated.

    Args:
        domain, index: int64 [N], which images.

    Raises:
        UserError: if an image does not decode.
    """
    frame = ImageTransform(size=dataset.input_shape[-1])
    drawn = []
    for env, i in zip(domain.tolist(), index.tolist(), strict=True):
        image = dataset[env].image(i)
        if not isinstance(image, Image.Image):
            values = image.numpy()
            if values.dtype != np.uint8:
                low, high = float(values.min()), float(values.max())
                values = ((values - low) * (255 / max(high - low, 1e-12))).round().astype(np.uint8)
            image = Image.fromarray(np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0).copy())
        drawn.append(frame.pixels(image).permute(1, 2, 0).numpy())
    return np.stack(drawn)
