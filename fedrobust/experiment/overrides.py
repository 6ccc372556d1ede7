"""Words of a command line that cannot be used, in plain words: each refusal is one line with the
key, the value, the reason and the remedy. Reading them is left to Hydra (`compose`)."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fedrobust.errors import ConfigError
from fedrobust.experiment.factories import FACTORY_PACKAGES
from fedrobust.experiment.local_settings import LOCAL
from fedrobust.experiment.own_choices import known_choices
from fedrobust.utils.names import UNSHOWN_KINDS, nearest, shown_name

FEW = 15  # choices that one line names
LISTED_BY = "`python -m fedrobust.simulate --help` lists"
# Groups whose choices are those of another one, and are chosen by this key.
PLACED = {"noise": "contamination@noise", "corruption": "contamination@corruption"}
GROUPS = {*FACTORY_PACKAGES, *PLACED.values(), "experiment"} - set(PLACED)
# Mappings with keywords of a library, which our files do not list.
OPEN = ("client.optimizer", "client.lr_plateau", "model.options", "partition.options")
OPTIONS = {  # of Hydra's command line
    *("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--run", "-r", "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp"),
    *("--config-name", "-cn", "--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
}
PAIRS = {"[": "]", "{": "}", "(": ")"}


def settings_among(words: Sequence[str]) -> Iterator[str]:
    """The words that are settings: no options, nor the values that follow them. Raises ConfigError
    for an option that does not exist."""
    before = ""
    for word in words:
        if word.startswith("-"):
            _check_option(word)
        elif "=" in word or not before.startswith("-"):
            yield word
        before = word


def _check_option(word: str) -> None:
    name, _, value = word.partition("=")
    if name not in OPTIONS:
        key = name.lstrip("-")
        raise ConfigError(
            f"{word}: no such option; settings have no dashes, write {key}={value or '...'}"
        )


def check_words(words: Sequence[str]) -> None:
    """Checks before any file is read. Raises ConfigError."""
    for word in words:
        if shown_name(word) != word:
            raise ConfigError(f"{shown_name(word)}: {UNSHOWN_KINDS}; rename the file or folder")
        sign, key, value = _split(word)
        if word.startswith("-"):
            _check_option(word)
        _check_key(word, key, value)
        if value is not None and value != value.strip():
            raise ConfigError(
                f"{word}: blanks at the ends of a value are taken off; write "
                f"{key}={value.strip()}, or quote the value if they belong to it: "
                f"{_quoted(key, value)}"
            )
        if "@" in key and not sign and key not in GROUPS:
            raise ConfigError(f"{word}: no such place; known are {', '.join(PLACED.values())}")
        if sign == "~" and key in GROUPS:
            raise ConfigError(f"{word}: cannot be taken out, only chosen; {_listed(key, words)}")
        if value is None and sign != "~":
            known = f" ({_listed(key, words)})" if key in GROUPS else ""
            raise ConfigError(f"{word}: has no value; write {key}=...{known}")
        if value is not None and key in PLACED and not value.startswith("{"):
            raise ConfigError(f"{word}: {_misplaced(key, value, words)}")
        if value is not None and key in GROUPS and value[:1] in ("[", "{"):
            raise ConfigError(f"{word}: must be the name of one choice; {_listed(key, words)}")


def check_path(word: str, read: Any) -> None:
    """A file or folder that exists as it was typed is what was meant, whatever else its name can
    be read as (2019, null, ${x}, 'a').

    Args:
        word: one setting.
        read: its value as Hydra reads it.

    Raises:
        ConfigError: the setting is a path, and Hydra reads another one.
    """
    _, key, typed = _split(word)
    if key.rpartition(".")[2] not in LOCAL or not typed or (read == typed and "${" not in typed):
        return
    if os.path.lexists(typed):
        raise ConfigError(
            f"{word}: there is {typed}, but the value has a meaning of its own; for the file or "
            f"folder quote the value: {_quoted(key, typed)}"
        )


def check_once(words: Sequence[str]) -> None:
    """A group is chosen once on a command line. Raises ConfigError."""
    chosen: dict[str, str] = {}
    for word in words:
        _, key, _ = _split(word)
        if key in GROUPS and key in chosen:
            raise ConfigError(f"{word}: {chosen[key]} stands there already; leave one of them out")
        chosen[key] = word


def words_not_given(defaults: Sequence[str], words: Sequence[str]) -> list[str]:
    """Those of a command's own words whose keys the user's words do not set."""
    given = {_split(word)[1] for word in words}
    return [word for word in defaults if _split(word)[1] not in given]


def _split(word: str) -> tuple[str, str, str | None]:
    """(sign, key, value)."""
    key, equal, value = word.partition("=")
    sign = re.match(r"[+~]*", key)
    assert sign is not None
    return sign[0], key[len(sign[0]) :], value if equal else None


def _check_key(word: str, key: str, value: str | None) -> None:
    if not key or key.startswith("@"):
        raise ConfigError(f"{word}: has no key; write key=value")
    if key.strip() != key:
        raise ConfigError(f"{word}: no blanks before the =; write {key.strip()}={value or ''}")
    if not re.fullmatch(r"[\w@./$-]+", key):
        raise ConfigError(
            f"{word}: {key} is no key, which has letters, digits, _ and dots; write key=value"
        )


def _misplaced(key: str, value: str, words: Sequence[str]) -> str:
    there = known_choices("contamination", words)
    name = value if value in there else next(iter(difflib.get_close_matches(value, there, n=1)), "")
    what = f"{key} is chosen by {PLACED[key]}=..."
    remedy = f"did you mean {PLACED[key]}={name}? " if name else ""
    return f"{what}; {remedy}{LISTED_BY} all {len(there)}"


def _listed(group: str, words: Sequence[str]) -> str:
    there = known_choices(group, words)
    if len(there) <= FEW:
        return f"{group} can be {', '.join(there)}"
    return f"{LISTED_BY} all {len(there)}"


def unreadable(word: str) -> ConfigError:
    """The reason why a value cannot be read, in plain words instead of those of Hydra's parser."""
    _, key, value = _split(word)
    return ConfigError(f"{word}: cannot be read: {_fault(key, value or '')}")


def _fault(key: str, value: str) -> str:
    opened: list[str] = []
    quote = ""
    for place, sign in enumerate(value):
        if quote:
            quote = "" if sign == quote and value[place - 1] != "\\" else quote
        elif sign in "'\"":
            quote = sign
        elif sign in PAIRS:
            opened.append(sign)
        elif sign in PAIRS.values() and (not opened or PAIRS[opened.pop()] != sign):
            return f"{sign} closes nothing; take it out, or quote the value: {_quoted(key, value)}"
    if quote and value.startswith(quote):
        return f"the quote {quote} is never closed; add the second one"
    if opened and value[0] in PAIRS:
        return f"{opened[-1]} is never closed; add {PAIRS[opened[-1]]}"
    return f"it holds signs with a meaning of their own; quote the value: {_quoted(key, value)}"


def _quoted(key: str, value: str) -> str:
    """Quoted for a shell, whose quotes Hydra does not see."""
    return shlex.quote(f"{key}={quote_value(value)}")


def quote_value(value: str) -> str:
    """A text for Hydra, whatever signs it holds: `data.root={quote_value(folder)}`."""
    inner = re.sub(r'(\\*)"', r'\1\1\\"', value)
    inner = re.sub(r"(\\+)\Z", r"\1\1", inner)
    return '"' + inner.replace("${", "\\${") + '"'


def refusal(text: str, words: Sequence[str], known: Callable[[], Mapping[str, Any]]) -> str:
    """The line for a refusal of Hydra.

    Args:
        text: Hydra's message.
        words: what stood on the command line.
        known: gives the configuration without the settings of single keys, for the names in it.

    Returns:
        One line; of a message that is not known, its first 300 characters.
    """
    forms: dict[str, Callable[[re.Match[str]], str]] = {
        r"Could not override '([^']+)'": lambda m: _unknown_key(m[1], words, known),
        r"Could not find '([^']+)'\s*Available options in '([^']+)':\s*(.*)": (
            lambda m: _unknown_choice(m, words)
        ),
        r"An item is already at '([^']+)'": lambda m: _there_already(m[1], words),
        r"Multiple values for (\S+)\. To override a value use": (
            lambda m: _there_already(m[1], words)
        ),
        r"Could not delete from config\. '([^']+)' does not exist": (
            lambda m: _nothing_to_delete(m[1], known)
        ),
        r"(?:Ambiguous value for argument|Sweep parameters) '([^']+)'": (lambda m: _several(m[1])),
        r"Interpolation key '([^']+)' not found\s+full_key: (\S+)": (
            lambda m: f"{_word(m[2], words)}: there is no key {m[1]} to take the value from"
        ),
        r"Missing mandatory value: (\S+)\s+full_key: (\S+)": (
            lambda m: (
                f"{_word(m[2], words)}: {m[1]}, from which it is taken, is missing; set {m[1]}=..."
            )
        ),
    }
    for pattern, line in forms.items():
        if match := re.search(pattern, text, re.DOTALL):
            return line(match)
    return "; ".join(line.strip() for line in text.split("\n") if line.strip())[:300]


_ALL_KEYS = "`python -m fedrobust.simulate --cfg job` lists all keys"


def _word(key: str, words: Sequence[str]) -> str:
    """The word that sets a key."""
    return next((word for word in words if _split(word)[1] == key), key)


def _there_already(key: str, words: Sequence[str]) -> str:
    return f"{_word(key, words)}: {key} is there already; write it without the +"


def _several(word: str) -> str:
    _, key, value = _split(word)
    return (
        f"{word}: several values; as one list write {key}=[{value}], as one word "
        f"{_quoted(key, value or '')}, for a run with each add --multirun"
    )


def _nothing_to_delete(key: str, known: Callable[[], Mapping[str, Any]]) -> str:
    near = nearest(key, _keys(known()))
    hint = f"did you mean ~{near}? " if near else ""
    return f"~{key}: unknown key, nothing to take out; {hint}{_ALL_KEYS}"


def _unknown_key(key: str, words: Sequence[str], known: Callable[[], Mapping[str, Any]]) -> str:
    parent, _, last = key.rpartition(".")
    word = _word(key, words)
    sign, _, value = _split(word)
    if parent in OPEN:  # keywords of torch and timm are added, not set
        return f"{word}: unknown key; a keyword of the library is added with a plus sign: +{word}"
    config = known()
    inside: Any = config
    for part in parent.split(".") if parent else ():
        inside = inside.get(part) if isinstance(inside, Mapping) else None
    names = [str(one) for one in inside if one != "_target_"] if isinstance(inside, Mapping) else []
    if last in names:  # what is not there is inside the value
        return f"{word}: {key} has not all of these keys; to add them write ++{key}={value}"
    near = nearest(last, names)
    if near:
        right = f"{sign}{parent and parent + '.'}{near}" + ("" if value is None else f"={value}")
        return f"{word}: unknown key; did you mean {right}?"
    if names and parent:
        return f"{word}: unknown key; {parent} has {', '.join(sorted(names))}"
    near = nearest(parent or key, _keys(config))
    hint = f"did you mean {near}? " if near and near != parent else ""
    return f"{word}: unknown key; {hint}{_ALL_KEYS}"


def _keys(config: Mapping[str, Any], above: str = "") -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        found.append(f"{above}{key}")
        if isinstance(value, Mapping):
            found += _keys(value, f"{above}{key}.")
    return found


def _unknown_choice(missing: re.Match[str], words: Sequence[str]) -> str:
    """All choices of a small group, of a large one those that look like the word."""
    place, _, name = missing[1].rpartition("/")
    group, options = missing[2], missing[3].split("Config search path")[0].split()
    found = [word for word in words if _split(word)[1].partition("@")[0] == place]
    word = next((one for one in found if _split(one)[2] == name), f"{place}={name}")
    near = difflib.get_close_matches(name, options, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if len(options) <= FEW:
        return f"{word}: no such choice; {hint}{group} can be {', '.join(options)}"
    return f"{word}: no such choice; {hint}{LISTED_BY} all {len(options)}"
