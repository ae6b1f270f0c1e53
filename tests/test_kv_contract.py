"""One contract for both key-value stores: the real server's, and the one in memory that interleaving tests use."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from conftest import VaultServer, until
from memory import MemoryKV, Store, Time

from rotator.errors import Gone, Mismatch, NotFound, Permanent
from rotator.journal import HISTORY, Debt, Known, Past, Place, Record
from rotator.settings import Settings
from rotator.vault import KV, At, Server, StaleRead, Vault
from rotator.vault.index import DueIndex, Entry


@dataclass
class Pair:
    """A store, a second connection to it, and what only an administrator does."""

    kv: KV
    other: KV
    at: At
    delete: Callable[[At], None]


@pytest.fixture(params=["server", "memory"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """The same facts are asked of both."""
    if request.param == "memory":
        store, clock = Store(), Time()
        return Pair(
            MemoryKV(store, clock), MemoryKV(store, clock), At("secret", "a/b"), store.delete
        )
    vault: VaultServer = request.getfixturevalue("vault")
    mount: str = request.getfixturevalue("mount")

    def connect() -> Server:
        server = Server(Settings.load(vault.environment).vault, boot=time.monotonic)
        request.addfinalizer(server.close)
        return server

    def delete(at: At) -> None:
        vault.call("DELETE", f"{at.mount}/data/{at.path}")

    return Pair(connect(), connect(), At(mount, "a/b"), delete)


def value() -> dict[str, str]:
    """Data that no other test has."""
    return {"value": secrets.token_hex(4)}


def test_what_never_was_reads_as_none(pair: Pair) -> None:
    """None is reserved for that."""
    assert pair.kv.read(pair.at) is None


def test_versions_count_up_from_one(pair: Pair) -> None:
    """Each write names the version it follows."""
    first, second = value(), value()
    assert pair.kv.write(pair.at, first, 0) == 1
    assert pair.kv.write(pair.at, second, 1) == 2
    found, earlier = pair.other.read(pair.at), pair.other.read(pair.at, 1)
    assert found is not None
    assert (found.data, found.version) == (second, 2)
    assert earlier is not None
    assert earlier.data == first


@pytest.mark.parametrize("cas", [0, 1, 3])
def test_a_write_over_another_version_is_a_mismatch(pair: Pair, cas: int) -> None:
    """And nothing is written."""
    pair.kv.write(pair.at, value(), 0)
    pair.kv.write(pair.at, kept := value(), 1)
    with pytest.raises(Mismatch):
        pair.other.write(pair.at, value(), cas)
    found = pair.kv.read(pair.at)
    assert found is not None
    assert found.data == kept


def test_a_document_of_too_many_strings_is_refused(pair: Pair) -> None:
    """OpenBao's default, which a record and the due index have to stay below; nothing is written."""
    with pytest.raises(Permanent) as refused:
        pair.kv.write(pair.at, {"list": ["x"] * 1100}, 0)
    assert refused.value.kind == "vault.InvalidRequest"
    assert pair.kv.read(pair.at) is None


def test_the_largest_record_and_the_fullest_page_of_the_index_are_accepted(pair: Pair) -> None:
    """Fifty rotations of three destinations, three hundred keys at ECGrid, a hundred debts; ten thousand policies."""
    vault = Vault(pair.kv, pair.at.mount, f"state-{secrets.token_hex(4)}")
    now = vault.now()
    place = Place(mount="secret", path="ecgrid/some/where", field="api_key", version=7)
    known = tuple(Known(key_id=n, created=now, fingerprint="f" * 64) for n in range(300))
    past = Past(
        at=now, duration_s=1.0, outcome="rotated", reason="scheduled", by="host:1", run="a" * 16, user_id=1,
        key_id=2, previous_key_id=1, published=(place, place, place), hooks=("ok",),
    )  # fmt: skip
    debts = tuple(Debt(key_id=n, user_id=1, why="stray", due_at=now, waits="w") for n in range(100))
    record = Record.new("edi").change(
        known={"1/Private": known, "2/Private": known}, history=(past,) * HISTORY, retiring=debts
    )
    stored = vault.save(record, 0)
    assert vault.record("edi") == stored
    index = DueIndex(vault, "me", timedelta(minutes=3))
    at = vault.index_at("edi")
    names = [name for n in range(16_000) if vault.index_at(name := f"policy-{n}") == at]
    entry = Entry("d" * 64, 3, now + timedelta(days=1), now)
    index.raise_(index.look(names), dict.fromkeys(names, entry))
    assert len(names) > 200
    assert all(index.look(names).entry(name, "d" * 64) for name in names)


def test_a_deleted_version_is_not_never_existed(pair: Pair) -> None:
    """It raises Gone with its number, and the next write follows that number."""
    pair.kv.write(pair.at, value(), 0)
    pair.delete(pair.at)
    with pytest.raises(Gone) as gone:
        pair.kv.read(pair.at)
    assert gone.value.version == 1
    with pytest.raises(Mismatch):
        pair.kv.write(pair.at, value(), 0)
    assert pair.kv.write(pair.at, value(), 1) == 2


def test_what_was_destroyed_begins_anew(pair: Pair) -> None:
    """All versions and the metadata are gone; destroying nothing is no error."""
    pair.kv.write(pair.at, value(), 0)
    pair.kv.write(pair.at, value(), 1)
    pair.kv.destroy(pair.at)
    pair.kv.destroy(pair.at)
    assert pair.kv.read(pair.at) is None
    assert pair.kv.write(pair.at, value(), 0) == 1


def test_custom_metadata_is_merged(pair: Pair) -> None:
    """Other entries are kept, and no version is made."""
    pair.kv.write(pair.at, value(), 0)
    pair.kv.annotate(pair.at, {"a": "1", "b": "2"})
    pair.kv.annotate(pair.at, {"b": "3"})
    found = pair.other.read(pair.at)
    assert found is not None
    assert (found.custom, found.version) == ({"a": "1", "b": "3"}, 1)


def test_metadata_of_nothing_cannot_be_merged(pair: Pair) -> None:
    """There is nothing that it would belong to."""
    with pytest.raises(NotFound):
        pair.kv.annotate(pair.at, {"a": "1"})


def test_names_are_those_directly_below(pair: Pair) -> None:
    """Without folders, and none where nothing is."""
    top = At(pair.at.mount, "a")
    assert pair.kv.names(top) == []
    pair.kv.write(pair.at, value(), 0)
    pair.kv.write(At(pair.at.mount, "a/c"), value(), 0)
    pair.kv.write(At(pair.at.mount, "a/d/e"), value(), 0)
    assert pair.kv.names(top) == ["b", "c"]


def test_a_read_older_than_an_own_write_is_stale(pair: Pair) -> None:
    """As it would be after a restore from a backup: the store was destroyed behind this connection's back."""
    pair.kv.write(pair.at, value(), 0)
    pair.kv.write(pair.at, value(), 1)
    pair.other.destroy(pair.at)
    with pytest.raises(StaleRead) as nothing:
        pair.kv.read(pair.at)
    assert nothing.value.document is None
    pair.other.write(pair.at, left := value(), 0)
    with pytest.raises(StaleRead) as older:
        pair.kv.read(pair.at)
    assert older.value.document is not None
    assert older.value.document.data == left
    pair.kv.forget(pair.at)
    assert pair.kv.read(pair.at) is not None


# facts about the real server alone


@pytest.fixture
def server(vault: VaultServer) -> Server:
    """A connection of its own."""
    return Server(Settings.load(vault.environment).vault, boot=time.monotonic)


def test_kv_version_1_is_refused_before_anything_is_written(
    server: Server, vault: VaultServer
) -> None:
    """It would ignore the check-and-set."""
    name = f"kv1-{secrets.token_hex(4)}"
    vault.call("POST", f"sys/mounts/{name}", {"type": "kv"})
    try:
        with pytest.raises(Permanent) as refused:
            server.write(At(name, "a"), value(), 0)
        assert refused.value.kind == "vault.NotKV2"
        assert name in str(refused.value)
    finally:
        vault.call("DELETE", f"sys/mounts/{name}")


def test_a_mount_that_is_not_there_is_named(server: Server) -> None:
    """It is told apart from a path where nothing is."""
    with pytest.raises(Permanent) as refused:
        server.read(At("nowhere", "a"))
    assert refused.value.kind == "vault.NoMount"
    assert "nowhere" in str(refused.value)


def test_the_servers_clock_is_known_from_its_answers(server: Server, mount: str) -> None:
    """To the second, by the first one that was not under way for long; and it does not run backwards."""

    def known() -> bool:
        server.read(At(mount, "a"))
        return abs(server.clock.skew()) < 2

    until(known, "an answer came at once")
    times = [server.now() for _ in range(1000)]
    assert times == sorted(times)
