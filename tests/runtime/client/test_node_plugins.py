"""Plug-ins at a real site: whose code runs there its own configuration says, and no message."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedrobust.errors import ConfigError
from fedrobust.experiment import experiment, factories, settings
from fedrobust.experiment.local_settings import without_local_settings
from fedrobust.runtime.client.site_config import own_data, read_run
from fedrobust.runtime.messages.sites import SiteAssignment, read_site_info
from tests.helpers import federations
from tests.helpers.federations import MEAN
from tests.helpers.plugins import importable
from tests.helpers.site_errors import site_error
from tests.runtime.client.test_site_config import CLASSES, own_file, send

RULE = {"_target_": "mylab.rules.mylab_rule", "longest": 1.5}
TOLD = SiteAssignment(1, 16, ("a", "b", "c"))
SOURCE = """
from fedrobust.data.dataset import DataSource, usable_at_sites
from fedrobust.utils.validation import check_settings

@usable_at_sites("place")
@check_settings("data")
def mylab_set(place: str, size: int = 64, every_class: bool = True) -> DataSource:
    return DataSource(f"{place} {size} {every_class}", lambda: None)
"""


@pytest.fixture
def mylab(tmp_path: Path) -> Iterator[Path]:
    with importable(tmp_path / "site") as package:
        yield package


def ordered(**changed: Any) -> dict[str, Any]:
    config = federations.compose_settings(*MEAN, "poisoned=0", "partition=remote")
    return {**without_local_settings(config), **changed}


@pytest.mark.parametrize("kind", ["query", "train", "evaluate", "train.keys"])
@pytest.mark.parametrize("own", [{}, {"plugins": "mylab"}])
def test_a_message_that_names_plugins_is_refused(
    mylab: Path, kind: str, own: dict[str, object]
) -> None:
    sent = ordered(strategy=RULE)
    for named in (["mylab"], ["os"], "mylab", {"a": 1}, None, 0):
        with site_error("plugins", r"^plugins=.*its own configuration names"):
            send({**sent, "plugins": named}, own, kind, TOLD)
    assert "mylab" not in sys.modules


@pytest.mark.parametrize("target", ["mylab.rules.mylab_rule", "subprocess.run", "os.system"])
def test_a_target_outside_is_refused_unimported(mylab: Path, tmp_path: Path, target: str) -> None:
    study = federations.build_experiment(*MEAN, "poisoned=0")
    told = SiteAssignment(1, 16, study.dataset.class_names)
    with site_error("settings", rf"^strategy\._target_={target}: must name a function"):
        send(ordered(strategy={"_target_": target}), own_file(study, 1, tmp_path), "query", told)
    assert "mylab" not in sys.modules


def test_a_node_that_names_it_uses_it(mylab: Path, tmp_path: Path) -> None:
    study = federations.build_experiment(*MEAN, "poisoned=0")
    told = SiteAssignment(1, 16, study.dataset.class_names)
    node = {**own_file(study, 1, tmp_path), "plugins": "mylab"}
    info = read_site_info(send(ordered(strategy=RULE), node, "query", told).content)
    assert info.counts[0] == len(study.rows(1, 0))
    _, found = read_run(settings.to_json(ordered(strategy=RULE)), node)
    assert found.plugins == ("mylab",)


def test_what_the_server_sends_names_none(mylab: Path) -> None:
    words = ("strategy=mylab_rule", "server.batchnorm=mean", "plugins=[mylab]", "partition=remote")
    study: experiment.Experiment = federations.build_experiment(*words)
    assert study.settings.plugins == ("mylab",)
    sent = without_local_settings(study.config)
    assert sent["plugins"] == []
    assert sent["strategy"] == RULE  # a node refuses it, unless it names mylab itself


def test_a_node_that_names_one_that_is_not_there() -> None:
    with site_error("node", r"^plugins=\[nowhere\]: no such package"):
        send(ordered(), {"plugins": "nowhere"}, "query", TOLD)


def test_a_node_reads_its_data_with_a_plugin_s_source(mylab: Path) -> None:
    (mylab / "data.py").write_text(SOURCE)
    (mylab / "configs" / "data").mkdir()
    (mylab / "configs" / "data" / "mylab_set.yaml").write_text("_target_: mylab.data.mylab_set\n")
    node = {"data-root": "here", "data-format": "mylab_set", "plugins": "mylab"}
    own = own_data(node, size=32, classes=CLASSES)
    group = {"data": own["source"], "plugins": ["mylab"]}
    assert factories.build_group(group, "data").name == "here 32 False"
    with pytest.raises(ConfigError, match="data-format=mylab_set: must be one of"):
        own_data({**node, "plugins": ""}, size=32, classes=CLASSES)
