"""Dockerfile and compose file of the documentation: nothing that needs root, a home folder or a
network at run time. Neither needs a container engine here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "containers"
KEYS = {
    *("build", "image", "command", "network_mode", "read_only", "cap_drop", "security_opt"),
    *("shm_size", "tmpfs", "volumes"),
}


def instructions() -> list[tuple[str, str]]:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line[:1].isupper()]
    return [(name, " ".join(rest.split())) for name, rest in lines]


def test_the_image_runs_as_nobody_in_particular() -> None:
    found = dict(instructions())
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", found["USER"])
    places = dict(word.split("=") for word in found["ENV"].split())
    for name in ("FEDROBUST_CACHE", "MPLCONFIGDIR", "FLWR_HOME"):
        assert places[name].startswith("/cache/"), name
    assert "HOME=" not in found["ENV"].replace("FLWR_HOME=", "")


def test_the_image_installs_extras_that_exist() -> None:
    [install] = [rest for name, rest in instructions() if name == "RUN"]
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", install)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "-c constraints.txt" in install


@pytest.mark.parametrize("name", ["simulate", "demo"])
def test_services_have_no_network_and_no_rights(name: str) -> None:
    found = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
    service = found["services"][name]
    assert set(service) <= KEYS
    assert (FOLDER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert service["network_mode"] == "none"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert {volume.split(":")[0] for volume in service["volumes"]} == set(found["volumes"])
