"""Which limits are told, from when on and for how long."""

from msgspec.structs import replace

from skerry.core.machines.strains import Seen, Strained, StrainSettings, adopted, look

SETTINGS = StrainSettings(told_ms=60_000, cpu_window_ms=10_000, cpu_percent=20)
CALM = Seen(
    memory_mib_max=128, pids_max=512, cpu_millicores_max=500, disk_bytes_max=64 << 20, disk_files_max=1000, descriptors_max=1024
)
T0 = 1_000_000


def seen(state: Strained, now_ms: int = T0, **changes: object) -> Strained:
    return look(state, replace(CALM, **changes), now_ms, SETTINGS)  # type: ignore[arg-type]


def limits(state: Strained) -> list[str]:
    return [strain.limit for strain in state.strains]


def test_one_that_has_room_is_told_nothing() -> None:
    assert limits(seen(Strained(), disk_bytes=32 << 20, descriptors=1000, disk_files=900)) == []


def test_each_limit_has_words_with_its_number() -> None:
    full = {
        "processes": ({"forks_refused": 3}, "512"),
        "memory": ({"oom_kills": 1}, "128 MiB"),
        "disk": ({"disk_bytes": 64 << 20}, "64 MiB"),
        "descriptors": ({"descriptors": 1024}, "1024"),
        "log": ({"log_lost": True}, "lost"),
    }
    for limit, (fields, word) in full.items():
        state = seen(Strained(), **fields)
        assert limits(state) == [limit]
        assert word in state.strains[0].text


def test_a_disk_that_has_room_for_bytes_and_for_no_file_is_full() -> None:
    assert "1000 files" in seen(Strained(), disk_files=1000).strains[0].text


def test_what_cannot_be_told_is_no_limit() -> None:
    assert limits(seen(Strained(), disk_bytes_max=0, descriptors_max=0, disk_files_max=0)) == []


def test_an_end_for_lack_of_memory_is_told_without_a_counter() -> None:
    assert limits(seen(Strained(), ran_out=True)) == ["memory"]


def test_it_is_told_since_it_was_first_seen_and_for_a_while_after_it_was_last() -> None:
    state = seen(Strained(), T0, forks_refused=1)
    state = seen(state, T0 + 50_000, forks_refused=2)
    state = seen(state, T0 + 100_000, forks_refused=2)
    assert [strain.since_ms for strain in state.strains] == [T0]
    assert limits(seen(state, T0 + 110_000, forks_refused=2)) == []


def test_the_next_process_counts_from_the_start() -> None:
    state = seen(Strained(), T0, forks_refused=100)
    state = seen(state, T0 + 1000)
    assert seen(state, T0 + 2000, forks_refused=1).told[0].last_ms == T0 + 2000


def test_what_an_earlier_agent_told_is_not_told_again() -> None:
    state = adopted(replace(CALM, forks_refused=7, oom_kills=1))
    assert limits(seen(state, forks_refused=7, oom_kills=1)) == []
    assert limits(seen(state, forks_refused=8, oom_kills=1)) == ["processes"]


def test_a_moment_at_the_cpu_limit_is_nothing_and_a_fifth_of_a_window_is() -> None:
    calm = hard = seen(Strained(), T0)
    calm = seen(calm, T0 + 10_000, throttled_us=1_900_000)
    assert limits(calm) == []
    hard = seen(hard, T0 + 5_000, throttled_us=5_000_000)
    assert limits(hard) == []  # the window is not over
    hard = seen(hard, T0 + 10_000, throttled_us=5_000_000)
    assert limits(hard) == ["cpu"]
    assert "500 m" in hard.strains[0].text


def test_the_cpu_of_the_next_process_is_looked_at_anew() -> None:
    state = seen(Strained(), T0, throttled_us=90_000_000)
    state = seen(state, T0 + 9_000, throttled_us=0)
    assert limits(seen(state, T0 + 12_000, throttled_us=1_000_000)) == []
    assert limits(seen(state, T0 + 19_000, throttled_us=3_000_000)) == ["cpu"]
