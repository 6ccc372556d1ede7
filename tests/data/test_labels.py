"""Words to classes: one spelling each, one class an image, an order of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedrobust.data import labels as labels_module
from fedrobust.data.labels import LabelOptions, Labels, clean_column, order_classes, read_labels
from fedrobust.errors import DataError

COMPOSED, DECOMPOSED = "N\u00e4vus", "Na\u0308vus"
ROOT = Path(labels_module.__file__).resolve().parents[2]


def read(words: list[str], classes: list[str] | None = None, **options: object) -> Labels:
    images = [f"{row}.png" for row in range(len(words))]
    return read_labels("t.csv", images, words, classes, LabelOptions(**options))  # type: ignore[arg-type]


def test_blanks_and_unicode_forms_make_no_class_of_their_own() -> None:
    words, notes = clean_column("t.csv", "label", ["1 ", "1", "\u00a01\u200b", "2"])
    assert words == ["1", "1", "1", "2"]
    assert notes == ["label: blanks at the ends of 2 cells taken off ('1 ')"]
    assert clean_column("t.csv", "site", ["b", "Wien", "wien", "b"])[1] == [
        "site: Wien and wien differ in case or blanks only and count as two"
    ]
    assert clean_column("t.csv", "label", [DECOMPOSED, COMPOSED]) == ([COMPOSED, COMPOSED], [])


@pytest.mark.parametrize(
    "word",
    ["n\udce6vus", "a\nb", "a\x1bb", "a\u2028b", "a\u202eb", "a\u2066b", "\u200fa", "a\u061cb"],
)
def test_words_that_cannot_be_shown_are_refused_in_one_line(word: str) -> None:
    with pytest.raises(DataError, match=r"t\.csv: the site .* is not UTF-8, or holds") as caught:
        clean_column("t.csv", "site", ["ok", word])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("word", ["", "nan", "<NA>"])
def test_missing_labels_are_counted(word: str) -> None:
    with pytest.raises(DataError, match=r"3 images, 2 without a label, the first is 1\.png"):
        read(["a", word, word])


def test_nan_is_a_class_where_somebody_says_so() -> None:
    with pytest.raises(DataError, match=r"1\.png \(nan\); .*name nan in data\.classes if it is"):
        read(["a", "nan"])
    assert read(["a", "nan"], ["nan", "a"]).words == ("a", "nan")


def test_classes_that_differ_in_case_only_are_refused_or_joined() -> None:
    words = ["Nevus", "nevus", "nevus", "Wart"]
    with pytest.raises(
        DataError, match=r"labels nevus \(2 images\) and Nevus \(1\) .*data\.ignore_case=true"
    ):
        read(words)
    joined = read(words, ignore_case=True)
    assert joined.words == ("nevus", "nevus", "nevus", "Wart")
    assert joined.classes == ("Wart", "nevus")
    assert joined.notes == ("label Nevus (1 image) joined with nevus",)
    with pytest.raises(DataError, match="differ in case or blanks only"):
        read(["basal cell", "basal\u00a0 cell"])
    for invisible in ("\u200b", "\u200d", "\u00ad", "\ufeff"):
        with pytest.raises(DataError, match="differ in case or blanks only"):
            read(["nevus", f"ne{invisible}vus"])
    # of two spellings that occur equally often the first by code points stays, in any order
    assert read(["a", "A"], ignore_case=True).classes == ("A",)
    assert read(["A", "a"], ignore_case=True).classes == ("A",)


def test_wanted_classes_keep_their_spelling() -> None:
    assert read(["a", "A"], ["a", "A"]).words == ("a", "A")  # told apart on purpose
    assert read(["NEVUS", "b"], ["nevus", "b"], ignore_case=True).words == ("nevus", "b")
    with pytest.raises(
        DataError, match=r"nevus \(0 images\) and NEVUS \(1\) differ in case or blanks only"
    ):
        read(["NEVUS", "b"], ["nevus", "b"])
    with pytest.raises(DataError, match=r"image 0\.png has the label 'c'; known classes are a, b"):
        read(["c"], ["a", "b"])


def test_several_labels_in_one_are_refused_or_chosen() -> None:
    words = ["a", "a|b", "b", "c | a"]
    with pytest.raises(
        DataError,
        match=r"4 images, 2 with several labels, the first is 1\.png with 'a\|b'; .*"
        r"data\.multilabel=first.*data\.multilabel=drop.*data\.classes",
    ):
        read(words)
    first = read(words, multilabel="first")
    assert first.words == ("a", "a", "b", "c")
    assert first.notes == ("4 images, 2 with several labels, the first of which counts ('a|b')",)
    left = read(words, multilabel="drop")
    assert (left.rows, left.words, left.classes) == ((0, 2), ("a", "b"), ("a", "b"))
    assert left.notes == ("4 images, 2 with several labels and left out",)
    assert read(words, ["a", "a|b", "b", "c | a"]).words == tuple(words)
    with pytest.raises(DataError, match="all images have several labels"):
        read(["a|b"], multilabel="drop")


def test_a_list_written_as_text_is_several_labels() -> None:
    with pytest.raises(
        DataError, match=r"with several labels, the first is 2\.png with '\[0, 1\]'"
    ):
        read(["0", "1", "[0, 1]"])
    assert read(["0", "1", "['1', '0']"], multilabel="first").words == ("0", "1", "1")
    assert read(["(a)", "a"]).classes == ("(a)", "a")


@pytest.mark.parametrize("sign", [";", ",", "/", "+", "&", ""])
def test_other_signs_stand_between_labels_only_where_both_are_labels(sign: str) -> None:
    assert read([f"a{sign} b", "a"]).classes == ("a", f"a{sign} b")
    with pytest.raises(DataError, match=r"3 images, 1 with several labels, the first is 2\.png"):
        read(["a", "b", f"a{sign} b"])


def test_numbers_have_the_order_of_their_size_and_then_of_their_digits() -> None:
    assert order_classes(["10", "2", "01", "1", "1"]) == ("01", "1", "2", "10")
    assert order_classes(["10", "2", "b"]) == ("10", "2", "b")
    assert order_classes(["9" * 5000, "1"]) == ("1", "9" * 5000)
    assert read(["1", "01", "2"]).notes == (
        "classes 01 and 1 are one number and count as two classes",
    )
    assert read(["1", "a", "1.0", "2"]).notes == (
        "classes 1 and 1.0 are one number and count as two classes",
    )


CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("labels", sys.argv[1])
labels = sys.modules["labels"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(labels)  # alone: its package would bring torch along
numbers = [f"{number:0{width}}" for number in range(1, 10) for width in (1, 2, 3)]
options = labels.LabelOptions(ignore_case=True)
print(labels.read_labels("t", numbers, numbers, None, options).classes)
words = [one + other for one in "nN" for other in ("x", "X", "xX", "y", "Y")]
print(labels.read_labels("t", words, words, None, options))
"""


def test_the_order_of_classes_is_one_under_two_hash_seeds() -> None:
    """In a new process each: within one the seed cannot change."""
    said = {
        subprocess.run(
            [sys.executable, "-c", CHILD, str(labels_module.__file__)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert said.pop().startswith("('001', '01', '1', '002', '02', '2', '003'")
