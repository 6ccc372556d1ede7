"""Small made-up folders in the layouts of published data sets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.helpers.datasets import encoded


def _write_image(path: Path, number: int, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(np.full((8, 8, 3), number % 250, dtype=np.uint8), kind))


def _write_table(path: Path, rows: Sequence[str]) -> None:
    path.write_text("\n".join(rows) + "\n")


def write_fed_isic2019(root: Path, count: int = 240, *, lesions: bool = True) -> Path:
    """`count` images at six centres, every fifth in the test fold. Of each fifty the images 0 and 4
    (test) show one lesion; image 1 has none."""
    rows, lesion_rows = ["image,target,center,fold,fold2"], ["image,age_approx,lesion_id,sex"]
    for number in range(count):
        name, center = f"ISIC_{number:07}", number % 6
        fold = "test" if number % 5 == 4 else "train"
        rows.append(f"{name},{number // 6 % 8},{center},{fold},{fold}_{center}")
        lesion = "" if number == 1 else f"L{number - 4 if number % 50 == 4 else number}"
        lesion_rows.append(f"{name},50.0,{lesion},female")
        _write_image(root / "ISIC_2019_Training_Input" / f"{name}.jpg", number, "JPEG")
    _write_table(root / "train_test_split", rows)
    if lesions:
        _write_table(root / "ISIC_2019_Training_Metadata.csv", lesion_rows)
    return root


def write_camelyon17(root: Path, count: int = 240) -> Path:
    """`count` patches of five hospitals with six patients each, of two nodes."""
    rows = [",patient,node,x_coord,y_coord,tumor,slide,center,split"]
    for number in range(count):
        center, person, node = number % 5, number // 5 % 6, number // 30 % 2
        patient = f"{20 * center + person:03}"
        split = int(number % 7 == 3 and center in (0, 3, 4))
        rows.append(f"{number},{patient},{node},{number},32,{person % 2},{person},{center},{split}")
        folder = f"patient_{patient}_node_{node}"
        name = f"patch_{folder}_x_{number}_y_32.png"
        _write_image(root / "patches" / folder / name, number, "PNG")
    _write_table(root / "metadata.csv", rows)
    return root


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,Edema,Pleural Effusion"


def write_chexpert(
    root: Path, count: int = 240, *, cells: Sequence[str] = ("1.0", "0.0"), laterals: bool = False
) -> Path:
    """`count` frontal images of half as many patients, a sixth of them in valid.csv; Pleural
    Effusion is one cell after the other."""
    tables: dict[str, list[str]] = {"train": [CHEXPERT], "valid": [CHEXPERT]}
    for number in range(count):
        part = "valid" if number >= count - count // 6 else "train"
        patient = f"patient{number // 2:05}"
        label = cells[number // 2 % len(cells)]
        for view in ("frontal", *(["lateral"] if laterals else [])):
            name = f"{part}/{patient}/study{number % 2 + 1}/view1_{view}.jpg"
            taken = "AP" if view == "frontal" else ""
            row = f"CheXpert-v1.0-small/{name},Female,50,{view.title()},{taken},,{label}"
            tables[part].append(row)
            _write_image(root / name, number, "JPEG")
    for part, rows in tables.items():
        _write_table(root / f"{part}.csv", rows)
    return root
