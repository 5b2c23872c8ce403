"""A site: its controller, its ingress and the API that its nodes call.

python -m skerry.apps.site --config FILE [--liveness-fd N]
"""

import os
import secrets
from pathlib import Path

from starlette.applications import Starlette
from starlette.routing import Mount

from skerry.adapters.blobs.sitecopies import SiteCopies
from skerry.adapters.clock.system import SystemClock
from skerry.adapters.ingress.haproxy.ingress import HAProxyIngress
from skerry.adapters.ingress.haproxy.settings import Limits, Settings
from skerry.adapters.link.http import HttpControlLink
from skerry.adapters.link.probe import answers, try_connect
from skerry.adapters.recordfile import JsonFile
from skerry.apps.config import SiteConfig
from skerry.apps.logs import configure_logs
from skerry.apps.plane import Plane, read_secret, run_plane
from skerry.apps.serving import bind, serving
from skerry.apps.tasks import running
from skerry.core.reconcile.site_types import SiteMemory
from skerry.core.types.ids import NodeId
from skerry.core.types.slices import NodeReport, NodeSlice, SiteSlice
from skerry.kit.hashing import stable_id
from skerry.services.calls.answering import answer_calls, passing_on
from skerry.services.calls.exchange import Exchange
from skerry.services.site.controller import ControllerSettings, SiteController
from skerry.services.site.nodes import Nodes
from skerry.wire.internal.routes import link_app

INGRESS_UID = 1_879_048_191  # nobody else's: the worker runtime's own begin right above


async def serve(config: SiteConfig, plane: Plane) -> None:
    configure_logs()
    listener = bind(config.listen)
    secret = read_secret(config.join_secret_path)
    data = Path(config.data_dir)
    clock = SystemClock()
    link = HttpControlLink(config.control_url, config.site.id, secret)
    ingress = _ingress(config)
    copies = SiteCopies(data / "blobs", link.stream)
    controller = SiteController(
        config.site.id,
        ingress,
        link,
        nodes=Nodes(config.nodes, clock, try_connect),
        clock=clock,
        slice_file=JsonFile(data / "slice.json", SiteSlice),
        memory_file=JsonFile(data / "memory.json", SiteMemory),
        epoch=secrets.token_hex(8),
        pid=os.getpid(),
        follow=copies.follow,
        look=answers,
        settings=ControllerSettings(packing=config.packing),
    )
    try:
        await controller.start()
        exchange = Exchange()
        calls = answer_calls(link, passing_on(exchange, lambda call: controller.node_of(call.instance)), clock)
        async with running(controller.run(), calls), serving(_app(controller, copies, secret, exchange), listener):
            plane.ready()
            await plane.ended()
    finally:
        await ingress.aclose(stop=plane.supervisor_gone)
        await link.aclose()


def _app(controller: SiteController, copies: SiteCopies, secret: str, exchange: Exchange) -> Starlette:
    async def next_slice(node: str, after: int, wait_ms: int) -> NodeSlice | None:
        return await controller.next_slice(NodeId(node), after=after, wait_ms=wait_ms)

    links = link_app(
        "nodes",
        NodeReport,
        secret=secret,
        known=lambda node: controller.known(NodeId(node)),
        caller_of=lambda report: report.node.id,
        hear=controller.hear,
        next_slice=next_slice,
        blob=copies.open,
        exchange=exchange,
    )
    return Starlette(routes=[Mount("/internal/v1", app=links)])


def _ingress(config: SiteConfig) -> HAProxyIngress:
    data, tag = Path(config.data_dir), stable_id(config.data_dir, length=8)
    return HAProxyIngress(
        Settings(
            site=config.site,
            run_dir=config.run_dir,
            state_file=str(data / "ingress.json"),
            records_dir=str(data / "processes"),
            log=str(data / "haproxy.log"),
            tag=tag,
            shared=(config.shared_address,) if config.shared_address else (),
            program=config.engines.haproxy or "",
            limits=Limits(first_byte_ms_max=config.answer_s_max * 1000),
            uid=INGRESS_UID if os.geteuid() == 0 else 0,
            gid=INGRESS_UID if os.geteuid() == 0 else 0,
        )
    )


def main() -> None:
    run_plane(SiteConfig, serve)


if __name__ == "__main__":
    main()
