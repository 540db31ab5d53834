"""What is known about a data set before it is opened, and the words for it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RANDOM_ONLY = ("random",)
RANDOM_OR_IDENTITY = ("random", "identity")

DOMAIN_ATTRIBUTES = (
    "photographic",  # taken by a camera
    "drawn",  # lines or strokes of a pen, pencil or piece of chalk
    "painted",  # areas filled by brush or in a painter's manner
    "colour",  # colour carries information; not black and white
    "outline",  # shapes are given by their contours, with little shading
    "texture",  # surfaces have a visible structure
    "background",  # objects stand in a scene, not on an empty ground
    "synthetic",  # rendered or filtered by a computer
)
"""What a hand-written description of a domain may say, one bit each, in the order that models see (routing level
"attribute" of conditional mixtures of experts). They describe pictures in general; none of them tells classes apart."""

PHOTO = ("photographic", "colour", "texture", "background")
DRAWING = ("drawn", "outline")

COUNT_FOLDERS = "sfmoe_dg.data.builders.layouts:count_image_folders"


@dataclass(frozen=True)
class FolderContent:
    """The complete published content of a data set's folder.

    Attributes:
        name: of what is published; it may hold several data sets.
        parts: the names under which its images are counted: domains, or parts such as "train" and "test".
        published: images per part; empty if not known.
        num_classes: 0 where only the data can tell.
    """

    name: str
    parts: tuple[str, ...]
    published: Mapping[str, int] = field(hash=False)
    num_classes: int = 0


@dataclass(frozen=True)
class DatasetFacts:
    """What is known about a data set before it is opened.

    Attributes:
        name: as given to ``--dataset``.
        folder: where it lies under ``data_dir``; empty if it has no folder of its own.
        domains: the domains' names in order; for image folders the sorted names of the domain folders. Empty where
            only the data can tell (``ImageFolder``).
        labels: the domains' column titles, as DomainBed prints them.
        num_classes: 0 where only the data can tell.
        input_shape: channels, height and width of what the model sees.
        checkpoint_freq: steps between evaluations.
        reader: ``'module:attribute'`` of the function that opens it, called by ``sfmoe_dg.data.build``.
        steps: length of a training run.
        counts: images per domain, in the order of ``domains``, in the complete published copy. Empty if not known;
            a copy with other counts is not an error.
        needs_data_dir: False for data that are generated or come with a dependency.
        downloads_itself: whether its reader downloads it into ``folder``, which need not exist before.
        splits: the split policies that make sense; "identity" needs to know which images show the same object.
        domain_attributes: names of :data:`DOMAIN_ATTRIBUTES` that describe each domain, in the order of ``domains``;
            empty if nobody has described them. Domains may be described alike.
        crops: whether augmentation for training cuts a part out of the image.
        counter: ``'module:attribute'`` of the function that counts the images in its folder, by domain and class; the
            builders and ``sfmoe-dg doctor`` call it. Empty: nobody counts them.
        made_of: what the folder holds, if several data sets are made of the same files.

    Examples:
        >>> from sfmoe_dg import CATALOG, DatasetFacts
        >>> facts = CATALOG.load("PACS")
        >>> isinstance(facts, DatasetFacts), facts.num_classes, facts.labels
        (True, 7, ('A', 'C', 'P', 'S'))
    """

    name: str
    folder: str
    domains: tuple[str, ...]
    labels: tuple[str, ...]
    num_classes: int
    input_shape: tuple[int, int, int]
    checkpoint_freq: int
    reader: str
    steps: int = 5001
    counts: tuple[int, ...] = ()
    needs_data_dir: bool = True
    downloads_itself: bool = False
    splits: tuple[str, ...] = RANDOM_ONLY
    domain_attributes: tuple[tuple[str, ...], ...] = ()
    crops: bool = True
    counter: str = ""
    made_of: FolderContent | None = None

    @property
    def content(self) -> FolderContent:
        """What ``counter`` finds in the complete folder: the data set itself, or what it is made of."""
        published = dict(zip(self.domains, self.counts, strict=True)) if self.counts else {}
        return self.made_of or FolderContent(self.name, self.domains, published, self.num_classes)
