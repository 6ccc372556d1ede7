"""Old names of settings: accepted for one release, with one line on stderr that names the new one;
and settings that configurations of an older version lack.

Words of a command line are renamed before Hydra reads them, configurations (manifests of older
runs, messages of older servers, a user's own yaml files) before anything is looked up in them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedrobust.experiment.old_targets import OLD_TARGETS
from fedrobust.utils.notices import note
from fedrobust.utils.plugins import PLUGINS, package_of

_PAIRWISE = {"full": "kl", "ground_truth": "true_class", "inner_product": "true_class"}
# Groups whose factories may hold a further one of the same group in a setting.
_NESTED = {"strategy": "aggregation"}


@dataclass(frozen=True, slots=True)
class RenamedKey:
    """A key of a group (or of `server`) that has a new name.

    Args:
        group: the key's first part.
        old: what followed it.
        new: what follows it now; with a dot where it has moved into a group inside the group.
        choices: of the group, by their old and new names, that have the key; empty: all of ours.
        values: {old value: new value}; others stay.
    """

    group: str
    old: str
    new: str
    choices: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


KEYS = (
    RenamedKey("server", "buffers", "batchnorm"),
    RenamedKey("server", "proxy", "proxy_images"),
    RenamedKey("server", "matrix_mb", "max_updates_mb"),
    RenamedKey("server", "scratch", "scratch_dir"),
    RenamedKey("client", "clip", "max_grad_norm"),
    RenamedKey("client", "plateau", "lr_plateau"),
    RenamedKey("client", "term", "distillation_loss", ("mutual", "global_distillation"), _PAIRWISE),
    RenamedKey("client", "reading", "distillation_loss", ("cohort", "mutual_learning"), _PAIRWISE),
    RenamedKey("strategy", "reading", "distillation_loss", ("etf_dml",), _PAIRWISE),
    RenamedKey("strategy", "fallback", "revert_if_worse", ("etf_dml",)),
    RenamedKey("strategy", "revert_if_misaligned", "revert_if_worse", ("etf_dml",)),
    RenamedKey("strategy", "cohort", "cohort_size", ("etf_dml",)),
    RenamedKey("strategy", "confidence", "kappa", ("foolsgold",)),
    RenamedKey("strategy", "nu", "smoothing", ("geometric_median",)),
    RenamedKey("evaluation", "draws", "bootstrap_samples"),
    RenamedKey("evaluation", "eot_draws", "evasion_evaluation.eot_samples"),
    *(
        RenamedKey("evaluation", name, f"evasion_evaluation.{name}")
        for name in (
            "eps_255",
            "threat_models",
            "eot_samples",
            "adversarial_images",
            "adversarial_clients",
            "fusion",
        )
    ),
)
# Settings that configurations of an older version lack, with what they had without saying so.
ADDED: Mapping[str, Mapping[str, Any]] = {"server": {"max_share": None}}
# Whole parts, likewise; a configuration is whole if it has an engine.
ADDED_GROUPS: Mapping[str, Mapping[str, Any]] = {
    "tracker": {"_target_": "fedrobust.reporting.trackers.none"},
    "stop_when": {
        "metric": None,
        "patience": 10,
        "min_delta": 0.0,
        "seconds": None,
        "epsilon": None,
    },
    "schedule": {
        "from_round": 1,
        "until_round": None,
        "trusted_at": None,
        "distrusted": "attack",
        "afterwards": "behave",
    },
    "certificate": {"groups": None, "group_size": None, "alpha": 0.001},
}
PARTICIPANTS = "participants"  # likewise
CHOICES: dict[str, dict[str, str]] = {
    "client": {"cohort": "mutual_learning", "mutual": "global_distillation"}
}
_WORD = re.compile(
    r"(?P<sign>\+{0,2}|~)(?P<key>[^=+~@]+)(?P<rest>@[^=]*)?(?:=(?P<value>.*))?", re.S
)
_SIMPLE = re.compile(r"[\w,'\" \[\]]*")


@functools.cache
def tell(old: str, new: str) -> None:
    """Say on stderr, once in a process, which name has taken the place of an old one."""
    note(f"note: {old} is now {new}; the old name works for one more release")


def rename_words(words: Sequence[str]) -> list[str]:
    """Overrides of a command line with today's names; words that are no overrides stay."""
    chosen = _chosen(words)
    return [_rename_word(word, chosen) for word in words]


def _chosen(words: Sequence[str]) -> dict[str, set[str]]:
    """{group: its choices among these words}."""
    found: dict[str, set[str]] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match and match["value"] is not None and "." not in match["key"]:
            found.setdefault(match["key"], set()).update(re.split(r"[,\s]+", match["value"]))
    return found


def _rename_word(word: str, chosen: Mapping[str, set[str]]) -> str:
    match = _WORD.fullmatch(word)
    if match is None or word.startswith("-"):
        return word
    key, value = match["key"], match["value"]
    new_key, values = (key, CHOICES[key]) if key in CHOICES else _new_key(key, chosen)
    new_value = _new_value(value, values)
    if (new_key, new_value) == (key, value):
        return word
    tell(_setting(key, value, values), _setting(new_key, new_value, values))
    tail = "" if new_value is None else f"={new_value}"
    return f"{match['sign']}{new_key}{match['rest'] or ''}{tail}"


def _setting(key: str, value: object, values: Mapping[str, str]) -> str:
    """A key, with its value where values have new names too."""
    return f"{key}={value}" if values and value is not None else key


def _new_value(value: str | None, values: Mapping[str, str]) -> str | None:
    """Also of a sweep, as in a,b."""
    if value is None or not values or not _SIMPLE.fullmatch(value):
        return value
    return re.sub(r"\w+", lambda one: values.get(one[0], one[0]), value)


def _new_key(key: str, chosen: Mapping[str, set[str]]) -> tuple[str, Mapping[str, str]]:
    group, _, rest = key.partition(".")
    inner = f"{_NESTED[group]}." if group in _NESTED else None
    if inner and rest.startswith(inner):  # which rule stands there is not known
        new, values = _new_key(f"{group}.{rest.removeprefix(inner)}", {})
        return f"{group}.{inner}{new.removeprefix(f'{group}.')}", values
    for one in KEYS:
        if one.group != group or not (rest == one.old or rest.startswith(f"{one.old}.")):
            continue
        if not one.choices or group not in chosen or chosen[group] & set(one.choices):
            return f"{group}.{one.new}{rest.removeprefix(one.old)}", one.values
    return key, {}


def rename_config(config: Mapping[str, Any], words: Sequence[str] = ()) -> dict[str, Any]:
    """A configuration with today's names; the given one is not changed.

    Old names win over new ones: our own files never hold them, so a user wrote them. Words win
    over both.

    Args:
        config: the configuration.
        words: of the command line, with today's names, that are in it already.
    """
    typed = {match["key"] for match in map(_WORD.fullmatch, words) if match}
    found = {str(group): _rename_group(str(group), inner, typed) for group, inner in config.items()}
    for group, added in ADDED.items():
        if isinstance(found.get(group), Mapping):
            found[group] = {**added, **found[group]}
    if "engine" in found:
        groups = {group: dict(added) for group, added in ADDED_GROUPS.items()}
        found = {**groups, PLUGINS: [], PARTICIPANTS: None, **found}
    return found


def _rename_group(group: str, settings: Any, typed: Collection[str] = ()) -> Any:
    """The settings of one group, and those that lie inside them with a `_target_` of their own.
    typed: keys, in today's names, whose values stay."""
    if not isinstance(settings, Mapping):
        return settings
    found: dict[str, Any] = {
        key: _rename_group(group, value)
        if isinstance(value, Mapping) and "_target_" in value
        else [_rename_group(group, one) for one in value]
        if isinstance(value, list)
        else value
        for key, value in settings.items()
    }
    target = found.get("_target_")
    if isinstance(target, str) and target in OLD_TARGETS:
        tell(f"{group}._target_={target}", OLD_TARGETS[target])
        found["_target_"] = OLD_TARGETS[target]
    for one in _renamed_in(group, found):
        value = found.pop(one.old)
        new = one.values.get(value, value) if isinstance(value, str) else value
        values = one.values if isinstance(value, str) else {}
        tell(
            _setting(f"{group}.{one.old}", value, values),
            _setting(f"{group}.{one.new}", new, values),
        )
        if f"{group}.{one.new}" not in typed:
            _put(found, one.new, new)
    return found


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, also one inside groups; the mappings there are copied first."""
    *groups, last = key.split(".")
    for group in groups:
        inner = settings.get(group)
        settings[group] = dict(inner) if isinstance(inner, Mapping) else {}
        settings = settings[group]
    settings[last] = value


def _renamed_in(group: str, settings: Mapping[str, Any]) -> Iterator[RenamedKey]:
    """A plug-in's factory has no old names."""
    target = str(settings.get("_target_", ""))
    factory = target.rpartition(".")[2]
    if target and package_of(target) != "fedrobust":
        return
    for one in KEYS:
        if one.group == group and one.old in settings and factory in (one.choices or (factory,)):
            yield one
