"""A run's configuration at a site: its own data, all of it its own, and never a path chosen by
others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedrobust.data import sources
from fedrobust.data.dataset import DataSource, usable_at_sites
from fedrobust.errors import ConfigError
from fedrobust.experiment import compose, experiment, factories, settings
from fedrobust.federation.demo import share_out, write_npz
from fedrobust.learning import model_files
from fedrobust.runtime.client.site_config import own_data
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.sites import (
    RECORD,
    SiteAssignment,
    assignment_record,
    read_site_info,
)
from tests.helpers import federations
from tests.helpers.federations import MEAN
from tests.helpers.site_errors import site_error

CLASSES = ("a", "b", "c")


def test_every_format_and_its_settings() -> None:
    node = {
        "data-root": "/data",
        "data-format": "csv",
        "data-label": "dx",
        "data-classes": "c,a,b",
        "data-sizes": "64",
        "data-max-images": 9,
        "site": "vienna",
        "partition-id": 3,
    }
    source = {
        "_target_": "fedrobust.data.sources.csv_table.csv",
        "path": "/data",
        "size": 64,
        "label": "dx",
        "max_images": 9,
    }
    source |= {"every_class": False, "classes": ["a", "b", "c"]}
    assert own_data(node, size=64, classes=CLASSES) == {
        "_target_": "fedrobust.data.sources.one_site.one_site",
        "source": source,
        "site": "vienna",
    }
    # the classes that the data show
    unlisted = {key: value for key, value in node.items() if key != "data-classes"}
    del source["classes"]
    assert own_data(unlisted, size=64, classes=CLASSES)["source"] == source
    ham = own_data({"data-root": "/data", "data-format": "ham10000"}, size=28, classes=CLASSES)
    assert ham["source"] == {
        "_target_": "fedrobust.data.sources.ham10000.ham10000",
        "root": "/data",
        "size": 28,
        "every_class": False,
    }


MADE_UP = """
from fedrobust.data.dataset import DataSource, usable_at_sites
from fedrobust.utils.validation import check_settings

@usable_at_sites("place")
@check_settings("data")
def made_up(place: str, size: int = 64, every_class: bool = True, tint: str = "red") -> DataSource:
    return DataSource(f"{place} {size} {tint} {every_class}", lambda: None)

def helper() -> None: ...
"""


def test_a_new_source_says_itself_that_sites_may_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_up_module.py").write_text(MADE_UP)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    node = {"data-root": "here", "data-format": "made_up", "data-tint": "blue"}
    try:
        own = own_data(node, size=32, classes=CLASSES)
        built = factories.build_group({"data": own["source"]}, "data")
    finally:
        sys.modules.pop("fedrobust.data.sources.made_up_module", None)
    assert built.name == "here 32 blue False"
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="made_up: must be one of csv, ham10000, image_folder"):
        own_data(node, size=32, classes=CLASSES)


def test_a_source_for_sites_must_take_what_sites_give() -> None:
    def source(root: str, size: int = 64) -> DataSource: ...

    with pytest.raises(TypeError, match="source: a site needs the parameter every_class"):
        usable_at_sites("root")(source)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({}, "data-root: this node names no data"),
        (
            {"data-root": "x", "data-format": "synthetic"},
            "data-format=synthetic: must be one of csv, ham10000, image_folder, npz$",
        ),
        ({"data-root": "x", "data-size": 3}, "data-size=3: comes with the run"),
        ({"data-root": "x", "data-every-class": True}, "data-every_class=True: comes with the run"),
    ],
)
def test_a_node_config_that_cannot_be_used(node: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        own_data(node, size=64, classes=CLASSES)


@pytest.fixture
def study() -> experiment.Experiment:
    return federations.build_experiment(*MEAN, "poisoned=0")


def ask(
    study: experiment.Experiment,
    node: dict[str, object],
    *overrides: str,
    kind: str = "query",
    **order: object,
) -> Message:
    """A message as the server of a real federation sends it, answered by a node."""
    config = federations.compose_settings(*MEAN, "poisoned=0", "partition=remote", *overrides)
    told = SiteAssignment(
        **{"client": 1, "size": 16, "classes": study.dataset.class_names, **order}
    )
    return send(config, node, kind, told)


def send(
    config: dict[str, object], node: dict[str, object], kind: str, told: SiteAssignment
) -> Message:
    records.set_identity()
    instruction = {
        "experiment": settings.to_json(config),
        "round": 0,
        "etf": b"",
        "etf-sha256": "",
    }
    content = RecordDict({"config": ConfigRecord(instruction), RECORD: assignment_record(told)})
    return app(Message(content, 1, kind), Context(1, 7, node, RecordDict(), {}))


def own_file(study: experiment.Experiment, client: int, folder: Path) -> dict[str, object]:
    mask = torch.zeros(len(study.dataset), dtype=torch.bool)
    mask[study.parts[client]] = True
    write_npz(folder / "own.npz", study.dataset, mask)
    return {
        "data-root": str(folder / "own.npz"),
        "data-format": "npz",
        "data-classes": ",".join(study.dataset.class_names),
        "site": "vienna",
    }


def test_a_site_holds_what_its_own_file_holds_in_the_same_order(
    study: experiment.Experiment, tmp_path: Path
) -> None:
    node = own_file(study, 1, tmp_path)
    site_info = read_site_info(ask(study, node).content)
    train, validation, test = (len(study.rows(1, split)) for split in range(3))
    assert site_info.counts == (train, validation, test // 5 * 5)
    assert (site_info.partition, site_info.words["site"], site_info.words["torch"]) == (
        -1,
        "vienna",
        torch.__version__,
    )


@pytest.mark.parametrize(
    ("node", "overrides", "code", "words"),
    [
        (
            {"data-root": "/nowhere.npz", "data-format": "npz"},
            (),
            "data",
            "/nowhere.npz: not a readable npz file",
        ),
        ({}, (), "node", "data-root: this node names no data"),
        (
            {},
            ("partition=iid", "data=npz", "data.path=/etc/passwd"),
            "places",
            "^data.path='/etc/passwd': names a file",
        ),
        (
            {},
            ("partition=iid", "data=medmnist"),
            "settings",
            "a node reads only what its own configuration names",
        ),
        (
            {"data-root": "x"},
            ("partition=iid",),
            "settings",
            "this node has data of its own; run with partition=remote",
        ),
        ({"data-root": "x"}, ("poisoned=1",), "contamination", "this node refuses contamination"),
    ],
)
def test_what_a_node_refuses(
    study: experiment.Experiment,
    node: dict[str, object],
    overrides: tuple[str, ...],
    code: str,
    words: str,
) -> None:
    with site_error(code, words):
        ask(study, node, *overrides)


@pytest.mark.parametrize("kind", ["query", "train", "evaluate", "train.keys"])
def test_a_node_opens_no_file_of_a_run(
    study: experiment.Experiment,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = tmp_path / "patients.safetensors"
    there.write_text("patient 0001")
    node = own_file(study, 1, tmp_path)
    monkeypatch.setattr(model_files, "read_tensors", lambda path: pytest.fail(f"{path} was read"))
    config = federations.compose_settings(*MEAN, "poisoned=0", "partition=remote")
    for path in (there, tmp_path / "nowhere.safetensors"):
        member = {"name": "resnet18", "checkpoint": str(path)}
        model = {"_target_": "fedrobust.learning.classifier.meff", "members": [member]}
        with site_error("places", r"^model\.members\.0\.checkpoint='.*names a file"):
            send({**config, "model": model}, node, kind, SiteAssignment(1, 16, ("a", "b", "c")))


def test_other_classes_than_the_run_has(study: experiment.Experiment, tmp_path: Path) -> None:
    root = tmp_path / "images"
    for number, name in enumerate(("melanoma", "nevus")):
        (root / name).mkdir(parents=True)
        for image in range(9):
            federation_picture(root / name / f"{image}.png", 20 * image + number)
    node = {"data-root": str(root), "data-format": "image_folder"}
    with site_error("classes", r"^data-root: the 2 classes of the run, .* are not"):
        ask(study, node, classes=("a", "b"))
    with site_error("classes", r"^data-root: the 3 classes of the run, .* are not"):
        ask(study, node, classes=("melanoma", "nevus", "rare"))
    found = read_site_info(
        ask(study, {**node, "min-cell": 1}, classes=("melanoma", "nevus")).content
    )
    assert sum(found.counts) == 18
    node |= {"data-classes": "rare,nevus,melanoma", "min-cell": 1}
    assert (
        sum(read_site_info(ask(study, node, classes=("melanoma", "nevus", "rare")).content).counts)
        == 18
    )
    node["data-classes"] = "nevus,rare"
    with site_error("data", r"has the label 'melanoma'; known classes are nevus, rare"):
        ask(study, node, classes=("nevus", "rare"))


def federation_picture(path: Path, shade: int) -> None:
    from PIL import Image

    Image.fromarray(np.full((8, 8, 3), shade % 256, dtype=np.uint8)).save(path)


def test_the_server_of_real_sites_holds_no_client_s_image() -> None:
    study = federations.build_experiment(*MEAN, "poisoned=0", "partition=remote")
    assert study.remote
    assert [len(part) for part in study.parts] == [0, 0, 0]
    simulated = federations.build_experiment(*MEAN, "poisoned=0")
    assert not simulated.remote
    assert torch.equal(study.root, simulated.root)
    assert torch.equal(study.proxy, simulated.proxy)


def test_the_demo_s_files_share_no_lesion_and_lose_no_image(tmp_path: Path) -> None:
    data = factories.build_group(
        compose.compose("data.num_images=600", "data.size=16"), "data"
    ).load()
    names = share_out(data, tmp_path / "data")
    files = [np.load(tmp_path / "data" / f"{name}.npz") for name in (*names, "server")]
    assert sum(
        len(file[f"{part}_labels"]) for file in files for part in ("train", "val", "test")
    ) == len(data)
    assert json.dumps(names) == json.dumps(
        sorted(names, key=lambda name: -int((data.sites == data.site_names.index(name)).sum()))
    )
    assert set(files[-1]["train_labels"].ravel()) == set(range(7))
