"""What `skerry top` makes of what nodes say."""

from rich.console import Console

from skerry.apps.using import Usages, Used
from skerry.core.types.ids import InstanceId
from skerry.core.types.strain import Strain
from skerry.core.types.usage import InstanceUsage

USAGE = InstanceUsage(
    instance=InstanceId("00112233445566aa"),
    used_millicores=168,
    share_millicores=100,
    granted_millicores=170,
    limit_millicores=1000,
    credit_us=2_500_000,
    held="others wait for the CPU: 170 of 1000 millicores",
    cpu_us=1,
    throttled_us=1,
    memory_bytes=30 << 20,
    private_bytes=20 << 20,
    memory_bytes_max=128 << 20,
    pids=3,
    oom_kills=0,
)


def line(usage: InstanceUsage | None, *, problem: str = "", strains: tuple[Strain, ...] = ()) -> Used:
    return Used(
        instance=USAGE.instance,
        account="default",
        app="hello",
        city="lhr",
        node="lhr-1",
        state="running",
        restarts=2,
        detail="",
        usage=usage,
        problem=problem,
        strains=strains,
    )


def shown(*lines: Used, width: int = 240, height: int = 50, live: str = "") -> str:
    console = Console(width=width, height=height)
    with console.capture() as capture:
        console.print(Usages(lines, live=live))
    return capture.get()


def test_a_line_says_what_is_used_of_what_and_why_not_more() -> None:
    text = shown(line(USAGE))
    for word in ("168 m", "100 m", "170 of 1000 m", "2.5 s", "30.0 of 128 MiB", "20.0 MiB", "default/hello", "lhr-1"):
        assert word in text
    assert "00112233 on lhr-1: others wait for the CPU: 170 of 1000 millicores" in text


def test_an_instance_whose_node_does_not_tell_is_there_with_the_reason() -> None:
    text = shown(line(None, problem="lhr does not come for its calls"))
    assert "running" in text
    assert "00112233 on lhr-1: lhr does not come for its calls" in text


def test_in_a_narrow_terminal_columns_are_left_out_and_no_number_is_cut() -> None:
    for width in range(70, 200, 10):
        text = shown(line(USAGE), width=width)
        for word in ("168 m", "170 of 1000 m", "30.0 of 128 MiB", "default/hello", "running"):
            assert word in text
        head = next(line for line in text.splitlines() if "state" in line)
        _, _, below = text.partition("also has:")
        for name, word in (("share", "100 m"), ("credits", "2.5 s"), ("private", "20.0 MiB"), ("node", "lhr-1   ")):
            assert (name in head) == (word in text) != (name in below.split("\n\n")[0])


def test_more_instances_than_lines_are_counted_and_the_busiest_stay() -> None:
    text = shown(*[line(USAGE) for _ in range(40)], height=20, live="12:00:00")
    assert "40 instances, 6720 m of CPU, 800 MiB private; 12:00:00" in text
    assert len(text.splitlines()) <= 20
    assert "more, which use less" in text


def test_a_limit_that_it_came_to_is_told() -> None:
    full = Strain(limit="disk", since_ms=1, text="its disk is full (64 MiB): writing fails")
    assert "00112233 on lhr-1: its disk is full (64 MiB): writing fails" in shown(line(None, strains=(full,)))
