"""Words that cannot be used are refused in one line with the key, the value, the reason and the
remedy, on every command line; Hydra's own refusals are provoked for real."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrobust import ablation, compare, meff, simulate
from fedrobust.errors import ConfigError, DataError
from fedrobust.experiment import compose, factories, overrides, settings
from fedrobust.experiment.choices import choice_names
from fedrobust.federation.server_run import compose_for_sites
from fedrobust.studies.comparison.grid import cells, read_grid
from fedrobust.utils.names import stored_path

ALL_KEYS = "`python -m fedrobust.simulate --cfg job` lists all keys"
RULES, ATTACKS = (
    f"`python -m fedrobust.simulate --help` lists all {len(choice_names(group))}"
    for group in ("strategy", "contamination")
)
QUOTE = "it holds signs with a meaning of their own; quote the value: "
LINES = [
    ("stratgy=krum", "unknown key; did you mean strategy=krum?"),
    ("rouns=3", "unknown key; did you mean rounds=3?"),
    ("server.proxi=3", "unknown key; did you mean server.proxy_images=3?"),
    ("strategy.trustt=gate", "unknown key; did you mean strategy.trust=gate?"),
    ("data.sise=3", "unknown key; did you mean data.size=3?"),
    ("data.colour=3", "unknown key; data has imbalance, num_images, seed, size"),
    ("evalution.batch_size=3", f"unknown key; did you mean evaluation? {ALL_KEYS}"),
    ("rounds.x=3", f"unknown key; {ALL_KEYS}"),
    (
        "client.optimizer.momentum=1",
        "unknown key; a keyword of the library is added with a plus sign: "
        "+client.optimizer.momentum=1",
    ),
    (
        "strategy=krumm",
        f"no such choice; did you mean krum? {RULES}",
    ),
    ("engine=nope", "no such choice; engine can be auto, inline, ray"),
    (
        "experiment=smok",
        "no such choice; did you mean smoke? experiment can be "
        + ", ".join(choice_names("experiment")),
    ),
    (
        "contamination@noise=labelflip",
        f"no such choice; did you mean label_flip or label_pair? {ATTACKS}",
    ),
    ("contamination=qqqq", f"no such choice; {ATTACKS}"),
    (
        "corruption=hairr",
        "corruption is chosen by contamination@corruption=...; did you mean "
        f"contamination@corruption=hair? {ATTACKS}",
    ),
    (
        "noise=clinical_noise",
        "noise is chosen by contamination@noise=...; did you mean "
        f"contamination@noise=clinical_noise? {ATTACKS}",
    ),
    (
        "strategy@x=krum",
        "no such place; known are contamination@noise, contamination@corruption",
    ),
    (
        "strategy=[krum,fedavg]",
        f"must be the name of one choice; {RULES}",
    ),
    (
        "~strategy",
        f"cannot be taken out, only chosen; {RULES}",
    ),
    ("~rouns", f"unknown key, nothing to take out; did you mean ~rounds? {ALL_KEYS}"),
    ("+rounds=3", "rounds is there already; write it without the +"),
    ("+experiment=smoke", "experiment is there already; write it without the +"),
    (
        "data",
        "has no value; write data=... (data can be camelyon17, chexpert, csv, fed_isic2019, "
        "ham10000, image_folder, medmnist, npz, synthetic)",
    ),
    ("rounds", "has no value; write rounds=..."),
    ("=3", "has no key; write key=value"),
    ("@x=3", "has no key; write key=value"),
    ("rounds =3", "no blanks before the =; write rounds=3"),
    ("a b=3", "a b is no key, which has letters, digits, _ and dots; write key=value"),
    ("--rounds=3", "no such option; settings have no dashes, write rounds=3"),
    ("a=[", "cannot be read: [ is never closed; add ]"),
    ("poisoned=[1,2", "cannot be read: [ is never closed; add ]"),
    ("client.lr_plateau={factor: 1", "cannot be read: { is never closed; add }"),
    (
        "poisoned=1]",
        "cannot be read: ] closes nothing; take it out, or quote the value: 'poisoned=\"1]\"'",
    ),
    ("data.name='a", "cannot be read: the quote ' is never closed; add the second one"),
    ('data.name="a', 'cannot be read: the quote " is never closed; add the second one'),
    ("rounds=3=4", f"cannot be read: {QUOTE}'rounds=\"3=4\"'"),
    ("data.name=a(1).csv", f"cannot be read: {QUOTE}'data.name=\"a(1).csv\"'"),
    (
        "rounds=1,2",
        "several values; as one list write rounds=[1,2], as one word 'rounds=\"1,2\"', for a run "
        "with each add --multirun",
    ),
    ("data.size=${nothere}", "there is no key nothere to take the value from"),
    (
        "model.options={layers: 1}",
        "model.options has not all of these keys; to add them write ++model.options={layers: 1}",
    ),
]


@pytest.mark.parametrize(("word", "line"), LINES)
def test_one_line_with_key_value_reason_and_remedy(word: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose(word)
    assert str(caught.value) == f"{word}: {line}"


def test_a_line_of_hydra_s_that_nobody_foresaw_is_one_line() -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE_HERE") as caught:
        compose.compose("rounds=${oc.env:NO_SUCH_VARIABLE_HERE}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("data.path=/a b/c.csv", "/a b/c.csv"),
        ('data.path="/a/b=c.csv"', "/a/b=c.csv"),
        ("data.path='/a(1)/c,d.csv'", "/a(1)/c,d.csv"),
    ],
)
def test_blanks_and_quoted_signs_are_read(words: str, path: str) -> None:
    assert compose.compose("data=csv", words)["data"]["path"] == path


PATHS = (
    *("/d/archive (1)", "/d/Hautl\u00e4sionen", "/d/run=3", "/d/ISIC, 2019", "/d/50%", "/d/x&y#1"),
    *("/d/[x]", "/d/{x", "/d/O'Brien", '/d/a"b', "/d/a'b\"c", "/d/${x}", "~/x", "/d/\u57fa\u5e95"),
    *("/d/a;b|c", "/d/ends with\\", '/d/a\\"b', "/d/ a ", "2019", "null", "'q'", "/d/a,b"),
)

READ_OTHERWISE = ("/d/${x}", "2019", "null", "'q'", "/d/ a ")  # without quotes


@pytest.mark.parametrize("path", PATHS)
def test_a_quoted_path_is_read_as_it_is(path: str) -> None:
    word = f"data.path={overrides.quote_value(path)}"
    assert compose.compose("data=csv", word)["data"]["path"] == path


@pytest.mark.parametrize("path", [path for path in PATHS if path not in READ_OTHERWISE])
def test_a_path_works_or_the_line_says_how_to_quote_it_for_the_shell(path: str) -> None:
    """What is offered gives, typed in a shell, the path itself."""
    word = f"data.path={path}"
    try:
        compose.compose("data=csv", word)
    except ConfigError as error:
        offered = re.search(r"""(?:quote the value:|as one word) ('data\.path=.*')""", str(error))
        (word,) = shlex.split(offered[1] if offered else "nothing was offered")
    assert compose.compose("data=csv", word)["data"]["path"] == path


THERE = ("2019", "null", "true", "1e3", "nan", "'q'", '"q"', "[a]", "${x}", "a${x}b", "~nobody")


@pytest.mark.parametrize("name", THERE)
def test_a_file_that_is_there_as_typed_is_read_or_the_line_says_how_to_quote_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are numbers, lists, other keys or quotes for the reader of settings."""
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    with pytest.raises(ConfigError) as caught:
        compose.compose("data=csv", f"data.path={name}")
    offered = re.search(r"quote the value: ('data\.path=.*')", str(caught.value))
    (word,) = shlex.split(offered[1] if offered else "nothing was offered")
    assert compose.compose("data=csv", word)["data"]["path"] == name
    assert stored_path(name).exists()


def test_without_such_a_file_a_path_may_be_null_or_taken_from_another_key() -> None:
    words = ("data=csv", "data.path=${data.image}", "data.root=null")
    data = compose.compose(*words)["data"]
    assert (data["path"], data["root"]) == ("image", None)


@pytest.mark.parametrize("word", ["data.path=/d/a ", "data.path= a", "rounds= 3"])
def test_blanks_at_the_ends_of_a_value_are_not_taken_off_unsaid(word: str) -> None:
    key, _, value = word.partition("=")
    with pytest.raises(ConfigError) as caught:
        compose.compose("data=csv", word)
    assert str(caught.value) == (
        f"{word}: blanks at the ends of a value are taken off; write {key}={value.strip()}, or "
        f"quote the value if they belong to it: '{key}=\"{value}\"'"
    )


@pytest.mark.parametrize("word", ["data.path=/d/n\udce6vus", "data.path=/d/a\nb"])
def test_words_that_cannot_be_shown_are_refused_in_one_line(word: str) -> None:
    with pytest.raises(ConfigError, match="is not UTF-8, or holds a line break") as caught:
        compose.compose("data=csv", word)
    assert str(caught.value).isprintable()


COMMANDS: tuple[Callable[[], None], ...] = (
    *(simulate.main, compare.main, ablation.main, meff.main),
)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.dimensoin=3"], "model.dimensoin=3: unknown key; did you mean model.dimension=3?"),
        (["data.name=[", "model=small"], "data.name=[: cannot be read: [ is never closed; add ]"),
        (["=3"], "=3: has no key; write key=value"),
        (
            ["model=small", "model=resnet18"],
            "model=resnet18: model=small stands there already; leave one of them out",
        ),
        (
            ["corruption=hair"],
            "corruption=hair: corruption is chosen by contamination@corruption=...; did you mean "
            f"contamination@corruption=hair? {ATTACKS}",
        ),
    ],
)
def test_every_command_line(
    command: Callable[[], None],
    words: list[str],
    line: str,
    *,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_overrides_of_a_flower_run() -> None:
    with pytest.raises(ConfigError, match=r"^roundz=3: unknown key; did you mean rounds=3\?$"):
        compose_for_sites("roundz=3", ())
    with pytest.raises(ConfigError, match=r"^strategy=fedavg: strategy=krum stands there already"):
        compose_for_sites("strategy=krum strategy=fedavg", ())


def test_the_variants_of_a_comparison() -> None:
    words = ("strategies=[{a: 'strategy=krum strategy.ff=1'}]", "poisoned=0")
    line = r"^strategy\.ff=1: unknown key; did you mean strategy\.f=1\?$"
    with pytest.raises(ConfigError, match=line):
        cells(read_grid(words))


def test_options_of_hydra_and_their_values_are_no_settings() -> None:
    words = ["-m", "seed=1,2", "--cfg", "job", "--config-dir", "x", "--package=server"]
    assert compose.check_command_line(words) == words


def test_dictionaries_get_the_nearest_name_too() -> None:
    config = compose.compose()
    with pytest.raises(
        ConfigError, match=r"^stratgy=1: unknown key; did you mean strategy\? known"
    ):
        settings.read_settings({**config, "stratgy": 1})
    server = {**config["server"], "bachnorm": "mean"}
    line = r"^server\.bachnorm=mean: unknown key; did you mean batchnorm\? known"
    with pytest.raises(ConfigError, match=line):
        settings.read_settings({**config, "server": server})
    mean = {"_target_": "fedrobust.strategies.fedavg.fedavg", "weigthing": "uniform"}
    with pytest.raises(
        ConfigError, match=r"weigthing=uniform: unknown setting; did you mean weight"
    ):
        factories.build_group({"strategy": mean}, "strategy")


def test_a_value_that_is_taken_from_a_missing_one() -> None:
    with pytest.raises(ConfigError) as caught:
        compose.compose("data=csv", "data.root=${data.path}")
    assert str(caught.value) == (
        "data.root=${data.path}: data.path, from which it is taken, is missing; set data.path=..."
    )


@pytest.mark.parametrize("address", ["http://a.org/b.csv", "s3://b/c", "HTTPS:/a/b", "file:///a"])
def test_the_address_of_something_elsewhere_is_no_path(address: str) -> None:
    with pytest.raises(DataError, match=f"^{address}: is an address, and nothing is fetched"):
        stored_path(address)


def test_colons_alone_make_no_address() -> None:
    for name in ("a:b", "C:/images", "2019:1/a"):
        assert stored_path(name) == Path(name)
