"""The protocol between pure functions: masks that cancel, hospitals that are lost, and what a
hospital refuses to tell."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedrobust.errors import RunError
from fedrobust.privacy.secure import ciphers, secret_sharing, seeded_random, server
from fedrobust.privacy.secure import client as hospital
from fedrobust.utils.seeding import generator
from tests.helpers.secure_rounds import SecureRound, after_key_exchange, whole_numbers


def test_masks_cancel_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clients with x = 1, 2, 3; common masks 5 (0 and 1), 7 (0 and 2), 11 (1 and 2); own
    masks 100, 200, 300."""
    common = {"0, 1": 5, "0, 2": 7, "1, 2": 11}

    def agree(private: bytes, public: bytes, purpose: str) -> bytes:
        return (
            common[purpose.rpartition("task, ")[2]].to_bytes(32) if "mask" in purpose else bytes(32)
        )

    def add_mask(vector: torch.Tensor, seed: bytes, sign: int) -> None:
        vector += sign * int.from_bytes(seed)

    monkeypatch.setattr(ciphers, "agree", agree)
    monkeypatch.setattr(ciphers, "add_mask", add_mask)
    table = SecureRound(3, 2)
    table.make_keys()
    for client in range(3):
        # the first that is drawn for the shares is the own seed
        seeds = [((client + 1) * 100).to_bytes(32)]
        table.random = lambda size, seeds=seeds: seeds.pop() if seeds else os.urandom(size)  # type: ignore[misc]
        table.make_shares([client])
    masked = [int(table.mask(client, torch.tensor([client + 1]))) for client in range(3)]
    # 1 + 100 + 5 + 7; 2 + 200 - 5 + 11; 3 + 300 - 7 - 11
    assert masked == [113, 208, 285]
    # 113 + 208 + 285 = 606 = (1 + 2 + 3) + (100 + 200 + 300): the common ones are gone, the shares
    # take off the own
    assert int(table.opened(torch.tensor([606]), [0, 1, 2], [0, 2])) == 6


def test_a_lost_client_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, and client 2's 285 never arrives: 113 + 208 = 321 = (1 + 2) + (100 + 200) + (7 +
    11)."""
    common = {"0, 1": 5, "0, 2": 7, "1, 2": 11}
    monkeypatch.setattr(
        ciphers,
        "agree",
        lambda _, __, why: (
            common[why.rpartition("task, ")[2]].to_bytes(32) if "mask" in why else bytes(32)
        ),
    )
    monkeypatch.setattr(
        ciphers, "add_mask", lambda vector, seed, sign: vector.add_(sign * int.from_bytes(seed))
    )
    table = SecureRound(3, 2)
    table.make_keys()
    for client in range(3):
        seeds = [((client + 1) * 100).to_bytes(32)]
        table.random = lambda size, seeds=seeds: seeds.pop() if seeds else os.urandom(size)  # type: ignore[misc]
        table.make_shares([client])
    total = table.mask(0, torch.tensor([1])) + table.mask(1, torch.tensor([2]))
    assert int(total) == 321
    assert int(table.opened(total, [0, 1], [0, 1])) == 3


@settings(max_examples=25)
@given(st.data(), st.integers(3, 7), st.integers(0, 2**32))
def test_the_sum_of_whoever_arrives_is_exact(data: st.DataObject, number: int, seed: int) -> None:
    """Any clients lost before their shares, others before their updates, others before the last
    answer, down to the threshold."""
    threshold = data.draw(st.integers(number // 2 + 1, number))

    def some_of(clients: list[int]) -> list[int]:
        return sorted(
            data.draw(
                st.lists(
                    st.sampled_from(clients), min_size=threshold, max_size=len(clients), unique=True
                )
            )
        )

    table = SecureRound(number, threshold)
    with_keys = some_of(list(range(number)))
    table.make_keys(with_keys)
    shared = some_of(with_keys)
    table.make_shares(shared)
    survivors = some_of(shared)
    vectors = whole_numbers(seed, number, 9)
    total = sum(
        (table.mask(client, vectors[client]) for client in survivors),
        torch.zeros(9, dtype=torch.int64),
    )
    tellers = some_of(survivors)
    assert torch.equal(
        table.opened(total, survivors, tellers),
        sum((vectors[one] for one in survivors), torch.zeros_like(total)),
    )


def test_masks_are_made_in_parts_and_differ_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1000
    whole, parts, other = (torch.zeros(size, dtype=torch.int64) for _ in range(3))
    ciphers.add_mask(whole, b"a" * 32, 1)
    ciphers.add_mask(other, b"b" * 32, 1)
    monkeypatch.setattr(ciphers, "CHUNK", 64)
    ciphers.add_mask(parts, b"a" * 32, 1)
    assert torch.equal(whole, parts)
    assert int((whole == other).sum()) == 0
    ciphers.add_mask(parts, b"a" * 32, -1)
    assert not parts.any()


def test_a_mask_is_the_stream_of_aes_in_counter_mode() -> None:
    """NIST SP 800-38A, F.5.5 (CTR-AES256) has another counter block; the stream from 0 is AES of 0,
    1, 2, ... in a row."""
    from Crypto.Cipher import AES  # pycryptodome, which comes with Flower: another implementation

    mask = torch.zeros(6, dtype=torch.int64)
    ciphers.add_mask(mask, bytes(range(32)), 1)
    blocks = b"".join(
        AES.new(bytes(range(32)), AES.MODE_ECB).encrypt(n.to_bytes(16)) for n in range(3)
    )
    assert mask.numpy().astype("<i8").tobytes() == blocks


def test_what_one_client_sends_looks_like_nothing() -> None:
    """The bytes of a masked vector of zeros are spread evenly, and another seed changes (nearly)
    all of them."""
    zeros = torch.zeros(20_000, dtype=torch.int64)
    sent = [
        after_key_exchange(3, 2, random=seeded_random(generator(seed, "x")))
        .mask(0, zeros)
        .numpy()
        .tobytes()
        for seed in (0, 1)
    ]
    counts = torch.bincount(
        torch.frombuffer(bytearray(sent[0]), dtype=torch.uint8).long(), minlength=256
    )
    assert chisquare(counts.numpy()).pvalue > 1e-4  # the seed is fixed
    same = sum(one == other for one, other in zip(*sent, strict=True)) / len(sent[0])
    assert same == pytest.approx(1 / 256, rel=0.1)  # as by chance
    again = (
        after_key_exchange(3, 2, random=seeded_random(generator(0, "x")))
        .mask(0, zeros)
        .numpy()
        .tobytes()
    )
    assert again == sent[0]


# --- what a hospital refuses ---


def refused(action: Any, words: str) -> None:
    with pytest.raises(RunError, match=words) as error:
        action()
    assert str(error.value).startswith("secure aggregation, round ")
    assert "\n" not in str(error.value)


def masked_table() -> SecureRound:
    table = after_key_exchange(5, 3)
    for client in range(5):
        table.mask(client, torch.zeros(2, dtype=torch.int64))
    return table


def test_the_last_answer_is_given_once_whatever_the_second_list_is() -> None:
    table = masked_table()
    table.unmask(0, [0, 1, 2, 3])
    for survivors in ([0, 1, 2, 3], [0, 1, 2, 4], [0, 1, 2, 3, 4]):
        refused(lambda: table.unmask(0, survivors), "out of turn .last answered: over.")  # noqa: B023


def test_of_nobody_both_kinds_of_secret_are_told() -> None:
    told = masked_table().unmask(0, [0, 1, 2])
    assert set(told.seeds) == {0, 1, 2}
    assert set(told.masks) == {3, 4}


@pytest.mark.parametrize("survivors", [[1, 2, 3], [0, 1, 2, 9], []])
def test_a_list_without_the_client_or_with_strangers_is_refused(survivors: list[int]) -> None:
    refused(
        lambda: masked_table().unmask(0, survivors), "leaves this client out, or names strangers"
    )


def test_fewer_than_the_threshold_are_refused_at_every_stage() -> None:
    refused(
        lambda: masked_table().unmask(0, [0, 1]), "2 clients are left, and no sum of fewer than 3"
    )
    table = after_key_exchange(5, 3)
    table.letters = {client: table.letters[client] for client in (0, 1)}
    refused(lambda: table.mask(0, torch.zeros(2, dtype=torch.int64)), "2 clients are left")
    table = SecureRound(5, 3)
    table.make_keys([0, 1])
    refused(table.make_shares, "2 clients are left")
    refused(SecureRound(3, 1).make_keys, "a sum of one would be opened")


def test_a_threshold_of_half_is_refused() -> None:
    """With 2 of 4 a server could show one pair that client 0 arrived and the other that it did not,
    and have both its secrets."""
    table = SecureRound(4, 2)
    table.make_keys()
    refused(table.make_shares, "2 of 4 shares would open a secret; it must take more than half")


def test_nothing_is_answered_out_of_turn() -> None:
    vector = torch.zeros(2, dtype=torch.int64)
    table = SecureRound(3, 2)
    table.make_keys()
    refused(lambda: table.mask(0, vector), "out of turn .last answered: keys.")
    refused(lambda: table.unmask(0, [0, 1]), "out of turn .last answered: keys.")
    table.make_shares()
    refused(lambda: table.make_shares([0]), "out of turn .last answered: shares.")
    refused(lambda: table.unmask(0, [0, 1]), "out of turn .last answered: shares.")
    table.mask(0, vector)
    refused(lambda: table.mask(0, vector), "out of turn .last answered: masked.")
    assert not vector.any()  # nothing was written before the refusals


def test_rounds_only_go_up_and_runs_do_not_mix() -> None:
    table = masked_table()
    refused(table.make_keys, "its keys were asked for after those of round 1")
    table.round = 2
    refused(lambda: table.unmask(0, [0, 1, 2]), "a message of another round, run or model")
    session = replace(table.session(0), round=1, task="another run's")
    refused(
        lambda: hospital.reveal_shares(session, table.kept[0], [0, 1, 2]),
        "a message of another round, run or model",
    )
    table.make_keys()
    table.round = 1
    refused(table.make_keys, "after those of round 2")
    refused(lambda: table.unmask(0, [0, 1, 2]), "a message of another round, run or model")


def test_what_came_back_changed_or_twice_is_refused() -> None:
    for spoil, words in (
        (lambda keys: keys | {0: keys[1]}, "own public keys came back changed"),
        (
            lambda keys: {client: both for client, both in keys.items() if client},
            "own public keys came back changed",
        ),
        (lambda keys: keys | {2: keys[1]}, "one public key stands there twice"),
        (lambda keys: keys | {2: bytes(64)}, "one public key stands there twice"),
        (lambda keys: keys | {2: bytes(32) + keys[2][32:]}, "a public key that leaves no secret"),
    ):
        table = SecureRound(3, 2)
        table.make_keys()
        table.keys = spoil(table.keys)
        refused(lambda: table.make_shares([0]), words)  # noqa: B023


def test_letters_of_strangers_are_refused_and_letters_that_do_not_open_spoil_nothing() -> None:
    table, vectors = after_key_exchange(4, 3), whole_numbers(0, 4, 5)
    refused(
        lambda: hospital.check_masking(
            table.session(0), table.kept[0], dict.fromkeys((1, 2, 9), b"")
        ),
        r"shares of strangers came: \[9\]",
    )
    refused(
        lambda: hospital.check_masking(
            table.session(0), table.kept[0], dict.fromkeys((0, 1, 2), b"")
        ),
        r"shares of strangers came: \[0\]",
    )
    # client 0 has no share of client 1's secrets; three others have
    table.letters[1][0] = bytes(hospital.SEALED_BYTES)
    total = sum(
        (table.mask(client, vectors[client]) for client in range(4)),
        torch.zeros(5, dtype=torch.int64),
    )
    assert 1 not in hospital.reveal_shares(table.session(0), table.kept[0], [0, 1, 2])[1]
    assert torch.equal(
        table.opened(total, range(4), range(4)), sum(vectors, torch.zeros_like(total))
    )


def test_a_letter_opens_for_its_receiver_and_in_its_direction_only() -> None:
    table = after_key_exchange(3, 2)
    private, public = table.kept[0]["letters"], table.keys[1][:32]
    key = ciphers.agree(private, public, hospital.sealing_purpose(1, 0))
    letter = table.letters[1][0]
    assert len(letter) == hospital.SEALED_BYTES
    assert ciphers.unseal(key, letter) is not None
    assert ciphers.unseal(key, table.letters[0][1]) is None
    assert ciphers.unseal(key, letter[:-1] + bytes([letter[-1] ^ 1])) is None
    assert ciphers.unseal(key, b"") is None


def test_secrets_go_as_soon_as_they_are_not_needed() -> None:
    table = after_key_exchange(3, 2)
    secrets = [table.kept[0][name] for name in ("letters", "masks", "seed")]
    table.mask(0, torch.zeros(2, dtype=torch.int64))
    assert set(table.kept[0]) == {"round", "common", "stage", "clients", "holding", "held"}
    assert not any(secret in table.kept[0]["held"] for secret in secrets)
    table.unmask(0, [0, 1])
    assert table.kept[0] == {"round": 1, "common": table.session(0).common, "stage": "over"}


# --- a server that does not ask all the same ---


@pytest.mark.parametrize("changes", [{"task": "another model"}, {"told": "other classes"}])
def test_whoever_was_asked_something_else_is_noticed_by_all_and_nothing_is_told(
    changes: dict[str, str],
) -> None:
    table = SecureRound(4, 3, changed={2: changes})
    table.make_keys()
    table.make_shares()
    vector = torch.zeros(3, dtype=torch.int64)
    for client, other in ((0, 2), (1, 2), (3, 2), (2, 0)):
        kept = dict(table.kept[client])
        said = f"asked client {other} and client {client} for updates of different models"
        for ask in (hospital.check_masking, lambda *given: hospital.mask(*given, vector)):
            with pytest.raises(hospital.UnlikeTasksError, match=said):
                ask(table.session(client), table.kept[client], table.letters_to(client))
        assert dict(table.kept[client]) == kept
        assert not vector.any()


def test_a_server_that_holds_the_letters_back_gets_no_sum() -> None:
    # letters between those who were asked different things are spoilt on the way, so that nobody
    # can compare: the masks between them then stay in every sum
    table = SecureRound(4, 3, changed={3: {"task": "another model"}})
    table.make_keys()
    table.make_shares()
    for client in (0, 1, 2):
        table.letters[client][3] = table.letters[3][client] = bytes(hospital.SEALED_BYTES)
    masked = {client: table.mask(client, torch.ones(3, dtype=torch.int64)) for client in range(4)}
    total = sum(masked.values(), torch.zeros(3, dtype=torch.int64))
    told = {client: table.unmask(client, [0, 1, 2, 3]) for client in range(4)}
    everybody, three = (
        server.ServerSession("task", 3, table.keys, chosen, chosen)
        for chosen in ([0, 1, 2, 3], [0, 1, 2])
    )
    with pytest.raises(RunError, match="1 of 3 shares of client 3's secret came"):
        server.recover_secrets(total, everybody, told)
    without = masked[0] + masked[1] + masked[2]
    server.recover_secrets(without, three, told)
    assert without.tolist() != [3, 3, 3]


def test_a_message_about_another_model_than_the_one_announced_is_out_of_turn() -> None:
    table = after_key_exchange(3, 2)
    other = replace(table.session(0), task="another model")
    refused(
        lambda: hospital.check_masking(other, table.kept[0], table.letters_to(0)),
        "another round, run or model",
    )


# --- what the server finds out ---


def test_wrong_shares_of_a_key_are_noticed_and_too_few_named() -> None:
    table = after_key_exchange(4, 3)
    total = sum(
        (table.mask(client, torch.ones(3, dtype=torch.int64)) for client in (0, 1, 2)),
        torch.zeros(3, dtype=torch.int64),
    )
    told = {client: table.unmask(client, [0, 1, 2]) for client in (0, 1, 2)}
    sitting = server.ServerSession("task", 3, table.keys, [0, 1, 2, 3], [0, 1, 2])
    wrong = {
        **told,
        1: server.RevealedSecrets(told[1].seeds, {3: (5).to_bytes(secret_sharing.SHARE_BYTES)}),
    }
    with pytest.raises(
        RunError, match=r"client 3's (mask key do not give it|secret do not give one)"
    ):
        server.recover_secrets(total.clone(), sitting, wrong)
    missing = {**told, 1: server.RevealedSecrets({}, told[1].masks)}
    with pytest.raises(RunError, match="2 of 3 shares of client 0's secret came"):
        server.recover_secrets(total.clone(), sitting, missing)
    server.recover_secrets(total, sitting, told)
    assert total.tolist() == [3, 3, 3]
