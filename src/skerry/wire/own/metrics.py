"""The platform's state as Prometheus text. Names: `skerry_<noun>_<unit>`."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from skerry.core.types.view import NodeView, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Samples = list[tuple[list[str], float]]


class Gauge(NamedTuple):
    """One family: `samples` are (label values, value)."""

    name: str
    text: str
    labels: list[str]
    samples: Samples


def exposition(status: Status, answers: Mapping[tuple[str, int], int]) -> bytes:
    """`answers` counts this API's answers by (handler, status code)."""
    # Imported at the first scrape: it would cost every start of control 60 ms.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    class Now(Collector):
        def collect(self) -> Iterable[Metric]:
            for gauge in _gauges(status):
                family = GaugeMetricFamily(gauge.name, gauge.text, labels=gauge.labels)
                for labels, value in gauge.samples:
                    family.add_metric(labels, value)
                yield family
            requests = CounterMetricFamily("skerry_api_requests", "Answers of the own API.", labels=["handler", "status"])
            for (handler, code), count in sorted(answers.items()):
                requests.add_metric([handler, str(code)], count)
            yield requests

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Now())
    return generate_latest(registry)


def _gauges(status: Status) -> tuple[Gauge, ...]:
    sites, nodes, instances = status.sites, status.nodes, status.instances
    node = ["site", "node"]
    by_state = Counter((item.site, item.state) for item in instances)
    by_rollout = Counter(app.rollout.state for app in status.apps)
    memory: Counter[str] = Counter()
    restarts: Counter[str] = Counter()
    for item in instances:
        memory[item.site] += item.memory_bytes
        restarts[item.site] += item.restarts

    def per_node(value: Callable[[NodeView], float]) -> Samples:
        return [([item.site, item.node], value(item)) for item in nodes]

    return (
        Gauge("skerry_site_up", "1: it reports.", ["site"], [([s.site], s.state != "down") for s in sites]),
        Gauge("skerry_site_suspicion_phi", "Of its silence.", ["site"], [([s.site], s.phi) for s in sites]),
        Gauge("skerry_site_slice_generation", "What it executes.", ["site"], [([s.site], s.generation) for s in sites]),
        Gauge("skerry_node_up", "1: it reports.", node, per_node(lambda n: n.state != "down")),
        Gauge("skerry_node_suspicion_phi", "Of its silence.", node, per_node(lambda n: n.phi)),
        Gauge("skerry_node_capacity_cpu_millicores", "Has.", node, per_node(lambda n: n.capacity.cpu_millicores)),
        Gauge("skerry_node_capacity_memory_bytes", "Has.", node, per_node(lambda n: n.capacity.memory_mib << 20)),
        Gauge("skerry_node_reserved_cpu_millicores", "Promised.", node, per_node(lambda n: n.reserved.cpu_millicores)),
        Gauge("skerry_node_reserved_memory_bytes", "Promised.", node, per_node(lambda n: n.reserved.memory_mib << 20)),
        Gauge("skerry_instances", "By state.", ["site", "state"], [([*k], v) for k, v in sorted(by_state.items())]),
        Gauge("skerry_instances_memory_bytes", "Sum.", ["site"], [([k], v) for k, v in sorted(memory.items())]),
        Gauge("skerry_instances_restarts", "Of those there are.", ["site"], [([k], v) for k, v in sorted(restarts.items())]),
        Gauge("skerry_apps", "By rollout.", ["rollout"], [([k], v) for k, v in sorted(by_rollout.items())]),
    )
