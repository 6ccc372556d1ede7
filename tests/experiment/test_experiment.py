"""Meaning of a configuration: roles, shards and contaminations of clients; and what is refused
before anything starts."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrobust.data import TEST, TRAIN, VALIDATION, Dataset
from fedrobust.errors import ConfigError
from fedrobust.experiment import build
from fedrobust.experiment import settings as config
from fedrobust.experiment.experiment import assign_roles
from fedrobust.experiment.settings import NEVER
from fedrobust.types import Samples
from fedrobust.utils.images import as_unit
from tests.helpers import federations

LESS = settings(max_examples=40)


def ids(found: tuple[str, ...], kind: str) -> set[int]:
    return {client for client, one in enumerate(found) if one == kind}


@LESS
@given(n=st.integers(1, 20), data=st.data(), seed=st.integers(0, 99))
def test_drawn_kinds_have_the_wanted_numbers_and_contain_the_fewer(
    n: int, data: st.DataObject, seed: int
) -> None:
    poisoned = data.draw(st.integers(0, n))
    noisy = data.draw(st.integers(0, n - poisoned))
    found = assign_roles(n, poisoned, noisy, seed)
    assert (len(found), len(ids(found, "poisoned")), len(ids(found, "noisy"))) == (
        n,
        poisoned,
        noisy,
    )
    assert found == assign_roles(n, poisoned, noisy, seed)
    for fewer in range(poisoned):
        assert ids(assign_roles(n, fewer, noisy, seed), "poisoned") <= ids(found, "poisoned")
    for fewer in range(noisy):
        assert ids(assign_roles(n, poisoned, fewer, seed), "noisy") <= ids(found, "noisy")
    # noisy ones do not disturb the poisoned
    assert ids(assign_roles(n, poisoned, 0, seed), "poisoned") == ids(found, "poisoned")


@LESS
@given(n=st.integers(1, 20), data=st.data(), seed=st.integers(0, 99))
def test_given_lists_are_taken_as_they_are(n: int, data: st.DataObject, seed: int) -> None:
    order = data.draw(st.permutations(range(n)))
    some = data.draw(st.integers(0, n))
    rest = data.draw(st.integers(0, n - some))
    assert ids(assign_roles(n, rest, order[:some], seed), "noisy") == set(order[:some])
    assert len(ids(assign_roles(n, rest, order[:some], seed), "poisoned")) == rest
    both = assign_roles(n, order[:some], order[some : some + rest], seed)
    assert (ids(both, "poisoned"), ids(both, "noisy")) == (
        set(order[:some]),
        set(order[some : some + rest]),
    )


def test_seeds_draw_other_clients() -> None:
    assert len({assign_roles(20, 5, 0, seed) for seed in range(10)}) > 5


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "by_site"])
def test_every_image_is_in_one_place_and_the_server_s_come_from_training(partition: str) -> None:
    study = federations.build_experiment(f"partition={partition}", "data.num_images=600")
    everything = torch.cat([*study.parts, study.root, study.proxy])
    assert torch.equal(everything.sort().values, torch.arange(600))
    own = torch.cat([study.root, study.proxy])
    assert (study.dataset.splits[own] == TRAIN).all()
    assert torch.equal(
        torch.bincount(study.dataset.labels[study.root], minlength=7), torch.full((7,), 4)
    )
    assert len(study.proxy) == 32
    groups = study.dataset.groups  # a lesion's two photographs must not lie on both sides
    assert not set(groups[own].tolist()) & set(groups[torch.cat(study.parts)].tolist())
    assert sorted(study.test_rows().tolist()) == sorted(
        row for client in range(3) for row in study.rows(client, TEST).tolist()
    )
    for client in range(3):
        assert [len(study.rows(client, split)) > 0 for split in (TRAIN, VALIDATION, TEST)] == [
            True
        ] * 3


def test_a_label_flipper_s_shard_has_wrong_labels_in_an_exact_share_and_a_clean_test_part() -> None:
    # shift by one class, all classes eligible
    study = federations.build_experiment("poisoned=[1]", "contamination.rate=0.5")
    shard = study.shard(1)
    for split, part in ((TRAIN, shard.train), (VALIDATION, shard.validation)):
        truth = study.samples(study.rows(1, split))
        wrong = part.labels != truth.labels
        assert int(wrong.sum()) == round(0.5 * len(truth))
        assert torch.equal(part.labels[wrong], (truth.labels[wrong] + 1) % 7)
        assert torch.equal(part.images, truth.images)
    assert same(shard.test, study.samples(study.rows(1, TEST)))
    clean, contaminated = study.client_test_sets(1)
    assert same(clean, shard.test)
    # labels alone changed: the images need no second look
    assert contaminated.images is clean.images
    assert int((contaminated.labels != clean.labels).sum()) == round(0.5 * len(clean))


def test_a_noisy_hospital_s_images_differ_and_its_parts_have_noise_of_their_own() -> None:
    study = federations.build_experiment(
        "poisoned=0", "noisy=[0]", "contamination@noise=gaussian_noise", "noise.std=0.1"
    )
    shard, truth = study.shard(0), study.samples(study.rows(0, TRAIN))
    noise = shard.train.images - as_unit(truth.images)
    assert 0.05 < float(noise.std()) < 0.11
    assert torch.equal(shard.train.labels, truth.labels)
    validation = shard.validation.images - as_unit(study.samples(study.rows(0, VALIDATION)).images)
    count = min(len(noise), len(validation))
    assert not torch.equal(noise[:count], validation[:count])


def test_a_clean_hospital_s_shard_is_its_images() -> None:
    study = federations.build_experiment("poisoned=[1]")
    shard = study.shard(0)
    assert same(shard.train, study.samples(study.rows(0, TRAIN)))
    assert same(shard.validation, study.samples(study.rows(0, VALIDATION)))
    clean, contaminated = study.client_test_sets(0)
    assert contaminated is clean
    assert study.contamination(0).name == "clean"


def same(one: Samples, two: Samples) -> bool:
    return torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


def test_the_same_text_means_the_same_everywhere() -> None:
    settings_ = federations.compose_settings(
        "poisoned=1", "noisy=1", "partition=dirichlet", "data.num_images=600"
    )
    one, two = (
        build.build_experiment(settings_),
        build.build_experiment(json.loads(config.to_json(settings_))),
    )
    assert one.text == two.text == config.to_json(settings_)
    assert one.roles == two.roles
    pairs = [(one.root, two.root), (one.proxy, two.proxy), *zip(one.parts, two.parts, strict=True)]
    assert all(torch.equal(a, b) for a, b in pairs)
    for client in range(3):
        a, b = one.shard(client), two.shard(client)
        assert same(a.train, b.train)
        assert same(a.validation, b.validation)
        assert all(
            same(x, y)
            for x, y in zip(one.client_test_sets(client), two.client_test_sets(client), strict=True)
        )
    assert same(one.validation(), two.validation())
    clean = one.samples(one.test_rows())
    assert same(one.corrupt(clean), two.corrupt(clean))
    assert not torch.equal(one.corrupt(clean).images, as_unit(clean.images))


def test_another_seed_shares_the_images_out_anew_and_keeps_the_test_set() -> None:
    one, two = federations.build_experiment(), federations.build_experiment("seed=1")
    assert not torch.equal(one.parts[0], two.parts[0])
    assert torch.equal(one.test_rows(), two.test_rows())
    assert one.dataset.digest == two.dataset.digest


def test_validation_images_are_bounded_and_all_of_that_split() -> None:
    study = federations.build_experiment("evaluation.validation_images=20")
    assert len(study.validation()) == 20
    whole = federations.build_experiment()
    assert len(whole.validation()) == int((whole.dataset.splits == VALIDATION).sum())


def test_the_clean_twin_is_the_same_run_without_contamination() -> None:
    settings_ = federations.compose_settings("poisoned=[0]", "noisy=[2]")
    kept = json.dumps(settings_)
    study = build.build_experiment(settings_)
    twin = study.clean_twin()
    assert json.dumps(settings_) == kept
    assert twin.roles == ("clean",) * 3
    assert [study.clients_of_kind(kind) for kind in ("clean", "noisy", "poisoned")] == [
        [1],
        [2],
        [0],
    ]
    assert all(torch.equal(a, b) for a, b in zip(study.parts, twin.parts, strict=True))
    assert same(study.shard(1).train, twin.shard(1).train)
    assert {key for key in settings_ if settings_[key] != twin.config[key]} == {"poisoned", "noisy"}
    anew = build.build_experiment(twin.config)
    assert (twin.text, twin.roles) == (anew.text, anew.roles)
    assert all(torch.equal(a, b) for a, b in zip(twin.parts, anew.parts, strict=True))
    assert (twin.dataset, twin.parts, twin.model) == (study.dataset, study.parts, study.model)


def test_a_twin_has_as_many_rounds_as_its_run_and_does_not_stop_by_itself() -> None:
    study = federations.build_experiment("rounds=9", "stop_when.seconds=5", "poisoned=1")
    assert study.clean_twin(9).text == study.clean_twin().text
    twin = study.clean_twin(3)
    assert twin.settings.rounds == 3
    assert twin.settings.stop_when == NEVER
    shorter = federations.build_experiment("rounds=3", "poisoned=1").clean_twin()
    assert twin.text == shorter.text


def test_clients_of_the_process_that_built_an_experiment_get_that_one() -> None:
    study = federations.build_experiment("poisoned=1")
    assert build.from_text(study.text) is study
    twin = build.remember(study.clean_twin())
    assert build.from_text(twin.text) is twin
    assert build.from_text(study.text) is study
    for seed in range(1, 5):  # four are kept
        federations.build_experiment(f"seed={seed}")
    assert build.from_text(study.text) is not study
    assert build.from_text(study.text).text == study.text


def test_a_text_that_no_client_could_read_is_refused_where_it_is_built() -> None:
    for changed, line in (
        ({"seed": 10**20}, "experiment: a whole number of 21 digits"),
        ({"device": "cpu\n"}, "experiment: holds signs that cannot be printed"),
        ({"device": "c" * (1 << 20)}, "characters, more than"),
    ):
        with pytest.raises(ConfigError, match=line):
            build.build_experiment({**federations.compose_settings(), **changed})


def test_the_data_are_loaded_once_for_equal_settings() -> None:
    one, two = federations.build_experiment("seed=3"), federations.build_experiment("seed=4")
    assert one.dataset is two.dataset


LEAVING = ("rounds=3", "schedule.until_round=1", "schedule.afterwards=leave")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["server.root_per_class=0"],
            (
                "server.root_per_class=0: strategy=etf_dml needs root "
                "images; set server.root_per_class=8 or"
            ),
        ),
        (
            ["strategy=krum"],
            (
                "strategy.f=3: strategy=krum then needs at least 9 clients a round, and "
                "num_clients=3; lower strategy.f, or raise num_clients to 9"
            ),
        ),
        (["strategy=trimmed_mean"], "strategy.f=3: strategy=trimmed_mean then needs at least 7"),
        (
            ["strategy=fedavg", "preaggregation=nnm", "clients_per_round=2"],
            "preaggregation.f=3: strategy=nnm+fedavg then needs at least 7 clients a round, and "
            "clients_per_round=2; lower preaggregation.f, or raise clients_per_round to 7",
        ),
        (
            ["strategy=krum", "preaggregation=bucketing"],
            "strategy.f=3: strategy=bucketing+krum then needs at least 17",
        ),
        (
            ["+strategy.aggregation={_target_:fedrobust.strategies.krum.krum,f:2}"],
            "strategy.aggregation.f=2: strategy=etf_dml then needs at least",
        ),
        (["strategy.cohort_size=3"], "strategy.cohort_size=3: strategy=etf_dml then needs at"),
        (["strategy=rlr", "strategy.threshold=9"], "strategy.threshold=9: strategy=rlr then needs"),
        (["data=csv"], "data.path: is missing (the csv file); set data.path=..."),
        (["data=ham10000"], "data.root: is missing (folder with HAM10000_metadata and the images"),
        (["strategy=krum", "strategy.f=???"], "strategy.f: is missing (attackers"),
        (["client.optimizer.lr=???"], "client.optimizer.lr: is missing; set client.optimizer.lr="),
        (["++model.options={a: [1,???]}"], "model.options.a.1: is missing; set model.options.a.1="),
        (["rounds=???"], "rounds: is missing; set rounds=..."),
        (["server.max_failures=???"], "server.max_failures: is missing; set server.max_failures="),
        (
            ["model.head=linear"],
            ("client.loss=dot_regression: needs model.head=etf; use client.loss=cross_entropy"),
        ),
        (
            ["client.loss=forward_correction", "client.robust_loss.confusion=[[1,0],[0,1]]"],
            "client.robust_loss.confusion=[[1, 0], [0, 1]]: must be 7 rows of 7 probabilities",
        ),
        (
            ["client.loss=forward_correction", "client.robust_loss.warmup=9"],
            "client.robust_loss.warmup=9: no round of rounds=",
        ),
        (["client=fednoro"], "strategy=fednoro alone, which answers it; set both"),
        (
            [
                "client=fedcorr",
                "strategy=fedcorr",
                "rounds=9",
                "poisoned=1",
                "contamination=label_error",
                "schedule.from_round=4",
            ],
            "schedule.from_round=4: contamination=label_error changes training data in some",
        ),
        (
            ["client=fedcorr", "strategy=fedcorr"],
            "strategy.preprocessing=3, strategy.finetuning=3: no round would be left of rounds=",
        ),
        (
            ["client=fedcorr", "strategy=fedcorr", "rounds=9", "sanitiser=sphere"],
            "sanitiser=sphere: leaves out other images in every round",
        ),
        (
            [
                *LEAVING,
                "participants=[0,1]",
                "poisoned=[0,1]",
                "strategy=fedavg",
            ],
            "schedule.afterwards=leave: 0 clients would be left, and strategy=fedavg needs at "
            "least 1; set schedule.afterwards=behave",
        ),
        (
            [*LEAVING, "poisoned=[0]", "strategy=fedavg", "certificate.groups=3"],
            "certificate.groups=3: cannot be combined with schedule.afterwards=leave",
        ),
        (
            ["poisoned=[0]", "contamination=backdoor_chameleon", "client=fedrep"],
            "contamination=backdoor_chameleon: trains the classifier alone in its second stage, "
            "and client=fedrep",
        ),
        (
            ["strategy=fedloge"],
            "strategy=fedloge: realigns the class vectors of the last layer, and model.head=etf",
        ),
        (
            ["strategy=deepsight", "client=fedper", "model.hidden=[8]"],
            "strategy=deepsight: inspects the update of the model's last layer, and client=fedper",
        ),
        (
            ["strategy=alignins", "clients_per_round=2"],
            "strategy=alignins: needs at least 3 clients a round, and clients_per_round=2; raise "
            "clients_per_round to 3",
        ),
        (["strategy=fednoro"], "strategy=fednoro: works with client=fednoro alone"),
        (
            ["client=fednoro", "strategy=fednoro", "strategy.warmup=9"],
            "strategy.warmup=9: no round would be left of rounds=",
        ),
        (
            ["client=fednoro", "strategy=fednoro", "strategy.warmup=1", "preaggregation=clipping"],
            "preaggregation=clipping: mixes the updates of clients",
        ),
        (
            ["client=fednoro", "strategy=fednoro", "strategy.warmup=1", "privacy=local_dp"],
            "client=fednoro: hospitals report numbers about their labels",
        ),
        (
            [
                "client=fednoro",
                "strategy=fednoro",
                "strategy.warmup=1",
                "privacy=secure_aggregation",
            ],
            "strategy=fednoro: looks at single updates",
        ),
        (["client.robust_loss.q=0"], "client.robust_loss.q=0: must be greater than 0"),
        (["client.rect_scope=global"], "client.rect_scope=global: must be one of batch, client"),
        (["poisoned=4"], "poisoned=4: more than num_clients=3; lower it"),
        (["rounds=0"], "rounds=0: must be at least 1"),
        (["contamination.rate=2"], "contamination.rate=2: must be at most 1"),
        (
            ["contamination.shift=7"],
            ("contamination.shift=7: leaves all 7 classes as they are; try contamination.shift=1"),
        ),
        (["noise.std=-1"], "noise.std=-1: must be at least 0"),
        (["corruption.severity=6"], "corruption.severity=6: must be at most 5"),
        (["client.epochs=many"], "client.epochs=many: must be a whole number"),
        (
            ["evaluation.bootstrap_samples=-1"],
            "evaluation.bootstrap_samples=-1: must be at least 0",
        ),
        (["evaluation.twin=1"], "evaluation.twin=1: must be true or false"),
        (["server.proxy_images=100000"], "server.proxy_images=100000"),
        (["server.root_per_class=1000"], "server.root_per_class=1000"),
        (["num_clients=200"], "num_clients: 200 clients cannot have"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError) as error:
        build.build_experiment(federations.compose_settings(*overrides))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["schedule.until_round=7", "schedule.afterwards=leave"],
        ["schedule.from_round=4", "contamination=sign_flip"],
    ],
)
def test_fedcorr_bears_a_schedule_that_leaves_the_labels_alike(words: list[str]) -> None:
    pair = ["client=fedcorr", "strategy=fedcorr", "rounds=9", "poisoned=1"]
    federations.build_experiment(*pair, "contamination=label_error", *words)


def test_without_trust_no_root_images_are_needed() -> None:
    study = federations.build_experiment("server.root_per_class=0", "strategy.trust=none")
    assert len(study.root) == 0
    assert len(study.samples(study.root)) == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["purifier=tv", "server.batchnorm=mean"], "purifier=tv"),
        (["server.batchnorm=recalibrate"], "recalibrate"),
        (["purifier=tv", "server.batchnorm=mean", "evaluation.purified_statistics=false"], None),
        (["server.batchnorm=mean"], None),
    ],
)
def test_whole_patients_may_give_too_few_proxy_images(
    words: list[str], what: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carved(
        dataset: Dataset, root: int, proxy: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        rows = torch.arange(len(dataset))
        return rows[:0], rows[:1], rows[1:]  # one image, where two were asked for

    monkeypatch.setattr(build, "reserve_server_data", carved)
    given = ("server.proxy_images=2", "server.root_per_class=0", "strategy=fedavg", *words)
    if what is None:
        # not `experiment`, which keeps what it built
        assert len(build.build_experiment(federations.compose_settings(*given)).proxy) == 1
    else:
        with pytest.raises(
            ConfigError,
            match=rf"server\.proxy_images=2: whole patients or lesions gave 1 image, {what} "
            r"needs 2; raise it",
        ):
            build.build_experiment(federations.compose_settings(*given))


def test_participants_alone_train_and_decide_whether_there_is_contamination() -> None:
    words = ("num_clients=5", "poisoned=[3]", "server.batchnorm=mean", "strategy=fedavg")
    some = federations.build_experiment(*words, "participants=[4,0,1]")
    assert [some.participants(number) for number in (1, 2)] == [[0, 1, 4]] * 2
    assert not some.contaminated  # the poisoned one does not train
    assert federations.build_experiment(*words, "participants=[3]").contaminated
    drawn = federations.build_experiment(*words, "participants=[0,1,4]", "clients_per_round=2")
    rounds = [tuple(drawn.participants(number)) for number in range(1, 9)]
    assert all(len(one) == 2 and {*one} <= {0, 1, 4} for one in rounds)
    assert len({*rounds}) > 1
