"""What a real site tells of its test images, whatever a server sends: rounded counts, or what its
own configuration allows."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fedrobust.clients.app import app
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedrobust.evaluation.counts import RoundedCounts, Withheld
from fedrobust.experiment import build, compose, factories, settings
from fedrobust.experiment.experiment import PERSONAL
from fedrobust.runtime.client import handlers, site_config
from fedrobust.runtime.messages import arrays, evaluations, records
from fedrobust.runtime.messages.sites import (
    RECORD,
    SiteAssignment,
    assignment_record,
    read_site_info,
)
from fedrobust.state import Layout, State, read
from tests.helpers import federations
from tests.helpers.site_errors import site_error

CLASSES = ("akiec", "bcc", "mel")
SIZE, TEST_IMAGES = 16, 30
PIXELS = 3 * SIZE**2
# one patch of all the image, an attention block that adds nothing, a linear head on the pixels
READER = (
    *("partition=remote", "poisoned=0", "strategy=fedavg", "server.batchnorm=mean"),
    *("model=resnet18", "model.name=vit_tiny_patch16_224", "model.head=linear"),
    "client.loss=cross_entropy",
)
OPTIONS = {
    **{"img_size": 16, "patch_size": 16, "embed_dim": PIXELS, "depth": 1, "num_heads": 1},
    **{"class_token": False, "global_pool": "avg", "pos_embed": "none"},
    **{"final_norm": False, "fc_norm": False},
}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The node configuration of a site with 30 test images of noise, ten of each class."""
    rng, arrays = np.random.default_rng(0), {}
    for part, number in (("train", 30), ("val", 6), ("test", TEST_IMAGES)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (number, SIZE, SIZE, 3), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(number) % 3)[:, None]
    path = tmp_path_factory.mktemp("hospital") / "own.npz"
    np.savez(path, **arrays)
    return {
        "data-root": str(path),
        "data-format": "npz",
        "data-classes": "bcc, akiec, mel",
        "site": "vienna",
    }


@cache
def composed() -> str:
    return settings.to_json(compose.compose(*READER, "num_clients=3"))


def order_text(**changes: Any) -> str:
    given = settings.from_json(composed())
    given["model"]["options"] = OPTIONS
    return settings.to_json({**given, **changes})


def pixel_reader(num_classes: int) -> State:
    """Weights with which the model's answers are the image: the difference of two logits is a
    normalised value of a pixel."""
    factory = factories.build_group(settings.from_json(order_text()), "model").untrained()
    model = factory.build(num_classes, None, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first = model.backbone.patch_embed.proj.weight
        first.copy_(torch.eye(PIXELS).view(first.shape))
        read_out = min(num_classes - 1, PIXELS)
        model.last.weight[1 : 1 + read_out].copy_(torch.eye(PIXELS)[:read_out])
    return read(model, Layout.of(model))


def ask(
    node: dict[str, Any],
    text: str,
    *,
    kind: str = "evaluate",
    classes: tuple[str, ...] = CLASSES,
    state: State | None = None,
    size: int = SIZE,
    context: Context | None = None,
) -> RecordDict:
    """A node's answer to a message as the server of a real federation sends it."""
    records.set_identity()
    instruction = {"experiment": text, "round": 1, "etf": b"", "etf-sha256": ""}
    told = assignment_record(SiteAssignment(client=1, size=size, classes=classes))
    content = RecordDict({"config": ConfigRecord(instruction), RECORD: told})
    if state is not None:
        content["state"] = records.state_record(state)
    context = context or Context(1, 7, node, RecordDict(), {})
    return app(Message(content, 1, kind), context).content


@pytest.fixture(scope="module")
def reader() -> State:
    return pixel_reader(len(CLASSES))


def numbers_in(content: RecordDict) -> int:
    """How many numbers a reply holds beside its settings."""
    arrays = [np.prod(array.shape) for name, array in content["counts"].items()]
    return int(sum(arrays)) + len(content["metrics"])


def test_a_network_whose_answers_are_the_pixels_gets_counts_only(
    hospital: dict[str, Any], reader: State
) -> None:
    content = ask(hospital, order_text(), state=reader)
    assert set(content) == {"counts", "metrics", "info"}
    counts, _ = evaluations.read_client_evaluation(content, 3)
    assert not isinstance(counts, Withheld)
    assert set(counts) == {"clean", "contaminated"}
    for part in counts.values():
        assert isinstance(part, RoundedCounts)
        assert part.min_cell == 5
        assert not (part.cells_KK % 5).any()
    # two matrices of 3 x 3, the number of images and the smallest cell; 30 images have 23,040 bytes
    assert numbers_in(content) == 20
    # a simulated client and a site whose own configuration allows it tell what each image got
    open_node = {**hospital, "share-predictions": True}
    told, _ = evaluations.read_client_evaluation(ask(open_node, order_text(), state=reader), 3)
    probabilities, labels = told["clean"]
    assert (probabilities.shape, len(labels)) == ((TEST_IMAGES, 3), TEST_IMAGES)


@pytest.mark.parametrize(
    ("node", "own"),
    [({}, False), ({"share-personal": True}, True), ({"share-personal": "yes"}, False)],
)
def test_counts_of_its_own_model_leave_a_site_that_allows_it(
    hospital: dict[str, Any], reader: State, node: dict[str, Any], own: bool
) -> None:
    text = settings.to_json(
        {**settings.from_json(order_text()), "client": settings.from_json(ditto())["client"]}
    )
    counts, _ = evaluations.read_client_evaluation(ask({**hospital, **node}, text, state=reader), 3)
    assert not isinstance(counts, Withheld)
    assert {"clean", "contaminated"} == set(counts) - set(PERSONAL)
    assert set(PERSONAL) <= set(counts) if own else set(PERSONAL).isdisjoint(counts)
    withheld = {**hospital, **node, "share-counts": False}
    answer, _ = evaluations.read_client_evaluation(ask(withheld, text, state=reader), 3)
    assert answer == Withheld("share-counts")


@cache
def ditto() -> str:
    return settings.to_json(compose.compose(*READER, "num_clients=3", "client=ditto"))


def test_the_pixels_are_in_predictions_and_not_in_counts(hospital: dict[str, Any]) -> None:
    """A site with as many classes as an image has values: with its permission, which shows that the
    attack is one, and without."""
    classes = tuple(f"c{number}" for number in range(PIXELS + 1))
    node = {**hospital, "data-classes": ",".join(classes)}
    state, text = pixel_reader(len(classes)), order_text()
    told = ask({**node, "share-predictions": True}, text, classes=classes, state=state)
    probabilities = records.read_evaluate_reply(told, len(classes)).predictions["clean"][0]
    with np.load(hospital["data-root"]) as arrays:
        images = arrays["test_images"].transpose(0, 3, 1, 2).reshape(TEST_IMAGES, 3, -1)
    logits = (probabilities[:, 1:].double().log() - probabilities[:, :1].double().log()).numpy()
    for seen, image in zip(logits.reshape(images.shape), images, strict=True):
        for channel, true in zip(seen, image, strict=True):
            assert np.corrcoef(channel, true)[0, 1] == pytest.approx(1, abs=1e-6)
    counts, _ = evaluations.read_client_evaluation(
        ask(node, text, classes=classes, state=state), len(classes)
    )
    # no five images of a class are brightest in the same place
    assert {(int(part.cells_KK.sum()), part.images) for part in counts.values()} == {(0, 30)}


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
@pytest.mark.parametrize("listed", [True, False])
def test_other_classes_are_refused_before_anything_is_built(
    hospital: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str, listed: bool
) -> None:
    monkeypatch.setattr(build, "from_text", lambda text: pytest.fail("built"))
    node = dict(hospital)
    if not listed:
        del node["data-classes"]  # then the classes are those of its data: 0, 1, 2
    many = (*CLASSES, *(f"c{number}" for number in range(766)))
    text = order_text()
    for classes in (many, CLASSES[:2], ("akiec", "bcc", "nv"), (*CLASSES, "mel")):
        with site_error("classes", f"^data-.*the {len(classes)} classes of the run"):
            ask(node, text, kind=kind, classes=classes)


def test_the_run_s_order_of_listed_classes_counts(hospital: dict[str, Any]) -> None:
    text = order_text()
    for classes in (CLASSES, CLASSES[::-1]):
        assert read_site_info(ask(hospital, text, kind="query", classes=classes)).counts[0] == 30
    unlisted = {key: value for key, value in hospital.items() if key != "data-classes"}
    found = read_site_info(ask(unlisted, text, kind="query", classes=("0", "1", "2")))
    assert found.counts == (30, 6, 30)


@pytest.mark.parametrize(
    "words", ["akiec", "a,b,a", "a,,b", "", '["a"]', '["a", "b"', '["a", 1]', '["a", "a "]']
)
def test_a_list_of_classes_that_cannot_be_used(hospital: dict[str, Any], words: str) -> None:
    with site_error("node", r"^data-classes=.*(two or more different names|must be a JSON list)"):
        ask({**hospital, "data-classes": words}, order_text(), kind="query")


@pytest.mark.parametrize(
    "names",
    [("a, b", "c/d", "x|y"), ("a", "b", "[bold]c"), ("[bold]a", "b"), ('a"b', "c,d"), ('["a', "b")],
)
def test_classes_with_commas_are_a_list(names: tuple[str, ...]) -> None:
    text = site_config.join_classes(names)
    assert site_config.split_classes(text) == names
    assert text.startswith('["') == any("," in name or name.startswith('["') for name in names)


def test_a_site_takes_part_with_classes_that_hold_commas(hospital: dict[str, Any]) -> None:
    names = ("basal cell, nodular", "nevus/naevus", "mel")
    node = {**hospital, "data-classes": site_config.join_classes(names)}
    told = read_site_info(ask(node, order_text(), kind="query", classes=names))
    assert told.counts[0] == 30


@pytest.mark.parametrize(
    "own", [{"threads": "x"}, {"threads": 0}, {"partition-id": "a"}, {"partition-id": True}]
)
def test_a_node_s_own_numbers_are_the_nodes_to_mend(
    hospital: dict[str, Any], own: dict[str, Any]
) -> None:
    with site_error("node", f"^{next(iter(own))}=.*must be a whole number, at least"):
        ask({**hospital, **own}, order_text(), kind="query")


@pytest.mark.parametrize(
    "own",
    [
        {"max-epsilon": "8"},
        {"max-epsilon": float("nan")},
        {"max-epsilon": -1.0},
        {"max-epsilon": 8.0, "privacy-delta": 0.0},
        {"sum-of-at-least": 1},
        {"sum-of-at-least": "three"},
        {"sum-of-at-least": True},
        {"min-cell": 0},
        {"site": "=1+1"},
        {"site": "@vienna"},
    ],
)
def test_a_node_s_own_conditions_are_looked_at_before_it_joins(
    hospital: dict[str, Any], own: dict[str, Any]
) -> None:
    with site_error("node", f"^{list(own)[-1]}"):
        ask({**hospital, **own}, order_text(), kind="query")


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
@pytest.mark.parametrize(
    "own",
    [{"site": "vi\x1benna"}, {"site": "\u202eanneiv"}, {"site": "x" * 201}, {"data-x": "a\nb"}],
)
def test_a_node_s_own_words_that_cannot_be_shown_are_the_nodes_to_mend(
    hospital: dict[str, Any], own: dict[str, Any], kind: str
) -> None:
    with site_error("node", f"^{next(iter(own))}=.*(cannot be printed|at most 200)"):
        ask({**hospital, **own}, order_text(), kind=kind)


@pytest.mark.parametrize(
    ("own", "code"),
    [
        ({"sum-of-at-least": 5}, "sum-of-at-least"),
        ({"sum-of-at-least": 5, "share-predictions": True}, "sum-of-at-least"),
        ({"sum-of-at-least": 5, "share-counts": "true"}, "sum-of-at-least"),
        ({"max-epsilon": 8.0}, "max-epsilon"),
        ({"max-epsilon": 8.0, "share-counts": True, "share-predictions": True}, "max-epsilon"),
        ({"share-counts": False}, "share-counts"),
        ({"share-counts": False, "share-predictions": True}, "share-counts"),
        ({"sum-of-at-least": 5, "share-counts": True}, None),
        ({"sum-of-at-least": 5, "share-counts": True, "share-predictions": True}, None),
        ({"share-predictions": "true"}, None),
    ],
)
def test_the_node_s_own_conditions_hold_for_results_too(
    hospital: dict[str, Any], reader: State, own: dict[str, Any], code: str | None
) -> None:
    content = ask({**hospital, **own}, order_text(), state=reader)
    if code is None:
        assert set(content) == {"counts", "metrics", "info"}
    else:
        assert set(content) == {"withheld", "info"}
        assert evaluations.read_client_evaluation(content, 3)[0] == Withheld(code)


def test_answers_that_are_not_finite_tell_nothing(
    hospital: dict[str, Any], reader: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does a failure, with which a server could ask about pixels one bit at a time. Deep
    models overflow with parameters within the bound, too; this one is not deep."""
    monkeypatch.setattr(arrays, "LARGEST", 1e38)
    huge = State(reader.parameters * 1e30, reader.buffers)
    content = ask(hospital, order_text(), state=huge)
    assert evaluations.read_client_evaluation(content, 3)[0] == Withheld("not-finite")


def test_one_model_in_a_run(hospital: dict[str, Any], reader: State) -> None:
    context = Context(1, 7, hospital, RecordDict(), {})
    ask(hospital, order_text(), state=reader, context=context)
    for text in (order_text(), order_text(seed=7)):
        with site_error("evaluated", "evaluates one in a run"):
            ask(hospital, text, state=reader, context=context)


def test_the_census_tells_the_test_images_as_the_counts_do(hospital: dict[str, Any]) -> None:
    for own, told in (({}, 30), ({"min-cell": 8}, 24), ({"min-cell": 1}, 30)):
        info = read_site_info(ask({**hospital, **own}, order_text(), kind="query"))
        assert info.counts == (30, 6, told)
    exact = {"min-cell": 8, "share-predictions": True}
    assert read_site_info(ask({**hospital, **exact}, order_text(), kind="query")).counts[2] == 30


@pytest.mark.parametrize("cell", [0, 2, "5"])
def test_a_wrong_smallest_cell_is_the_nodes_to_mend(hospital: dict[str, Any], cell: object) -> None:
    with site_error("node", r"^min-cell="):
        ask({**hospital, "min-cell": cell}, order_text(), kind="query")


def test_sizes_that_the_node_does_not_allow_leave_its_disk_alone(
    hospital: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    text = order_text()
    for size in range(17, 28):
        with site_error("size", rf"^data-sizes: this node reads .*, not of {size};"):
            ask(hospital, text, kind="query", size=size)
    assert list(tmp_path.iterdir()) == []
    only = {**hospital, "data-sizes": 20}
    with site_error("size", r"^data-sizes: this node reads images of 20 pixels"):
        ask(only, text, kind="query", size=16)
    ask({**only, "data-sizes": "20, 24"}, text, kind="query", size=24)
    assert len(list(tmp_path.iterdir())) == 1
    with site_error("node", r"^data-sizes=large: must be numbers of pixels"):
        ask({**only, "data-sizes": "large"}, text, kind="query", size=24)


def test_drawn_images_of_a_node_without_data_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path))
    text = settings.to_json(
        federations.compose_settings(
            *federations.MEAN, "poisoned=0", "partition=iid", "data.seed=3"
        )
    )
    info = read_site_info(ask({"site": "vienna"}, text, kind="query"))
    assert min(info.counts) > 0
    assert list(tmp_path.iterdir()) == []


def test_own_data_are_loaded_once(
    hospital: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their classes are looked at first, the experiment gets the same data set."""
    data: list[Any] = []
    original = handlers.build.load_data
    monkeypatch.setattr(
        handlers.build, "load_data", lambda *given: data.append(original(*given)) or data[-1]
    )
    seen = []
    whole = handlers.build.from_text
    monkeypatch.setattr(
        handlers.build, "from_text", lambda *given: seen.append(whole(*given)) or seen[-1]
    )
    ask(hospital, order_text(seed=11), kind="query")
    [loaded] = data
    assert seen[0].dataset is loaded
