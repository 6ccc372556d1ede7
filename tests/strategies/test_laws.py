"""The laws of `fedrobust.testing` for every rule; a new yaml in configs/strategy is tested by being
there."""

from __future__ import annotations

from pathlib import Path

import hydra.utils
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fedrobust import configs
from fedrobust.aggregation.round import Strategy
from fedrobust.testing import RULE_LAWS, LawError
from fedrobust.testing.rules import IMAGE_FREE

FILES = sorted((Path(configs.__file__).parent / "strategy").glob("*.yaml"))
BUILT: dict[str, Strategy] = {
    path.stem: hydra.utils.instantiate(OmegaConf.load(path)) for path in FILES
}
PLAIN = [name for name, strategy in BUILT.items() if not strategy.uses]
# laws that a rule does not claim to keep. Most measure from the reference, which a shift does not
# move; LASA leaves out the smallest values of every update
BROKEN = {
    "alignins": ["shift"],
    "centered_clipping": ["shift"],
    "dos": ["shift"],
    "flame": ["shift"],
    "foolsgold": ["shift"],
    "freqfed": ["shift"],
    "lasa": ["shift", "equal_updates", "one_client"],
    "norm_clipping": ["shift"],
    "rlr": ["shift"],
    "signguard": ["shift"],
}


@pytest.mark.parametrize("name", BUILT)
def test_the_yaml_names_its_strategy(name: str) -> None:
    assert BUILT[name].name == name
    assert BUILT[name].uses <= {"root", "proxy"}


@pytest.mark.parametrize("law", RULE_LAWS)
@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32))
def test_every_rule_keeps_the_laws(name: str, law: str, seed: int) -> None:
    if law not in BROKEN.get(name, []):
        RULE_LAWS[law](BUILT[name], seed)


@pytest.mark.parametrize("law", sorted(RULE_LAWS.keys() - IMAGE_FREE))
@pytest.mark.parametrize("name", [name for name, strategy in BUILT.items() if strategy.uses])
def test_every_rule_with_images_keeps_its_laws(name: str, law: str) -> None:
    RULE_LAWS[law](BUILT[name], 0)


@pytest.mark.parametrize(
    ("name", "law"), [(name, law) for name, laws in BROKEN.items() for law in laws]
)
def test_the_others_do_not_keep_that_law(name: str, law: str) -> None:
    with pytest.raises(LawError):  # noqa: PT012
        for seed in range(20):
            RULE_LAWS[law](BUILT[name], seed)
