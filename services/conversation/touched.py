"""What a decision had to do with, by name, so that one made outside the tenant's lock can tell whether it still holds.

While something of a tenant is set aside, whoever changes it leaves behind the names of all that the change touched. The
lane decides on a snapshot; the decision holds where nothing that it read was touched since. Both sides name all that
they loaded or made, which is more than they read and wrote. Pure.
Source: docs/decisions/0021-large-decisions-beside-the-stream.md
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from uuid import UUID

from services.conversation.batch import Batch
from services.conversation.facts import Facts
from services.conversation.folding import Fold

_LOW = (1 << 64) - 1


def touched(batch: Batch, fold: Fold) -> set[int]:
    """Return 64 bits for each name of what a decided batch loaded or made.

    Names are keys and nodes, and the ids of leaves, components, entries and conversations. Two that are alike by chance
    cost a decision that is made again.
    """
    return {*map(_of_id, _ids(batch, fold)), *map(_of_text, _texts(batch, fold))}


def packed(names: Iterable[int]) -> bytes:
    """Return names as they are stored."""
    return array("Q", names).tobytes()


def meets(names: set[int], stored: bytes | None) -> bool:
    """Tell whether a change touched one of these names; None is one that may have touched anything."""
    if stored is None:
        return True
    found = array("Q")
    found.frombytes(stored)
    return not names.isdisjoint(found)


def _of_id(id_: UUID) -> int:
    return id_.int & _LOW


def _of_text(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _ids(batch: Batch, fold: Fold) -> Iterator[UUID]:
    yield from batch.people.by_id
    yield from batch.people.members
    for leaf_id, conversation_id in (*batch.participants, *batch.owned):
        yield leaf_id
        yield conversation_id
    for id_, stored in batch.conversations.items():
        yield id_
        yield stored.canonical_id
        if stored.state.owner_leaf is not None:
            yield stored.state.owner_leaf
    stitcher = fold.stitcher
    yield from stitcher.conversations
    for gone, into in stitcher.canonical.items():
        yield gone
        yield into
    for id_, (held_by, entry_id) in batch.named.items():
        yield from filter(None, (id_, held_by, entry_id))
    yield from batch.displaced
    for fact in _facts(batch):
        yield from (fact.entry_id, *(copy.entry_id for copy in fact.copies), *fact.entries_put)
        for written in fact.named:
            try:
                yield UUID(written)
            except ValueError:
                continue


def _texts(batch: Batch, fold: Fold) -> Iterator[str]:
    yield from batch.people.leaves
    yield from batch.scope.keys_known()
    yield from (binding.key for binding in fold.stitcher.bindings)
    for fact in _facts(batch):
        yield from fact.keys
        yield from fact.nodes
        if fact.contact:
            yield f"contact:{fact.contact}"


def _facts(batch: Batch) -> Iterator[Facts]:
    yield from batch.facts.values()
    yield from (fact for _, fact in batch.history)
    yield from (copy.facts for copy in batch.copies)
