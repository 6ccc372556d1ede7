"""Runs from Python."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fedrobust
from fedrobust.errors import ConfigError, DataError
from fedrobust.experiment.compose import compose
from fedrobust.studies import python_api
from fedrobust.studies.comparison import leaderboard
from fedrobust.studies.comparison.grid import Grid
from fedrobust.studies.python_api import Comparison, Run, override
from tests.helpers import reports
from tests.helpers.comparisons import findings
from tests.helpers.federations import SMALL_RUN
from tests.helpers.plugins import importable

SMALL = (
    "experiment=smoke",
    "data.num_images=300",
    "evaluation.twin=false",
    "evaluation.bootstrap_samples=0",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("python") / "a run"
    return fedrobust.run(*SMALL, folder=place, strategy="fedavg", poisoned=[1])


def test_a_run_has_its_folder_report_and_manifest(finished: Run) -> None:
    assert finished.report.strategy == "fedavg"
    assert finished.report.poisoned == (1,)
    assert (finished.folder / "report.html").is_file()
    called = finished.manifest["command_line"]
    assert called == ["fedrobust.run", *SMALL, "strategy='fedavg'", "poisoned=[1]"]
    assert repr(finished).startswith(f"Run({str(finished.folder)!r}, strategy=fedavg")


def test_a_loaded_run_is_the_same(finished: Run) -> None:
    again = fedrobust.load(finished.folder)
    assert again.report == finished.report
    for table in ("clients", "rounds", "metrics", "drops", "fairness"):
        assert again.frame(table).equals(finished.frame(table))


def test_the_tables_say_what_the_report_says(finished: Run) -> None:
    clients, report = finished.frame("clients"), finished.report
    assert list(clients.index) == [0, 1, 2]
    assert clients.loc[1, "kind"] == "poisoned"
    assert clients.loc[2, "clean_accuracy"] == report.clients[2].clean.accuracy
    assert finished.frame("metrics").loc["clean", "f1"] == report.evaluations["clean"].f1
    assert finished.frame("drops").loc["corruption", "combined"] == report.drops.corruption.combined
    rounds = finished.frame("rounds")
    assert list(rounds.index) == [0, 1]
    assert rounds.loc[1, "seconds_train"] > 0
    with pytest.raises(ConfigError, match="table=site: must be one of clients, rounds"):
        finished.frame("site")  # type: ignore[arg-type]


def test_the_table_of_worst_cases_and_spread() -> None:
    table = Run(Path(), reports.typed(reports.full_report())).frame("fairness")
    worst = table.loc[("clean", "site_accuracy", "worst")]
    assert worst[["low", "high", "worst_member"]].tolist() == [36.0, 43.0, 7]
    assert table.loc[("drop poisoning", "class_recall", "std"), "value"] == 5.0
    assert Run(Path(), reports.typed(reports.report())).frame("fairness").empty


def test_the_model_gives_the_predictions_of_the_run(finished: Run) -> None:
    from fedrobust.experiment import build

    experiment = build.build_experiment(finished.manifest["config"])
    images = experiment.dataset.images[experiment.test_rows()]
    model = finished.model()
    assert not model.training
    with torch.no_grad():
        shares = model(images)
    assert torch.allclose(shares, finished.predictions.probabilities["clean"], atol=1e-6)
    assert model.class_names == experiment.dataset.class_names
    picture = np.full((40, 30, 3), 120, np.uint8)
    assert model.preprocess(picture).shape == (3, model.image_size, model.image_size)
    found = model.classify(picture)
    assert set(found) == set(model.class_names)
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.slow
def test_other_programs_can_use_the_model(finished: Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, path = finished.model(), finished.export("onnx", tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(path))
    images = torch.rand(5, 3, model.image_size, model.image_size)
    [found] = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        assert np.allclose(found, model(images).numpy(), atol=1e-5)
    assert '"blotches"' in session.get_modelmeta().custom_metadata_map["class_names"]


def test_timm_takes_the_weights(finished: Run, tmp_path: Path) -> None:
    path = finished.export("timm", tmp_path)
    assert path == tmp_path / "model_timm.safetensors"
    settings = finished.manifest["config"]["model"]
    own = finished.model().classifier.backbone
    other = timm.create_model(settings["name"], num_classes=0, **settings["options"])
    other.conv1 = torch.nn.Conv2d(3, own.conv1.out_channels, 3, padding=1, bias=False)
    other.load_state_dict(load_file(path))
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(other.eval()(images), own(images), atol=1e-5)
    with pytest.raises(ConfigError, match="form=torch: must be one of onnx, timm"):
        finished.export("torch")  # type: ignore[arg-type]


def test_the_best_round_s_model_is_exported_under_a_name_of_its_own(
    finished: Run, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"best\.safetensors"):
        finished.export("timm", tmp_path, best=True)
    shutil.copytree(finished.folder, tmp_path / "run")
    best = fedrobust.load(tmp_path / "run")
    own = load_file(best.folder / "model.safetensors")
    halved = {name: one / 2 if name.endswith("conv1.weight") else one for name, one in own.items()}
    with safe_open(best.folder / "model.safetensors", framework="pt") as written:
        save_file(halved, best.folder / "best.safetensors", written.metadata())
    last, other = (load_file(best.export("timm", best=one)) for one in (False, True))
    assert {path.name for path in best.folder.glob("*_timm.safetensors")} == {
        "model_timm.safetensors",
        "best_timm.safetensors",
    }
    assert torch.equal(other["conv1.weight"], last["conv1.weight"] / 2)


def test_nothing_of_hydra_stays_behind(finished: Run) -> None:
    assert not GlobalHydra.instance().is_initialized()
    assert finished.folder.is_dir()


@pytest.mark.parametrize(
    "value",
    [None, True, 3, -0.5, 1e-4, "a, b", """'say' "hi\"""", "C:\\a\\", "naïve = $x", [0, "b"], []],
)
def test_a_setting_arrives_as_it_was_given(value: object) -> None:
    found = compose(override("+client.probe", value))["client"]["probe"]
    assert found == value
    assert type(found) is type(value)


def test_a_mapping_arrives_as_it_was_given() -> None:
    given = {"layers": [1, 1], "name": "a b", "flag": False}
    assert compose(override("+client.probe", given))["client"]["probe"] == given


def test_values_of_other_types_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"poisoned=<object object.*must be None, a truth value"):
        override("poisoned", object())


@pytest.mark.parametrize(
    ("words", "settings", "reason"),
    [
        (("experiment=smoke",), {"poisond": 1}, "poisond"),
        (("experiment=smoke", "--help"), {}, "--help: is an option of the command line"),
        ((), {"resume": "nowhere"}, "resume=nowhere: no such folder"),
        (("resume=nowhere",), {"rounds": 3}, "rounds=3: cannot be given beside resume"),
    ],
)
def test_wrong_calls_end_in_one_line(
    words: tuple[str, ...], settings: dict[str, object], reason: str, tmp_path: Path
) -> None:
    folder = None if "resume" in (*settings, *(word[:6] for word in words)) else tmp_path / "new"
    with pytest.raises(ConfigError) as caught:
        fedrobust.run(*words, folder=folder, **settings)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_quiet_run_prints_the_last_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = (*SMALL, "strategy=fedavg", "num_clients=2", "poisoned=0")
    done = fedrobust.run(*words, folder=tmp_path / "run", quiet=True)
    assert capfd.readouterr().out == f"report: {done.folder / 'report.html'}\n"
    assert "run: train" in (done.folder / "run.log").read_text()
    with pytest.raises(ConfigError, match=r"^dry_run=true: is for"):
        fedrobust.run(*words, folder=tmp_path / "other", dry_run=True)


def test_a_folder_with_files_is_not_written_over(finished: Run) -> None:
    before = sorted(finished.folder.iterdir())
    with pytest.raises(ConfigError, match="already holds files; nothing was written over"):
        fedrobust.run(*SMALL, folder=finished.folder)
    assert sorted(finished.folder.iterdir()) == before
    with pytest.raises(ConfigError, match="cannot be given beside resume"):
        fedrobust.run(resume=finished.folder, folder=finished.folder)


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no report\.json; give the output folder"):
        fedrobust.load(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"not finished; resume it with python -m"):
        fedrobust.load(tmp_path)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulation'"):
        _ = fedrobust.simulation


def test_a_comparison_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Grid] = []
    monkeypatch.setattr(python_api, "run_comparison", lambda grid, _: asked.append(grid) or {})
    out = tmp_path / "board"
    found = fedrobust.compare(
        "experiment=smoke", strategies=["krum", "median"], seeds=[0, 1], poisoned=[0, 1], out=out
    )
    [grid] = asked
    assert [one.name for one in grid.strategies] == ["krum", "median"]
    assert (grid.seeds, grid.poisoned, grid.out) == ((0, 1), (0, 1), out)
    assert (found.folder, found.failed) == (out, {})
    with pytest.raises(ConfigError, match="strategie"):
        fedrobust.compare("experiment=smoke", strategie=["krum"])


@pytest.mark.slow
def test_a_function_of_one_s_own_is_compared_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells run in worker processes, which import the function by its name."""
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    with importable(tmp_path, "compared"):
        rules = importlib.import_module("compared.rules")
        found = fedrobust.compare(
            *SMALL[:2],
            "evaluation.bootstrap_samples=0",
            *SMALL_RUN,
            out=tmp_path / "board",
            strategies=["fedavg", rules.mylab_rule],
            contaminations=["sign_flip"],
            poisoned=1,
            seeds=[0],
            draws=50,
            parallel=1,
        )
    assert found.failed == {}
    board = found.leaderboard()
    assert sorted(board.index) == ["compared.rules.mylab_rule", "fedavg"]
    assert board["mean"].notna().all()
    assert (found.folder / "leaderboard.html").is_file()


def test_the_leaderboard_of_a_comparison(tmp_path: Path) -> None:
    results = findings(tmp_path / "cells", seeds=(0, 1), draws=100)
    table = leaderboard.ranking_frame(results, leaderboard.rankings_of(results))
    table.to_csv(tmp_path / "ranking.csv", index=False)
    found = Comparison(tmp_path, {})
    board = found.leaderboard()
    assert list(board.index[-1:]) == ["bad"]
    assert list(board["poisoned"].unique()) == [3]
    assert list(found.leaderboard(1)["place"]) == [1, 2, 3]
    with pytest.raises(ConfigError, match="poisoned=2: has no ranking; those that do: 1, 3"):
        found.leaderboard(2)


def test_a_comparison_without_poisoned_clients_has_no_leaderboard(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none, since no client was poisoned"):
        Comparison(tmp_path, {}).leaderboard()


def test_a_folder_alone_brings_in_no_plugin(finished: Run, tmp_path: Path) -> None:
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    manifest["config"]["strategy"] = {"_target_": "mylab.rules.mylab_rule"}
    manifest["config"]["model"] = {"_target_": "mylab.models.mine"}
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with importable(tmp_path / "site"):
        for use in (lambda run: run.used_images, Run.model, Run.show):
            with pytest.raises(ConfigError, match=r"manifest\.json alone.*plugins=\[mylab\]"):
                use(fedrobust.load(copy))
        assert "mylab" not in sys.modules
        assert fedrobust.load(copy, ["mylab"]).used_images == finished.used_images
