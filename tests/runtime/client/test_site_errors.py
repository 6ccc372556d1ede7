"""What a real site tells the server when it fails: fixed texts; the details stay in its own log."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from fedrobust.clients.app import app
from flwr.app import Context, Message, RecordDict

from fedrobust import errors
from fedrobust.errors import ConfigError, DataError, FedrobustError, RefusalError, RunError
from fedrobust.privacy.secure.client import ProtocolError
from fedrobust.runtime.client.site_errors import TEXTS, SiteError, error_code, with_fixed_texts
from fedrobust.runtime.messages import records
from fedrobust.runtime.messages.arrays import WireError
from tests.helpers.federations import MEAN
from tests.helpers.site_errors import site_error
from tests.runtime.client.test_site_config import (
    SiteAssignment,
    federation_picture,
    federations,
    send,
)

SECRET = "patient_0001.png has the label melanoma"
ROOT = Path(errors.__file__).parent


def fail(error: Exception, **node: object) -> None:
    def answer(message: Message, context: Context) -> Message:
        raise error

    records.set_identity()
    message = Message(RecordDict(), 1, "train")
    with_fixed_texts(message, Context(1, 1, node, RecordDict(), {}), answer)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError(SECRET), "settings"),
        (DataError(SECRET), "data"),
        (RunError(SECRET), "training"),
        (RefusalError("sums", SECRET), "sums"),
        (ProtocolError(SECRET), "secure-aggregation"),
        (WireError(SECRET), "message"),
        (ValueError(SECRET), "message"),
        (OSError(2, SECRET, "/data/patient_0001.png"), "failure"),
        (KeyError(SECRET), "failure"),
        (MemoryError(SECRET), "failure"),
        (RefusalError(SECRET, SECRET), "failure"),
    ],
)
def test_the_server_gets_a_fixed_text_and_the_log_all_of_it(
    error: Exception, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), site_error(code):
        fail(error)
    (line,) = [one for one in caplog.records if one.name == "fedrobust.site"]
    assert re.fullmatch(
        rf"error {code} [0-9a-f]{{8}}: {type(error).__name__}: .*", line.getMessage()
    )
    assert "patient_0001" in line.getMessage()
    assert line.exc_info is not None


def test_the_number_is_the_one_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SiteError) as caught:
        fail(RunError(SECRET))
    number = re.search(r"[0-9a-f]{8}", str(caught.value))
    assert number is not None
    assert number[0] in caplog.text
    with pytest.raises(SiteError) as other:
        fail(RunError(SECRET))
    assert str(other.value) != str(caught.value)


def test_simulations_keep_their_full_texts() -> None:
    with pytest.raises(RunError, match=SECRET):
        fail(RunError(SECRET), simulation=True)
    for word in ("true", 1, False):
        with site_error("training"):
            fail(RunError(SECRET), simulation=word)


def test_texts_are_fixed() -> None:
    assert not [text for text in TEXTS.values() if re.search(r"[{}%]|\d", text)]
    kinds = [FedrobustError, *FedrobustError.__subclasses__(), ProtocolError]
    assert {one.code for one in kinds} <= set(TEXTS)
    assert error_code(Exception()) == "failure"


def test_every_code_that_the_program_uses_has_a_text() -> None:
    found = {
        code
        for path in ROOT.rglob("*.py")
        for code in re.findall(r'RefusalError\(\s*"([^"]*)"', path.read_text())
    }
    assert len(found) > 5
    assert found <= set(TEXTS)


@pytest.mark.parametrize("limits", [{}, {"sum-of-at-least": 5}])
def test_neither_names_of_files_nor_labels_leave(tmp_path: Path, limits: dict[str, object]) -> None:
    for label in ("akiec", "mel"):
        (tmp_path / label).mkdir()
        for number in range(9):
            federation_picture(tmp_path / label / f"patient_{number}.png", 20 * number)
    (tmp_path / "mel" / "patient_9.png").write_bytes(b"no image")
    own = {"data-root": str(tmp_path), "data-format": "image_folder", **limits}
    config = federations.compose_settings(*MEAN, "poisoned=0", "partition=remote")
    for classes, words in ((("akiec", "bcc"), "label 'mel'"), (("akiec", "mel"), "patient_9")):
        for kind in ("query", "train"):
            node = {**own, "data-classes": ",".join(classes)}
            with site_error("data", words):
                send(config, node, kind, SiteAssignment(1, 16, classes))


def test_the_app_itself_does_so() -> None:
    records.set_identity()
    with site_error("message", "expected a ConfigRecord named config"):
        app(Message(RecordDict(), 1, "train"), Context(1, 1, {}, RecordDict(), {}))
