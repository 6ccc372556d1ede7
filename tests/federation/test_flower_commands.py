"""Files and output of the commands: Flower's own parsers must understand them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from flwr.common.config import parse_config_args

from fedrobust.errors import ConfigError
from fedrobust.federation import certificates, flower_commands
from fedrobust.federation.__main__ import main
from fedrobust.federation.flower_commands import Link, node_config, pack_words, unpack_words
from tests.helpers.datasets import picture


def test_a_node_config_is_read_back_as_it_was() -> None:
    node = {
        "site": "Haus 3",
        "data-root": "/data/my images",
        "partition-id": 2,
        "allow-contamination": False,
        "data-min": 0.5,
        "data-classes": '["a, b", "O\u2019B\\\\n"]',
        "data-label": "it's",
    }
    assert parse_config_args([node_config(node)]) == node
    for value in ("a\"b'c", "a\\b'c", "a\nb", "\u202ea"):
        with pytest.raises(ConfigError, match="cannot be passed on to Flower"):
            node_config({"data-root": value})


@pytest.mark.parametrize(
    ("words", "packed"),
    [
        (["rounds=2", "data.classes=[a,b]"], "rounds=2 data.classes=[a,b]"),
        ([], ""),
        (['data.path="/a b/c.npz"', 'data.classes=["O\'B","x\\\\"]', "a=\u57fa"], None),
        (["a=b c"], None),
    ],
)
def test_words_of_a_run_arrive_as_they_were(words: list[str], packed: str | None) -> None:
    text = pack_words(words)
    assert packed is None or text == packed
    (value,) = parse_config_args([node_config({"overrides": text})]).values()
    assert unpack_words(value) == words


def test_tls_and_keys_are_the_default(tmp_path: Path) -> None:
    secure, plain = Link("h", 1, tmp_path / "ca.crt"), Link("h", 1, None)
    assert "--enable-supernode-auth" in flower_commands.superlink(secure, tmp_path)
    assert "--insecure" not in flower_commands.superlink(
        secure, tmp_path
    ) + flower_commands.supernode(secure, tmp_path, {}, 2)
    assert "--insecure" in flower_commands.superlink(plain, tmp_path)
    assert tomllib.loads(flower_commands.connection(secure))["superlink"]["federation"] == {
        "address": "h:1",
        "root-certificates": str(tmp_path / "ca.crt"),
    }


def test_the_server_s_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a server"
    assert main(["keys", str(folder), "--host", "fl.example.org"]) == 0
    assert main(["commands", str(folder), "--superlink", "fl.example.org:9443"]) == 0
    assert {path.name for path in folder.iterdir()} == {
        *(
            "ca.crt",
            "ca.key",
            "server.pem",
            "server.key",
            "superlink.sh",
            "superlink.service",
            "gate.sh",
            "gate.service",
        ),
        *("compose.yaml", "operator"),
    }
    # the SuperLink is never open to a network
    for name, listen in (("superlink", "--host 127.0.0.1"), ("gate", "--listen 0.0.0.0")):
        subprocess.run(["sh", "-n", str(folder / f"{name}.sh")], check=True)
        last = (folder / f"{name}.sh").read_text().splitlines()[-1]
        assert last.startswith("exec ")
        assert listen in last
    assert set(json.loads((folder / "compose.yaml").read_text())["services"]) == {
        "superlink",
        "gate",
    }
    assert main(["commands", str(folder), "--superlink", "fl.example.org:9443"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_site_s_folder(tmp_path: Path) -> None:
    folder = tmp_path / "rosendahl"
    assert main(["keys", str(folder), "--site", "rosendahl"]) == 0
    node = ["site=rosendahl", "data-root=/data/derm", "data-format=ham10000", "threads=4"]
    assert main(["commands", str(folder), "--superlink", "fl.example.org:9443", *node]) == 0
    words = shlex.split((folder / "supernode.sh").read_text().splitlines()[-1])
    assert words[words.index("--superlink") + 1] == "fl.example.org:9443"
    assert words[words.index("--auth-supernode-private-key") + 1] == str(
        folder / certificates.SITE_KEY
    )
    config = parse_config_args([words[words.index("--node-config") + 1]])
    assert config == {
        "site": "rosendahl",
        "data-root": "/data/derm",
        "data-format": "ham10000",
        "threads": 4,
    }
    service = json.loads((folder / "compose.yaml").read_text())["services"]["supernode"]
    assert "/data/derm:/data/derm:ro" in service["volumes"]
    assert "ExecStart=" in (folder / "supernode.service").read_text()


def verified(unit: Path) -> str:
    """Complaints of systemd about a unit; empty without any."""
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stderr if done.returncode or str(unit.parent) in done.stderr else ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    plain = tmp_path / "plain.service"
    plain.write_text("[Service]\nExecStart=/bin/true\n")
    if verified(plain):
        pytest.skip("systemd-analyze does not work here")
    wrong = tmp_path / "wrong.service"
    wrong.write_text("[Service]\nExecStart=/nowhere/at/all\nRestrat=always\n")
    assert "/nowhere/at/all" in verified(wrong)  # the control
    server, site = tmp_path / "a 50% server", tmp_path / "rosendahl"
    assert main(["keys", str(server), "--host", "fl.example.org"]) == 0
    assert main(["commands", str(server), "--superlink", "fl.example.org:9443"]) == 0
    assert main(["keys", str(site), "--site", "rosendahl"]) == 0
    assert (
        main(
            [
                "commands",
                str(site),
                "--superlink",
                "fl.example.org:9443",
                "site=rosendahl",
                "data-root=/data/a $HOME %h",
            ]
        )
        == 0
    )
    for unit in (server / "superlink.service", server / "gate.service", site / "supernode.service"):
        assert verified(unit) == "", unit


def test_the_compose_file_says_what_compose_understands(tmp_path: Path) -> None:
    """By the Compose specification: these keys, of these types; $ is doubled, or Compose would put
    a variable in its place."""
    keys_ = {
        "image": str,
        "environment": dict,
        "user": str,
        "network_mode": str,
        "restart": str,
        "volumes": list,
        "working_dir": str,
    }
    folder = tmp_path / "rosendahl"
    assert main(["keys", str(folder), "--site", "rosendahl"]) == 0
    assert (
        main(
            [
                "commands",
                str(folder),
                "--superlink",
                "fl.example.org:9443",
                "site=rosendahl",
                "data-root=/data/$HOME",
            ]
        )
        == 0
    )
    text = (folder / "compose.yaml").read_text()
    found = yaml.safe_load(text)
    assert set(found) == {"services"}
    service = found["services"]["supernode"]
    assert {key: type(value) for key, value in service.items()} == {**keys_, "command": list}
    assert text.count("$") == 2 * text.count("$$") > 0
    told = [word.replace("$$", "$") for word in service["command"]]
    assert parse_config_args([told[told.index("--node-config") + 1]])["data-root"] == "/data/$HOME"
    assert {volume.split(":")[0].replace("$$", "$") for volume in service["volumes"]} == {
        str(folder),
        "/data/$HOME",
    }
    assert all(isinstance(value, str) for value in service["environment"].values())
    assert service["restart"] in ("no", "always", "on-failure", "unless-stopped")


def test_check_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"train_images": np.zeros((40, 8, 8), np.uint8), "train_labels": np.arange(40) % 2}
    np.savez(tmp_path / "own.npz", **arrays)
    node = [f"data-root={tmp_path / 'own.npz'}", "data-format=npz"]
    sized = [*node, "data-sizes=8"]
    assert main(["check", "--size", "8", "--classes", "x,y", *sized, "data-classes=y,x"]) == 0
    said = capsys.readouterr().out
    assert "ok   labels: x, y" in said
    assert "40 images readable" in said
    assert main(["check", "--size", "8", "--classes", "x,y", *sized]) == 1
    assert 'FAIL labels: 0, 1; the run has others: data-classes="x,y"' in capsys.readouterr().out
    assert main(["check", "--size", "8", "--classes", "0,1", *node]) == 1
    assert "FAIL data: data-sizes: this node reads images of 16, 28" in capsys.readouterr().out
    assert main(["check", "--size", "16", "data-root=/nowhere.npz", "data-format=npz"]) == 1
    out, err = capsys.readouterr()
    assert "FAIL data: /nowhere.npz" in out
    assert "1 check failed" in err
    assert main(["check", "--superlink", "127.0.0.1:1", "--size", "16", *node]) == 1
    assert "FAIL connection: 127.0.0.1:1 cannot be reached" in capsys.readouterr().out


def test_check_takes_classes_with_commas_as_a_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("basal cell, nodular", "nevus"):
        for number in range(10):
            picture(tmp_path / name / f"{number}.png")
    names = '["basal cell, nodular", "nevus"]'
    node = [f"data-root={tmp_path}", "data-sizes=8", "site=vienna"]
    check = ["check", "--size", "8"]
    assert main([*check, "--classes", names, *node]) == 0
    assert main([*check, *node, f"data-classes={names}"]) == 0
    capsys.readouterr()
    assert main([*check, "--classes", '["nevus", "a, b"]', *node]) == 1
    assert """the run has others: data-classes='["nevus", "a, b"]',""" in capsys.readouterr().out


@pytest.mark.parametrize("site", ["vi\x1benna", "vienna\n", "\u202eanneiv"])
def test_a_site_s_name_that_cannot_be_shown_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], site: str
) -> None:
    node = [f"site={site}", f"data-root={tmp_path}", "data-sizes=8"]
    assert main(["check", "--size", "8", *node]) == 1
    assert "FAIL data: site=" in (said := capsys.readouterr().out)
    assert site not in said
    assert main(["commands", str(tmp_path), "--superlink", "host:1", *node]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: site=")
    assert line.removesuffix("\n").isprintable()


def test_check_names_the_files_that_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "y"):
        for number in range(10):
            picture(tmp_path / name / f"{number}.png")
    (tmp_path / "x" / "notes.txt").touch()
    node = [f"data-root={tmp_path}", "data-format=image_folder", "data-sizes=8"]
    assert main(["check", "--size", "8", "--classes", "x,y", *node]) == 0
    said = "20 images readable, 1 file left out, the first is x/notes.txt (no image, by its name)"
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["commands", "x", "--superlink", "somewhere"], "superlink=somewhere: must be host:port"),
        (["check", "nonsense"], "nonsense: must be key=value"),
    ],
)
def test_wrong_words_are_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert line in capsys.readouterr().err
