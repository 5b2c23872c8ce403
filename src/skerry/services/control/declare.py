"""The operator's list of sites becomes intent in the store, at every start of control."""

from msgspec.structs import replace

from skerry.core.types.control import SiteIntent
from skerry.core.types.place import Site
from skerry.kit import record
from skerry.ports.store import Delete, Op, Put, Store, entries_under
from skerry.services.control import keys


async def declare_sites(store: Store, sites: tuple[Site, ...]) -> None:
    """Make the stored sites those of `sites`; what operators said since (drained) stays. Raises `StoreError`.

    A site that is no longer in the list goes, with its ledger: its apps are decided again without it.
    """
    intents = [record.decode(entry.value, SiteIntent) async for entry in entries_under(store, keys.SITES)]
    held = {intent.site.id: intent for intent in intents}
    ops: list[Op] = []
    for site in sites:
        old = held.pop(site.id, None)
        new = SiteIntent(site=site)
        if old is not None:
            new = SiteIntent(site=replace(site, state=old.site.state), draining_nodes=old.draining_nodes)
        if new != old:
            ops.append(Put(key=keys.site(site.id), value=record.encode(new)))
    for gone in sorted(held):
        ops += [Delete(key=keys.site(gone)), Delete(key=keys.ledger(gone)), Delete(key=keys.silence(gone))]
        ops += [Delete(key=entry.key) async for entry in entries_under(store, f"{keys.RESERVATIONS}{gone}/")]
    for start in range(0, len(ops), 100):
        await store.transact([], ops[start : start + 100])
