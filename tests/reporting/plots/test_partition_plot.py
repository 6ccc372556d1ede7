from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fedrobust.reporting.plots import partition
from fedrobust.reporting.plots.partition import class_colours, plot_partition


@pytest.mark.parametrize(("clients", "classes"), [(1, 2), (10, 7), (90, 9)])
def test_writes_a_picture_that_grows_with_the_clients(
    clients: int, classes: int, tmp_path: Path
) -> None:
    counts_NK = torch.arange(clients * classes).reshape(clients, classes)
    roles = ["poisoned" if client % 3 == 1 else "clean" for client in range(clients)]
    path = plot_partition(
        counts_NK, [f"$class_{k}" for k in range(classes)], roles, tmp_path / "partition.png"
    )
    with Image.open(path) as picture:
        # 150 dots per inch; 1.4 inches + 0.24 per client, held within 2.4 and 16 inches
        assert picture.size == (1080, round(150 * min(max(1.4 + 0.24 * clients, 2.4), 16)))


def test_clients_are_named_by_their_sites(tmp_path: Path, monkeypatch: Any) -> None:
    shown: list[str] = []

    def keep(figure: Any, path: Path) -> Path:
        shown.extend(label.get_text() for label in figure.axes[0].get_yticklabels())
        return path

    monkeypatch.setattr(partition, "save_figure", keep)
    sites = [["oslo"], ["lyon", "graz"], ["\U00012000"]]  # no font has the last sign
    roles = ["clean", "poisoned", "clean"]
    plot_partition(torch.ones(3, 2), ["a", "b"], roles, tmp_path / "a.png", sites)
    assert shown == ["0 oslo", "poisoned 1 lyon + graz", "2"]


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(KeyError):
        plot_partition(torch.ones(1, 2), ["a", "b"], ["villain"], Path("unused.png"))


@pytest.mark.parametrize("classes", [2, 7, 8, 14])
def test_no_two_classes_share_a_colour(classes: int) -> None:
    assert (
        len(
            {
                tuple(colour) if not isinstance(colour, str) else colour
                for colour in class_colours(classes)
            }
        )
        == classes
    )
