"""What is read of /proc about waiting."""

from pathlib import Path

from skerry.adapters.pressure import THREADS_MAX, ProcGauge


def process(proc: Path, pid: int, *, threads: int = 1, waited_ns: int = 0, children: str = "") -> None:
    for number in range(threads):
        task = proc / str(pid) / "task" / str(pid + number)
        task.mkdir(parents=True)
        (task / "schedstat").write_text(f"1 {waited_ns} 1\n")
        (task / "children").write_text(children if number == 0 else "")


def test_a_process_waits_with_all_that_it_started(tmp_path: Path) -> None:
    process(tmp_path, 10, threads=2, waited_ns=3_000_000, children="20 30 ")
    process(tmp_path, 20, waited_ns=500_000, children="40 ")
    process(tmp_path, 40, waited_ns=7_000)
    process(tmp_path, 99, waited_ns=9_000_000)
    assert ProcGauge(tmp_path).waited_us(10) == 6_000 + 500 + 7  # 30 has ended in the meantime


def test_one_that_is_gone_is_not_known_and_a_crowd_is_looked_at_in_part(tmp_path: Path) -> None:
    assert ProcGauge(tmp_path).waited_us(10) is None
    process(tmp_path, 10, threads=THREADS_MAX + 40, waited_ns=1_000)
    assert ProcGauge(tmp_path).waited_us(10) == THREADS_MAX
