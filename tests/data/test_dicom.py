"""DICOM files as a viewer shows them; the files are pydicom's own."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedrobust.data import dicom
from fedrobust.data.decoding import read_images
from fedrobust.data.dicom import MissingDecoderError
from fedrobust.data.files import open_root
from fedrobust.data.pictures import decode_image
from fedrobust.errors import ConfigError, DataError
from fedrobust.experiment.factories import build_group

pytest.importorskip("pydicom")
pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, of values beside the picture


def stored(name: str) -> bytes:
    import pydicom

    return (Path(str(pydicom.__file__)).parent / "data" / "test_files" / name).read_bytes()


def pixels(
    data: bytes, bits: int | None = None, window: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    return dicom.decode_dicom(data, 10**7, bits, window)[0]


def made(values: Any, **entries: Any) -> bytes:
    """A grey file with these 16-bit values."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    array = np.asarray(values)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = generate_uid()
    file.SOPClassUID = SecondaryCaptureImageStorage
    file.Rows, file.Columns = array.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
    signed = bool(array.min() < 0)
    file.PixelRepresentation = int(signed)
    file.PixelData = array.astype("<i2" if signed else "<u2").tobytes()
    for key, value in entries.items():
        setattr(file, key, value)
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.save_as(out, enforce_file_format=True)
    return out.getvalue()


RAMP = np.array([[0, 100, 200, 300, 400]])
WINDOW: dict[str, Any] = {"WindowCenter": 200, "WindowWidth": 201}


def test_the_window_is_that_of_the_standard() -> None:
    """PS3.3, C.11.2.1.2: linear from centre - 0.5 - (width - 1) / 2 on, width - 1 wide."""
    found = pixels(made(RAMP, **WINDOW))
    assert found.shape == (1, 5, 3)
    assert found[0, :, 0].tolist() == [0, 1, 128, 255, 255]
    exact = pixels(made(RAMP, WindowCenter=200, WindowWidth=200, VOILUTFunction="LINEAR_EXACT"))
    assert exact[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    sigmoid = pixels(made(RAMP, **WINDOW, VOILUTFunction="SIGMOID"))
    expected = 255 / (1 + np.exp(-4 * (RAMP - 200) / 201))
    assert np.abs(sigmoid[..., 0] - expected).max() <= 0.5 + 1e-6


def test_values_are_rescaled_before_the_window() -> None:
    given = made(RAMP, RescaleSlope=2, RescaleIntercept=-200, **WINDOW)
    same = made(2 * RAMP - 200, **WINDOW)
    assert pixels(given).tolist() == pixels(same).tolist()
    # a wanted window stands in the rescaled unit, too, and takes the place of the file's
    assert pixels(given, window=(200, 201)).tolist() == pixels(given).tolist()
    assert pixels(given, window=(0, 11))[0, :, 0].tolist() == [0, 140, 255, 255, 255]


def test_the_first_of_several_windows_counts() -> None:
    several = made(RAMP, WindowCenter=[200, 0], WindowWidth=[201, 5])
    assert pixels(several).tolist() == pixels(made(RAMP, **WINDOW)).tolist()


def test_monochrome1_is_shown_inverted() -> None:
    negative = pixels(made(RAMP, PhotometricInterpretation="MONOCHROME1", **WINDOW))
    positive = pixels(made(RAMP, **WINDOW))
    assert np.abs(255 - negative.astype(int) - positive).max() <= 1  # both are rounded
    assert negative[0, 0, 0] == 255


def test_a_table_of_shown_values_is_applied() -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    table = Dataset()
    table.LUTDescriptor, table.LUTData = [3, 100, 10], [0, 1023, 511]
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    shown = pixels(made(np.array([[0, 100, 101, 102, 60000]]), VOILUTSequence=Items([table])))
    assert shown[0, :, 0].tolist() == [0, 0, 255, 127, 127]


def test_without_a_window_the_stored_bits_state_the_range() -> None:
    twelve = made(np.array([[0, 2048, 4095]]), BitsStored=12, HighBit=11)
    assert dicom.decode_dicom(twelve, 100, None, None)[1] is None
    assert pixels(twelve)[0, :, 0].tolist() == [0, 128, 255]
    signed = made(np.array([[-2048, 0, 2047]]), BitsStored=12, HighBit=11)
    assert pixels(signed)[0, :, 0].tolist() == [0, 128, 255]
    falling = made(np.array([[0, 4095]]), BitsStored=12, HighBit=11, RescaleSlope=-1)
    assert pixels(falling)[0, :, 0].tolist() == [255, 0]
    sixteen = made(np.array([[0, 1023]]))
    assert dicom.decode_dicom(sixteen, 100, None, None)[1] == 1023  # doubtful: asked for data.bits
    assert pixels(sixteen, bits=10)[0, :, 0].tolist() == [0, 255]
    with pytest.raises(ValueError, match="holds the value 1023, which has more than 9 bits"):
        pixels(sixteen, bits=9)
    with pytest.raises(ValueError, match=r"with a sign and without a window.*set data\.window="):
        pixels(stored("CT_small.dcm"))
    assert pixels(stored("CT_small.dcm"), window=(40, 400)).std() > 20


@pytest.mark.parametrize(
    "other",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_one_picture_in_several_encodings_has_the_same_pixels(other: str) -> None:
    assert pixels(stored(other)).tolist() == pixels(stored("MR_small.dcm")).tolist()


def test_colours_are_rgb_whatever_the_file_has() -> None:
    for name in ("SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_ybr_full_422_uncompressed.dcm"):
        found = pixels(stored(name))
        assert found.shape == (100, 100, 3)
        assert found[5, 50].argmax() == 0  # the first stripe is red
        assert np.abs(found[5, 50].astype(int) - (255, 0, 0)).max() <= 3
    palette = pixels(stored("examples_palette.dcm"))
    assert palette.shape == (350, 800, 3)
    assert palette.max() > 200
    assert pixels(stored("examples_jpeg2k.dcm")).shape == (480, 640, 3)
    assert set(np.unique(pixels(stored("liver_1frame.dcm")))) == {0, 255}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SC_rgb_rle_2frame.dcm", "several frames; store one picture a file"),
        ("rtdose_1frame.dcm", r"32-bit pixels \(MONOCHROME2\) are not read"),
        ("SC_rgb_rle_16bit.dcm", r"16-bit pixels \(RGB\) are not read"),
        ("test-SR.dcm", "a DICOM file without a picture"),
        ("image_dfl.dcm", "a deflated DICOM file; store it without compression"),
        ("meta_missing_tsyntax.dcm", "does not say how it is encoded"),
        ("badVR.dcm", "several frames"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_image(stored(name), 16)


def test_unknown_colours_many_pixels_and_cut_files_are_refused() -> None:
    with pytest.raises(ValueError, match="the colour space HSV of 1 channels is not read"):
        pixels(made(RAMP, PhotometricInterpretation="HSV"))
    with pytest.raises(ValueError, match="5x1 pixels are too many"):
        dicom.decode_dicom(made(RAMP, **WINDOW), 4, None, None)
    with pytest.raises(Exception, match="bytes"):
        pixels(stored("MR_truncated.dcm"))
    with pytest.raises(ValueError, match="no JPEG, PNG, BMP, TIFF, WebP, GIF or DICOM"):
        decode_image(stored("no_meta.dcm"), 16)


def test_files_lie_among_images_and_a_missing_package_is_never_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDROBUST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for name in ("MR_small.dcm", "test-SR.dcm"):
        (tmp_path / "set" / name).write_bytes(stored(name))
    files = open_root(tmp_path / "set")
    assert files.images == ["MR_small.dcm", "test-SR.dcm"]
    images, kept, skipped = read_images(files, files.images, 64, on_broken="skip")
    assert kept.tolist() == [0]
    assert images[0].permute(1, 2, 0).tolist() == pixels(stored("MR_small.dcm")).tolist()
    assert skipped == {"test-SR.dcm": "a DICOM file without a picture"}
    other, _, _ = read_images(files, ["MR_small.dcm"], 64, on_broken="error", window=(600, 100))
    assert not (other == images).all()  # another entry of the cache
    (tmp_path / "set" / "a.dcm").write_bytes(stored("MR_small_jpeg_ls_lossless.dcm"))
    with pytest.raises(DataError, match=r"a\.dcm: compressed as JPEG-LS Lossless.*python-gdcm"):
        read_images(open_root(tmp_path / "set"), ["a.dcm"], 64, on_broken="skip")
    dicom._pydicom.cache_clear()
    monkeypatch.setattr(dicom, "find_spec", lambda name: None)
    with pytest.raises(MissingDecoderError, match=r"pydicom; pip install 'fedrobust\[dicom\]'$"):
        pixels(stored("MR_small.dcm"))


@pytest.mark.parametrize("window", [[40], [40, 0], "40", [40, "wide"]])
def test_a_window_is_a_centre_and_a_width(window: object) -> None:
    settings = {
        "_target_": "fedrobust.data.sources.image_folder.image_folder",
        "root": ".",
        "window": window,
    }
    with pytest.raises(ConfigError, match=r"^data\.window=.*: must be null or a list of two numb"):
        build_group({"data": settings}, "data")
