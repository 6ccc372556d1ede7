"""Visits to the members: the same bits for any number of threads, a model for each thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from fedrobust.strategies.distillation import members as scoring
from torch import Tensor

from fedrobust.aggregation.round import Round
from fedrobust.learning.batchnorm import load_and_recalibrate
from fedrobust.learning.classifier import Classifier
from fedrobust.learning.inference import predict_scores
from fedrobust.state import replica
from tests.helpers import clusters


@pytest.fixture(scope="module")
def case() -> Round:
    """Five hospitals, the first with shifted labels."""
    return clusters.one_round()


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scratch_of(case: Round) -> scoring.ScratchModel:
    data, layout = case.server_data, case.updates.layout
    assert layout is not None
    return scoring.ScratchModel(data.model, layout, data.root, data.proxy, True)


def members_of(case: Round) -> scoring.Members:
    return scoring.Members(case.reference, case.updates, torch.tensor([1.0, 0.5, 1.0, 0.3, 1.0]))


def scores(case: Round, threads: int) -> list[Tensor]:
    torch.set_num_threads(threads)
    found = scoring.score_members(
        scratch_of(case), members_of(case), need_root=True, need_proxy=True
    )
    assert torch.get_num_threads() == threads
    return [found.root_NRK, found.proxy_NPK, found.buffers_NB]


@pytest.mark.usefixtures("torch_threads")
def test_the_number_of_threads_changes_no_bit(case: Round) -> None:
    alone = scores(case, 1)
    for threads in (2, 3, 8):
        for one, other in zip(alone, scores(case, threads), strict=True):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("torch_threads")
def test_a_member_has_what_it_gets_when_it_is_placed_alone(case: Round) -> None:
    scratch, members = scratch_of(case), members_of(case)
    root, proxy, buffers = scores(case, 2)
    for n in range(len(case.updates)):
        state = load_and_recalibrate(
            scratch.model, scratch.layout, members.state(n), scratch.proxy_samples.images
        )
        assert torch.allclose(buffers[n], state.buffers, atol=1e-5)
        for seen, samples in ((root, scratch.root_samples), (proxy, scratch.proxy_samples)):
            assert torch.allclose(seen[n], predict_scores(scratch.model, samples.images), atol=1e-5)


def test_a_members_state_is_the_reference_and_its_shortened_update(case: Round) -> None:
    members = members_of(case)
    state = members.state(1)
    assert torch.equal(
        state.parameters, case.reference.parameters + 0.5 * case.updates.matrix_ND[1]
    )
    assert torch.equal(state.buffers, case.updates.buffers_NB[1])


@pytest.mark.usefixtures("torch_threads")
def test_there_are_no_more_models_than_threads(
    case: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Classifier] = []

    def counted(model: Classifier) -> Classifier:
        made.append(replica(model))
        return made[-1]

    monkeypatch.setattr(scoring, "replica", counted)
    scores(case, 3)
    assert len(made) == 2  # and the one that was there


def test_large_passes_and_features_are_for_all_threads_together(case: Round) -> None:
    scratch = scratch_of(case)
    assert scratch.suits_threads
    proxy = scratch.proxy_samples
    side = 1 + int((scoring.SMALL_PASS / len(proxy)) ** 0.5)
    large = replace(proxy, images=torch.zeros(len(proxy), 3, 1, 1).expand(-1, -1, side, side))
    assert not replace(scratch, proxy=large).suits_threads
    features = replace(proxy, images=torch.zeros(len(proxy), 8))
    assert not replace(scratch, proxy=features).suits_threads
