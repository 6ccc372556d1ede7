"""Experiments of configs/experiment: what belongs to one choice of a group holds with that choice
only, so that every data set and model can be put in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fedrobust.experiment import build, compose
from fedrobust.studies.comparison.grid import cells, read_grid
from tests.helpers.published_sets import write_camelyon17, write_chexpert, write_fed_isic2019

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ("model.dimension=8", "model.options.channels=[8,8,16,16]")
COUNT = 240


def pixels(number: int) -> np.ndarray:
    return np.full((8, 8, 3), number % 250, dtype=np.uint8)


def write_images(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        Image.fromarray(pixels(number)).save(folder / f"{number}.jpg")
    return [str(number) for number in range(COUNT)]


def write_archive(path: Path) -> None:
    parts: dict[str, np.ndarray] = {}
    for part, count in (("train", 160), ("val", 40), ("test", 40)):
        parts[f"{part}_images"] = np.stack([pixels(number) for number in range(count)])
        parts[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez(path, allow_pickle=True, **parts)


def csv(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    rows = [f"{name}.jpg,{int(name) % 2}" for name in write_images(folder)]
    (folder / "table.csv").write_text("\n".join(["image,label", *rows]))
    return [f"data.path={folder / 'table.csv'}"]


def npz(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    write_archive(folder / "set.npz")
    return [f"data.path={folder / 'set.npz'}"]


def image_folder(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    for name in write_images(folder / "a"):
        if int(name) % 2:
            (folder / "b").mkdir(exist_ok=True)
            (folder / "a" / f"{name}.jpg").rename(folder / "b" / f"{name}.jpg")
    return [f"data.root={folder}"]


def ham10000(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    kinds = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    rows = [
        f"HAM_{name},{name},{kinds[int(name) % 7]},site{int(name) % 3}"
        for name in write_images(folder / "images")
    ]
    table = "\n".join(["lesion_id,image_id,dx,dataset", *rows])
    (folder / "HAM10000_metadata").write_text(table)
    return [f"data.root={folder}"]


def medmnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    info = {"bloodmnist": {"python_class": "Blood", "label": {"0": "a", "1": "b"}}}
    fetched = SimpleNamespace(INFO=info, Blood=lambda **_: write_archive(folder / "bloodmnist.npz"))
    monkeypatch.setitem(sys.modules, "medmnist", fetched)
    return ["data.flag=bloodmnist", f"data.root={folder}"]


def synthetic(_: Path, __: pytest.MonkeyPatch) -> list[str]:
    return []


def fed_isic2019(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return [f"data.root={write_fed_isic2019(folder, lesions=False)}"]


def camelyon17(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return [f"data.root={write_camelyon17(folder)}"]


def chexpert(folder: Path, _: pytest.MonkeyPatch) -> list[str]:
    return [f"data.root={write_chexpert(folder)}"]


SOURCES: tuple[Callable[[Path, pytest.MonkeyPatch], list[str]], ...] = (
    *(csv, npz, image_folder, ham10000, medmnist, synthetic),
    *(fed_isic2019, camelyon17, chexpert),
)


def test_every_data_set_is_looked_at() -> None:
    there = {path.stem for path in (CONFIGS / "data").glob("*.yaml")}
    assert {source.__name__ for source in SOURCES} == there


@pytest.mark.parametrize("source", SOURCES)
def test_smoke_runs_with_every_data_set(
    source: Callable[[Path, pytest.MonkeyPatch], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = source(tmp_path, monkeypatch)
    config = compose.compose("experiment=smoke", f"data={source.__name__}", *words, *SMALL)
    plain = compose.compose(f"data={source.__name__}", *words)
    own = {"num_images": 600, "size": 16} if source is synthetic else {}
    assert config["data"] == {**plain["data"], **own}
    experiment = build.build_experiment(config)
    assert experiment.num_clients == 3
    assert len(experiment.dataset) == (600 if source is synthetic else COUNT)


@pytest.mark.parametrize(
    ("data", "model"),
    [("csv", "small"), ("medmnist", "meff"), ("synthetic", "resnet18"), ("npz", "resnet50")],
)
def test_every_experiment_leaves_other_choices_as_they_are(data: str, model: str) -> None:
    """Data and model get only the settings written for that choice."""
    plain = compose.compose(f"data={data}", f"model={model}")
    for path in (CONFIGS / "experiment").glob("*.yaml"):
        found = compose.compose(f"experiment={path.stem}", f"data={data}", f"model={model}")
        for group, choice in (("data", data), ("model", model)):
            if not (CONFIGS / "experiment" / group / path.stem / f"{choice}.yaml").exists():
                assert found[group] == plain[group]


def test_what_was_set_on_the_command_line_wins() -> None:
    assert compose.compose("experiment=smoke", "data.size=20")["data"]["size"] == 20
    assert compose.compose("data.size=20", "experiment=smoke")["data"]["size"] == 20
    other = compose.compose("experiment=ham10000", "data.root=x", "model.options.output_stride=8")
    assert other["model"]["options"] == {"output_stride": 8}
    assert other["data"]["max_images"] == 2400


def test_a_comparison_takes_them_too() -> None:
    words = ["experiment=leaderboard", "strategies=fedavg", "contaminations=alie", "seeds=0"]
    for model, channels in (("small", [16, 32, 64, 128]), ("resnet18", None)):
        (one, *_) = cells(read_grid([*words, f"model={model}"]))
        assert one.config["model"]["options"].get("channels") == channels
