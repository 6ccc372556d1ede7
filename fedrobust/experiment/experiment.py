"""An experiment: everything that a configuration means, built the same way in every process that
gets its text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedrobust.aggregation.round import Strategy
from fedrobust.contamination.apply import contaminate, for_rank
from fedrobust.contamination.base import Backdoor, Contamination, Evasion
from fedrobust.data import TEST, TRAIN, VALIDATION, Dataset
from fedrobust.defences.purification.statistics import with_purified_statistics
from fedrobust.defences.sanitisation import Sanitiser
from fedrobust.evaluation.settings import Evaluation
from fedrobust.experiment.claims import ClaimLimit, limit_to_census, limit_to_shard
from fedrobust.experiment.local_settings import without_local_settings
from fedrobust.experiment.settings import (
    CertificateSettings,
    Settings,
    read_settings,
    to_json,
    without_contamination,
)
from fedrobust.learning import etf
from fedrobust.learning.classifier import Classifier, ModelFactory
from fedrobust.privacy.mechanisms import Privacy
from fedrobust.privacy.secure import fixed_point
from fedrobust.types import (
    NO_PURIFIER,
    ClientTrainer,
    PersonalTrainer,
    Purifier,
    Samples,
    Shard,
)
from fedrobust.utils import devices
from fedrobust.utils.seeding import generator

KINDS = ("clean", "noisy", "poisoned")
ESTIMATION = 256  # images for BatchNorm statistics behind a purifier
NO_CERTIFICATE: Mapping[str, Any] = CertificateSettings().model_dump()  # type: ignore[call-arg]
CONDITIONS = ("clean", "contaminated")  # under which a client evaluates its own test images
# the same with the client's own model, and with it under the test-time corruption
PERSONAL = ("personal_clean", "personal_contaminated", "personal_corrupted")


@dataclass(frozen=True)
class Experiment:
    """A built configuration. config: as plain JSON values, only to be handed on; settings: the same
    to be read. parts[i]: the rows of the data set that client i holds; roles[i] of
    KINDS; root and proxy: the server's rows. severities: the corruption by severity,
    {"corrupted_s1": ...}, where it has one. `text` is the canonical JSON by which it is known.
    client_sites: names of the sites whose images each client holds; empty unless the partition is
    by site.
    sites, reported_sizes, reported_test_sizes: of a real federation, the sites' names by client
    number, and how many training and test images each said that it has when it joined (None: it was
    not connected)."""

    config: Mapping[str, Any]
    text: str
    settings: Settings
    dataset: Dataset
    parts: tuple[Tensor, ...]
    root: Tensor
    proxy: Tensor
    roles: tuple[str, ...]
    contaminations: Mapping[str, Contamination]
    corruption: Contamination
    severities: Mapping[str, Contamination]
    model: ModelFactory
    trainer: ClientTrainer
    strategy: Strategy
    evaluation: Evaluation
    sanitiser: Sanitiser
    evasion: Evasion
    purifier: Purifier
    privacy: Privacy
    client_sites: tuple[tuple[str, ...], ...] = ()
    sites: tuple[str, ...] = ()
    reported_sizes: tuple[int | None, ...] = ()
    reported_test_sizes: tuple[int | None, ...] = ()

    def clean_twin(self, rounds: int | None = None) -> Experiment:
        """The same experiment without any contamination: the same data, parts and objects, every
        client clean. rounds: how many the run had (see `without_contamination`)."""
        config = without_contamination(self.config, rounds)
        return replace(
            self,
            config=config,
            text=to_json(without_contamination(json.loads(self.text), rounds)),
            settings=read_settings(config),
            roles=("clean",) * len(self.roles),
        )

    def of_participants(self, clients: Sequence[int], rounds: int) -> Experiment:
        """The same experiment in which these clients alone train, for so many rounds."""
        change = {"participants": list(clients), "rounds": rounds, "certificate": NO_CERTIFICATE}
        config = {**self.config, **change}
        return replace(
            self,
            config=config,
            text=to_json({**json.loads(self.text), **change}),
            settings=read_settings(config),
        )

    @property
    def sent_text(self) -> str:
        """The text that travels to the clients: to those of real sites without whatever names a
        place on this machine."""
        return to_json(without_local_settings(self.config)) if self.sites else self.text

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def num_clients(self) -> int:
        return len(self.parts)

    def new_model(self, *member: int) -> Classifier:
        """An untrained model on the device of the run, with the one ETF of the run where its head
        has one. member: numbers a further model, whose first weights are others."""
        anchors = None
        if self.model.head == "etf":
            anchors = etf.simplex_etf(self.model.dimension, self.num_classes, self.generator("etf"))
        built = self.model.build(self.num_classes, anchors, self.generator("init", *member))
        return built.to(devices.resolve(self.settings.device))

    def participants(self, server_round: int) -> list[int]:
        """The clients that train in this round, in ascending order."""
        g = self.generator("participants", server_round)
        order, allowed = torch.randperm(self.num_clients, generator=g), self.settings.participants
        if allowed is not None:
            order = order[torch.isin(order, torch.tensor(allowed))]
        if self.settings.schedule.has_left(server_round):
            stay = [role != "poisoned" for role in self.roles]
            order = order[torch.tensor(stay)[order]]
        return sorted(order[: self.settings.num_participants].tolist())

    def trains(self, client: int) -> bool:
        """Whether a client may be asked to train at all."""
        allowed = self.settings.participants
        return allowed is None or client in allowed

    @property
    def contaminated(self) -> bool:
        """Whether a client that trains is poisoned or noisy; else the run is its own clean twin."""
        return any(
            self.trains(client)
            for kind in ("poisoned", "noisy")
            for client in self.clients_of_kind(kind)
        )

    @property
    def remote(self) -> bool:
        """Whether this is the server of real sites, where no client's images are."""
        return not any(len(part) for part in self.parts)

    @property
    def num_classes(self) -> int:
        return len(self.dataset.class_names)

    def clients_of_kind(self, kind: str) -> list[int]:
        return [client for client, one in enumerate(self.roles) if one == kind]

    def purifier_for(self, *purpose: str | int) -> Callable[[Tensor], Tensor]:
        """The purifier with randomness of its own for this purpose."""
        g = self.generator("purifier", *purpose)
        return lambda images: self.purifier.purify(images, g)

    def with_purified_batchnorm(
        self, model: Classifier, images: Tensor, *who: str | int
    ) -> Classifier:
        """The model for images that come out of the purifier: a copy with BatchNorm statistics of
        such images, estimated on at most `ESTIMATION` of these; itself without a purifier, and
        where it is to keep its own. images: (N, 3, H, W), uint8 or unit floats, not attacked. who:
        names the model in all its randomness."""
        if not (self.purifies and self.evaluation.purified_statistics):
            return model
        g = self.generator("purifier", "statistics", *who)
        return with_purified_statistics(
            model, self.purifier, images[torch.randperm(len(images), generator=g)[:ESTIMATION]], g
        )

    def max_replies(self, server_round: int) -> int:
        """Number of train messages, up to this round, of the hospital that was asked most often."""
        if self.settings.clients_per_round is None:
            return server_round
        asked = [0] * self.num_clients
        for number in range(1, server_round + 1):
            for client in self.participants(number):
                asked[client] += 1
        return max(asked)

    @property
    def purifies(self) -> bool:
        """Whether there is a purifier."""
        return self.purifier.name != NO_PURIFIER.name

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions under which a client evaluates its own test images: with a purifier also
        behind it, with a model of its own also with that."""
        purified = tuple(f"purified_{name}" for name in CONDITIONS) if self.purifies else ()
        return CONDITIONS + purified + (PERSONAL if self.personalises else ())

    @property
    def personalises(self) -> bool:
        """Whether each client has a model of its own."""
        return isinstance(self.trainer, PersonalTrainer)

    @property
    def attacks_members(self) -> bool:
        """Whether the clients' own models are attacked at the end."""
        asked = self.evaluation.evasion_evaluation
        return self.evasion.attack is not None and asked.adversarial_clients

    def samples(self, rows: Tensor) -> Samples:
        return self.dataset.samples(rows)

    def num_examples(self, client: int) -> int:
        """Training images of a client; of a real site as many as it says it has, 0 of one that was
        not connected."""
        if self.reported_sizes:
            return self.reported_sizes[client] or 0
        return len(self.rows(client, TRAIN))

    def train_size(self, client: int) -> int | None:
        """Training images of a client, if known; of a real site as many as it said that it has when
        it joined."""
        if not self.remote:
            return len(self.rows(client, TRAIN))
        return self.reported_sizes[client] if self.reported_sizes else None

    def test_size(self, client: int) -> int | None:
        """Test images of a client, if known; of a real site the number, exact or rounded, that it
        said when it joined."""
        if self.reported_test_sizes:
            return self.reported_test_sizes[client]
        return None if self.remote else len(self.rows(client, TEST))

    def claim_limit(self, client: int) -> ClaimLimit:
        """How many training images of a client count in a round at most."""
        server = self.settings.server
        if not self.remote:
            return limit_to_shard(len(self.rows(client, TRAIN)), server.max_examples)
        reported = [self.train_size(one) for one in range(self.num_clients)]
        return limit_to_census(client, reported, server.max_examples, server.max_share)

    def weight_limit(self, client: int) -> int:
        """The most that a client can weigh in a masked sum, where each weighs itself and knows of
        no share."""
        known, most = self.train_size(client), self.settings.server.max_examples
        return most if known is None else min(known, most)

    def sites_of(self, client: int) -> tuple[str, ...]:
        """Names of the sites that a client stands for, where it stands for sites."""
        if self.sites:
            return (self.sites[client],)
        return self.client_sites[client] if self.client_sites else ()

    def all_sites(self) -> tuple[tuple[str, ...], ...]:
        """`sites_of` every client; empty where no client stands for a site."""
        found = tuple(self.sites_of(client) for client in range(self.num_clients))
        return found if any(found) else ()

    def contamination(self, client: int) -> Contamination:
        kind = self.roles[client]
        return for_rank(self.contaminations[kind], self.roles[:client].count(kind))

    def rows(self, client: int, split: int) -> Tensor:
        part = self.parts[client]
        return part[self.dataset.splits[part] == split]

    def shard(self, client: int) -> Shard:
        """The hospital's images: train and validation under its own contamination, the test part
        clean."""
        train, validation, test = (
            self.samples(self.rows(client, split)) for split in (TRAIN, VALIDATION, TEST)
        )
        return Shard(
            self.contaminate(client, "train", train),
            self.contaminate(client, "validation", validation),
            test,
        )

    def contaminate(self, client: int, part: str, samples: Samples) -> Samples:
        """A part of the client's images (train, validation or test) under its own contamination;
        the same noise at every call."""
        g = self.generator("contamination", client, part)
        return contaminate(samples, self.contamination(client), g)

    def client_test_sets(self, client: int) -> tuple[Samples, Samples]:
        """The client's own test shard, clean and under its own contamination. What the
        contamination leaves alone is the very same: all of it for a clean client, the images where
        only labels change."""
        clean = self.samples(self.rows(client, TEST))
        return clean, self.contaminate(client, "test", clean)

    def test_rows(self) -> Tensor:
        return (self.dataset.splits == TEST).nonzero().reshape(-1)

    def attacked_rows(self) -> Tensor:
        """The test images on which the final models are attacked: all, or as many as the evaluation
        allows, drawn by the seed."""
        rows, most = self.test_rows(), self.evaluation.evasion_evaluation.adversarial_images
        if most is None or len(rows) <= most:
            return rows
        chosen = torch.randperm(len(rows), generator=self.generator("evasion", "images"))[:most]
        return rows[chosen.sort().values]

    def validation_rows(self) -> Tensor:
        """At most `evaluation.validation_images` validation images of all clients together, the
        same in every round."""
        rows = (self.dataset.splits == VALIDATION).nonzero().reshape(-1)
        order = torch.randperm(len(rows), generator=self.generator("validation"))
        return rows[order[: self.evaluation.validation_images]]

    def validation(self) -> Samples:
        """The images of `validation_rows`."""
        return self.samples(self.validation_rows())

    def corrupt(self, samples: Samples, grade: str = "corrupted") -> Samples:
        """The samples under the test-time corruption, or under one of its grades (`severities`);
        the same noise at every call."""
        damage = self.corruption if grade == "corrupted" else self.severities[grade]
        return contaminate(samples, damage, self.generator("corruption"))

    @property
    def backdoor(self) -> Backdoor | None:
        """The backdoor of the clients' contaminations, or None."""
        found = [
            self.contaminations[kind].backdoor
            for kind in ("poisoned", "noisy")
            if kind in self.roles
        ]
        return next((one for one in found if one is not None), None)

    def generator(self, *purpose: str | int) -> torch.Generator:
        return generator(self.seed, *purpose)


def assign_roles(
    num_clients: int, poisoned: int | Sequence[int], noisy: int | Sequence[int], seed: int
) -> tuple[str, ...]:
    """Assign the roles poisoned and noisy to clients. Given lists are kept; numbers are drawn from
    those left: poisoned from one end of one random order, noisy from the other, so that under one
    seed more of a kind contain the fewer, and neither moves the other."""
    out = ["clean"] * num_clients
    order = torch.randperm(num_clients, generator=generator(seed, "kinds")).tolist()
    wanted = {"poisoned": poisoned, "noisy": noisy}
    # given lists first
    for kind, which in sorted(wanted.items(), key=lambda item: isinstance(item[1], int)):
        ends = order if kind == "poisoned" else order[::-1]
        free = [client for client in ends if out[client] == "clean"]
        for client in free[:which] if isinstance(which, int) else which:
            out[client] = kind
    return tuple(out)


def sum_scale(experiment: Experiment) -> float:
    """Factor of the updates before they are summed as whole numbers (see
    `privacy.secure.fixed_point`)."""
    return fixed_point.scale(experiment.privacy.clip or 1.0, most_weight(experiment))


def most_weight(experiment: Experiment) -> int:
    """The most that one client can weigh in such a sum."""
    return experiment.settings.server.max_examples if experiment.strategy.sums == "examples" else 1
