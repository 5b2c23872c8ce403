"""Turns on a node's CPUs, without I/O: of those who yield, only about as many run at once as there are CPUs.

Why: a kernel owes every group that waits a part of the CPU, however little that is, and pays in whole ticks. Whoever wakes up
beside ten that are owed waits for ten ticks; beside one, hardly ever for one (docs/decisions/0016).

    yields, wants more than its part ──► has a turn ◄──► is held, until its next turn
                                            └── did not use it ──► is left alone until it wants to run again

Nothing is left unused: who sleeps is not held and takes no place; while the node's CPUs rest, more run at once. Fair: each
waits for all others once.
"""

from collections.abc import Collection, Mapping, Sequence

from skerry.kit.record import Record


class TurnSettings(Record):
    """`cpus`: how many run at once, if all of them want to. A turn is so long that all have one in `cycle_ms`, within bounds."""

    cpus: int = 1
    turn_ms_least: int = 50
    turn_ms_most: int = 250
    cycle_ms: int = 1_500  # health checks of 2 s have to be answered
    used_percent: int = 5  # of its turn: who used less sleeps …
    eased_percent: int = 80  # … and who used less has what it wants
    rest_percent: int = 5  # of the node: who has so much to spare lets more run at once …
    full_percent: int = 1  # … and fewer, with less than so much


class Turns(Record):
    """Who runs, and who is held, the next one first. Nobody is held while all have a place: then there are no turns.

    `eased`: those of them whose last turn was longer than they needed.
    """

    running: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    places: int = 0
    eased: frozenset[str] = frozenset()

    @property
    def starved(self) -> frozenset[str]:
        """Those who would use more, were there no turns."""
        return frozenset((*self.running, *self.held)) - self.eased if self.held else frozenset()


def seat(turns: Turns, wanting: Collection[str], settings: TurnSettings, *, rest_millicores: int | None = None) -> Turns:
    """A look at the node: all who want to run although they yield. Who is new has run until now, and goes behind the others.

    `rest_millicores`: that nobody used since the last one; None: not known.
    """
    there = {*turns.running, *turns.held}
    running = tuple(one for one in turns.running if one in wanting)
    held = (*(one for one in turns.held if one in wanting), *sorted(set(wanting) - there))
    full = rest_millicores is not None and rest_millicores < settings.cpus * 10 * settings.full_percent
    places = max(0 if full and not turns.held else turns.places, _least(len(running) + len(held), settings))
    return _filled(running, held, places, turns.eased.intersection((*running, *held)))


def turn(turns: Turns, used_us: Mapping[str, int], *, elapsed_ms: int, idle_us: int, settings: TurnSettings) -> Turns:
    """The end of one: `used_us` by who has run, what it waited too, and `idle_us` of all CPUs of the node, in `elapsed_ms`."""

    def used(percent: int) -> tuple[str, ...]:
        return tuple(one for one in turns.running if used_us.get(one, 0) * 100 >= elapsed_ms * 1000 * percent)

    awake, all_of_it = used(settings.used_percent), used(settings.eased_percent)
    eased = (turns.eased | frozenset(awake)) - frozenset(all_of_it)
    places = _places(turns, len(awake) + len(turns.held), idle_us, elapsed_ms, settings)
    return _filled((), (*turns.held, *awake), places, eased.intersection((*turns.held, *awake)))


def turn_ms(turns: Turns, settings: TurnSettings) -> int | None:
    """How long the one that begins is; None: there are none."""
    if not turns.held:
        return None
    wanted = settings.cycle_ms * turns.places // (len(turns.running) + len(turns.held))
    return max(settings.turn_ms_least, min(settings.turn_ms_most, wanted))


def _least(count: int, settings: TurnSettings) -> int:
    """So many places that all have a turn in one cycle."""
    return max(1, settings.cpus, -(-count * settings.turn_ms_least // settings.cycle_ms))


def _places(turns: Turns, count: int, idle_us: int, elapsed_ms: int, settings: TurnSettings) -> int:
    whole_us = max(1, elapsed_ms) * 1000
    places, rest = turns.places, idle_us * 100 // (whole_us * settings.cpus)
    if rest >= settings.rest_percent:
        places += max(1, idle_us // whole_us)
    elif rest < settings.full_percent:
        places -= 1
    return min(max(places, _least(count, settings)), max(count, _least(count, settings)))


def _filled(running: Sequence[str], held: Sequence[str], places: int, eased: frozenset[str]) -> Turns:
    """Who runs goes on, as far as there are places; the next who are held take the free ones."""
    waiting = (*held, *running[places:])
    free = max(0, places - len(running))
    return Turns(running=(*running[:places], *waiting[:free]), held=waiting[free:], places=places, eased=eased)
