"""Published data sets: where each is to be had, under which licence, and what its folder holds. No
code of ours fetches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedrobust.data.named_images import NamedImages
from fedrobust.data.sources.camelyon17 import read_camelyon17
from fedrobust.data.sources.chexpert import read_chexpert
from fedrobust.data.sources.fed_isic2019 import read_fed_isic2019
from fedrobust.data.sources.ham10000 import read_ham10000


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A published data set.

    Attributes:
        title: what it is.
        address: where to get it.
        licence: its terms in a few words; docs/licences.md has more.
        holds: what its folder must hold.
        images: how many images it has.
        read: its table and folder, by `root` and settings of its source; None where it is no table
            of files.
        everything: settings of `read` by which no image is left out.
    """

    title: str
    address: str
    licence: str
    holds: str
    images: int
    read: Callable[..., NamedImages] | None
    everything: Mapping[str, str] = field(default_factory=dict)


PUBLISHED: Mapping[str, PublishedSet] = {
    "ham10000": PublishedSet(
        "HAM10000: seven kinds of skin lesion from four sites",
        "doi:10.7910/DVN/DBW86T (Harvard Dataverse, 2.8 GB)",
        "CC BY-NC 4.0: not for commercial use",
        "HAM10000_metadata and HAM10000_images_part_1.zip and _part_2.zip, or their content",
        10_015,
        read_ham10000,
    ),
    "fed_isic2019": PublishedSet(
        "Fed-ISIC2019: eight kinds of skin lesion at six centres",
        "challenge.isic-archive.com/data/#2019 (ISIC_2019_Training_Input.zip, 9 GB, and "
        "ISIC_2019_Training_Metadata.csv); github.com/owkin/FLamby (train_test_split)",
        "CC BY-NC 4.0: not for commercial use; FLamby's table MIT",
        "train_test_split, ISIC_2019_Training_Input, and ISIC_2019_Training_Metadata.csv, which "
        "names the lesions",
        23_247,
        read_fed_isic2019,
        {"lesions": "ignore"},
    ),
    "camelyon17": PublishedSet(
        "Camelyon17 of WILDS: patches of lymph nodes of five hospitals",
        "wilds.stanford.edu/datasets (camelyon17_v1.0, 10 GB)",
        "CC0",
        "metadata.csv and patches/",
        455_954,
        read_camelyon17,
    ),
    "chexpert": PublishedSet(
        "CheXpert: chest radiographs with fourteen observations",
        "stanfordmlgroup.github.io/competitions/chexpert (CheXpert-v1.0-small, 11 GB)",
        "Stanford's research use agreement, which you sign: no commercial use, not to be passed on",
        "train.csv, valid.csv and their images",
        223_648,
        read_chexpert,
        {"views": "all", "uncertain": "class"},
    ),
    "medmnist": PublishedSet(
        "MedMNIST v2: small images of eleven single-label sets (PneumoniaMNIST and others)",
        'doi:10.5281/zenodo.10519652, or by pip install "fedrobust[medmnist]" on first use of '
        "data=medmnist",
        "CC BY 4.0; DermaMNIST CC BY-NC 4.0",
        "<flag>.npz or <flag>_<size>.npz, e.g. pneumoniamnist.npz",
        0,
        None,
    ),
}
# train, validation and test images of each (Yang et al., Scientific Data 10, 2023; release 3)
MEDMNIST_COUNTS: Mapping[str, tuple[int, int, int]] = {
    "pathmnist": (89_996, 10_004, 7_180),
    "dermamnist": (7_007, 1_003, 2_005),
    "octmnist": (97_477, 10_832, 1_000),
    "pneumoniamnist": (4_708, 524, 624),
    "retinamnist": (1_080, 120, 400),
    "breastmnist": (546, 78, 156),
    "bloodmnist": (11_959, 1_712, 3_421),
    "tissuemnist": (165_466, 23_640, 47_280),
    "organamnist": (34_561, 6_491, 17_778),
    "organcmnist": (12_975, 2_392, 8_216),
    "organsmnist": (13_932, 2_452, 8_827),
}
