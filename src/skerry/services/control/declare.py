"""The operator's list of sites becomes intent in the store, at every start of control."""

from msgspec.structs import replace

from skerry.core.types.control import SiteIntent
from skerry.core.types.place import Site
from skerry.kit import record
from skerry.ports.store import Delete, Op, Put, Store
from skerry.services.control import keys


async def declare_sites(store: Store, sites: tuple[Site, ...]) -> None:
    """Make the stored sites those of `sites`; what operators said since (drained) stays. Raises `StoreError`.

    A site that is no longer in the list goes, with its ledger: its apps are decided again without it.
    """
    page = await store.range(keys.SITES)
    held = {intent.site.id: intent for intent in (record.decode(e.value, SiteIntent) for e in page.entries)}
    ops: list[Op] = []
    for site in sites:
        old = held.pop(site.id, None)
        new = SiteIntent(site=site)
        if old is not None:
            new = SiteIntent(site=replace(site, state=old.site.state), draining_nodes=old.draining_nodes)
        if new != old:
            ops.append(Put(key=keys.site(site.id), value=record.encode(new)))
    for gone in sorted(held):
        ops += [Delete(key=keys.site(gone)), Delete(key=keys.ledger(gone))]
        ops += [Delete(key=key) for key in await _keys_under(store, f"{keys.RESERVATIONS}{gone}/")]
    for start in range(0, len(ops), 100):
        await store.transact([], ops[start : start + 100])


async def _keys_under(store: Store, prefix: str) -> list[str]:
    found: list[str] = []
    while True:
        page = await store.range(prefix, after=found[-1] if found else None)
        found += [entry.key for entry in page.entries]
        if not page.more:
            return found
