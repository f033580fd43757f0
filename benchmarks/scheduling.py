"""Cost of a scheduling decision: the state tree with many pending calls, 10 % of them in conflict."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Final

from benchmarks.harness import Options, ratio
from benchmarks.report import Figure, Section, Spread, Table, at_most

SIZES: Final = (1_000, 10_000, 100_000)


def run(options: Options) -> Section:
    """The curve: microseconds per submission at 1k, 10k and 100k pending calls."""
    from asyncfc_mcp.core.effects import Effect
    from asyncfc_mcp.core.state_tree import StateTree

    def spread_out(number: int) -> Effect:
        return Effect((), (("s", "fs", f"d{number % 100}", f"f{number}"),), "config")

    def one_hot_cell(number: int) -> Effect:
        return spread_out(number) if number % 10 else Effect((), (("s", "fs", "hot"),), "config")

    def hot_cells(number: int) -> Effect:
        return spread_out(number) if number % 10 else Effect((), (("s", "fs", f"hot{number % 1000}"),), "config")

    def whole_server(number: int) -> Effect:
        if number % 10:
            return Effect((("s", "fs", f"d{number % 100}", f"f{number}"),), (), "config")
        return Effect((), (("s",),), "config")

    kinds: dict[str, Callable[[int], Effect]] = {
        "10 % write one hot cell": one_hot_cell,
        "10 % write 100 hot cells": hot_cells,
        "10 % write the whole server": whole_server,
    }

    def measure(effect_of: Callable[[int], Effect], size: int, *, collector: bool) -> tuple[float, float]:
        """Seconds per call to submit all, and to run and settle all."""
        effects = [(str(number), effect_of(number)) for number in range(size)]
        tree = StateTree()
        gc.collect()
        if not collector:
            gc.disable()
        try:
            began = time.perf_counter()
            for key, effect in effects:
                tree.submit(key, effect)
                tree.ready(key)
            submitted = time.perf_counter()
            ready = [key for key, _ in effects if tree.ready(key)]
            done = 0
            while ready:
                key = ready.pop()
                tree.start(key)
                ready += tree.settle(key, outcome="completed").ready
                done += 1
            ended = time.perf_counter()
        finally:
            gc.enable()
        assert done == size, "some call never had its turn"
        return (submitted - began) / size, (ended - submitted) / size

    section = Section("scheduling", "Deciding who may run")
    rows: list[list[str]] = []
    for name, effect_of in kinds.items():
        times: dict[tuple[int, bool], list[tuple[float, float]]] = {}
        for _ in range(max(3, options.rounds // 3)):
            for size in SIZES[: options.scaled(3, 2)]:
                for collector in (False, True):
                    # A short measurement is at the mercy of one interruption: the better of a few counts.
                    repeats = 1 if size == SIZES[-1] else 3
                    best = min((measure(effect_of, size, collector=collector) for _ in range(repeats)), key=sum)
                    times.setdefault((size, collector), []).append(best)
        for size in SIZES[1 : options.scaled(3, 2)]:
            spread = ratio([sum(each) for each in times[size, False]], [sum(each) for each in times[SIZES[0], False]])
            what = f"cost per call, {size:,} pending against {SIZES[0]:,}: {name}"
            figure_key = f"{name.removeprefix('10 % write ').replace(' ', '_')}_{size}"
            section.figures.append(Figure(figure_key, what, spread, at_most(2.0)))
        for (size, collector), values in times.items():
            if not collector:
                submit, settle = (Spread.of([each[n] for each in values]).median * 1e6 for n in (0, 1))
                total = Spread.of([sum(each) for each in times[size, True]]).median * 1e6
                rows.append([name, f"{size:,}", f"{submit:.1f}", f"{settle:.1f}", f"{total:.1f}"])
    head = ("workload", "pending", "µs to submit a call", "µs to start and settle it", "both, collector on")
    section.tables.append(Table("Microseconds per call", head, rows))
    section.notes.append(
        "Ratios with Python's garbage collector off, since they are about the algorithm; the collector walks over "
        "everything that lives, and its share is in the last column."
    )
    return section
