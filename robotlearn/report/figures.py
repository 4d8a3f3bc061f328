"""Which charts are drawn, of one run and of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robotlearn.report.chart import Band, Chart, Line, Style
from robotlearn.report.run import Points, Row, Run, number, points
from robotlearn.report.seeds import Group, middle

STEPS, TIME = "env_steps", "seconds"
SMOOTHED = 5
"""Updates over which updates per second are taken."""
OTHER_SEEDS = 4  # colour: grey
PALETTE = 8


@dataclass(frozen=True)
class Axis:
    """Along x: a key of the rows, in units that suit the longest run."""

    key: str
    label: str
    unit: float = 1.0

    def of(self, rows: Sequence[Row], y: str) -> Points:
        return [(x / self.unit, value) for x, value in points(rows, self.key, y)]


def axis(key: str, runs: Sequence[Run]) -> Axis:
    if key == STEPS:
        return Axis(key, "environment steps")
    longest = max((number(run.last.get(key)) or 0.0 for run in runs), default=0.0)
    if longest > 3 * 3600:
        return Axis(key, "time of reinforcement, hours", 3600.0)
    return Axis(key, "time of reinforcement, min", 60.0) if longest > 300 else Axis(key, "time of reinforcement, s")


def success(run: Run, key: str, others: Sequence[Run] = ()) -> Chart:
    """Training and evaluation of a run; `others` differ from it in the seed only and are drawn around it."""
    along = axis(key, [run, *others])
    measured = [row for row in run.evaluations if number(row.get(key)) is not None]
    intervals = _intervals(measured, "eval")
    lines, bands = [], []
    if others:
        curves = [along.of(one.updates, "success") for one in (run, *others)]
        median, band = middle(curves)
        names = [f"seed {one.config.seed}" for one in others]
        lines += [Line(curve, name, OTHER_SEEDS, "thin") for curve, name in zip(curves[1:], names, strict=True)]
        bands.append(Band(band, OTHER_SEEDS))
        lines.append(Line(median, _of_seeds("training", [run, *others]), OTHER_SEEDS, "dashed"))
    lines.append(Line(along.of(run.updates, "success"), "training episodes (sampled)", 0))
    lines.append(
        Line(along.of(measured, "eval_success"), "evaluation (no exploration), 95 % interval", 1, "dots", intervals)
    )
    title = "Success over environment steps" if key == STEPS else "Success over time"
    return Chart(title, along.label, lines, bands, (0.0, 1.0), percent=True)


def imitation(run: Run) -> Chart:
    """What was measured on the way to the start; of a single measurement there is no curve."""
    rows = [row for row in run.imitation if number(row.get("imitation_success")) is not None]
    curve = points(rows, "imitation_steps", "imitation_success") if len(rows) > 1 else []
    line = Line(curve, "no exploration, 95 % interval", 1, "dots", _intervals(rows, "imitation"))
    return Chart("Success over imitation", "steps of imitation", [line], (), (0.0, 1.0), percent=True)


def success_by_part(run: Run) -> dict[str, tuple[Points, Points]]:
    """Per TASK/EMBODIMENT success over environment steps: of training episodes, and without exploration."""
    keys = {key for row in run.rows for key in row}
    names = sorted({key.partition("success/")[2] for key in keys if key.startswith(("success/", "eval_success/"))})
    return {
        name: (points(run.rows, STEPS, f"success/{name}"), points(run.rows, STEPS, f"eval_success/{name}"))
        for name in names
    }


def success_by_instruction(run: Run) -> dict[str, Points]:
    """Success without exploration over environment steps, by the words that the episodes were told."""
    prefix = "eval_instruction/"
    told = sorted({key for row in run.rows for key in row if key.startswith(prefix)})
    return {key.removeprefix(prefix): points(run.rows, STEPS, key) for key in told}


def details(run: Run) -> dict[str, list[Chart]]:
    """The other charts of a run, by the heading they stand under; those without a value are left out."""
    along, rows = axis(STEPS, [run]), run.updates

    def chart(title: str, *lines: tuple[str, str], percent: bool = False) -> Chart:
        drawn = [
            Line(along.of(rows, key), label, colour, "line" if colour == 0 else "dashed")
            for colour, (key, label) in enumerate(lines)
        ]
        return Chart(title, along.label, drawn, percent=percent)

    rate = Line([(x / along.unit, y) for x, y in updates_per_second(rows)], f"over {SMOOTHED} updates")
    found = {
        "Staleness and throughput": [
            chart("Staleness, versions", ("staleness_mean", "mean"), ("staleness_max", "largest")),
            chart("Environment steps per second", ("samples_per_s", "moving average")),
            Chart("Updates per second", along.label, [rate]),
            chart("Optimiser steps per environment step", ("update_to_data", "since training began")),
            chart("Images that were drawn from memory", ("replay/hits", "share since the start"), percent=True),
        ],
        "Learning": [
            chart("Policy loss", ("loss/policy", "mean of the update")),
            chart("Value loss", ("loss/value", "mean of the update"), ("loss/critic", "of a critic")),
            chart("Estimates of the critics", ("q/mean", "of what was done"), ("q/target", "what they learn towards")),
            chart("Entropy of a chunk", ("entropy", "mean of the update"), ("target_entropy", "held")),
            chart("KL to the proximal policy", ("kl", "mean"), ("kl_max", "largest of a minibatch")),
            chart("Clipped share of the ratios", ("clip_fraction", "mean of the update"), percent=True),
            chart("Variance that the critic explains", ("explained_variance", "before the update")),
            chart("Groups of episodes", ("groups", "all"), ("groups_without_signal", "of equal returns")),
            chart("Gradient norms", ("grad_norm/policy", "policy"), ("grad_norm/value", "value")),
            chart("Imitation loss", ("loss/imitation", "mean of the update")),
            chart("Return of an episode", ("return", "mean")),
            chart("Length of an episode, steps", ("episode_steps", "mean")),
            chart("Seconds of an update", ("update_seconds", "computing")),
        ],
    }
    return {heading: [one for one in charts if not one.empty] for heading, charts in found.items()}


def updates_per_second(rows: Sequence[Row]) -> Points:
    """(environment steps, updates per second) over stretches of a few updates, evaluations in between included."""
    timed = [row for row in rows if None not in (number(row.get("seconds")), number(row.get(STEPS)))]
    found = []
    for before, row in zip(timed, timed[SMOOTHED:], strict=False):
        elapsed = row["seconds"] - before["seconds"]
        if elapsed > 0:
            found.append((row[STEPS], (row["updates"] - before["updates"]) / elapsed))
    return found


def side_by_side(groups: Sequence[Group], names: Sequence[str]) -> list[Chart]:
    """Charts of several runs: one colour per config; where it has several seeds, thin curves, median and band."""
    runs = [run for group in groups for run in group.runs]
    steps, time = axis(STEPS, runs), axis(TIME, runs)

    def chart(title: str, along: Axis, key: str, *, percent: bool = False, updates: bool = True) -> Chart:
        lines, bands = [], []
        for index, (group, name) in enumerate(zip(groups, names, strict=True)):
            colour = index % PALETTE
            curves = [along.of(run.updates if updates else run.evaluations, key) for run in group.runs]
            median, band = middle(curves)
            seeds = [f"{name}, seed {run.config.seed}" for run in group.runs]
            if median:
                lines += [Line(curve, seed, colour, "thin") for curve, seed in zip(curves, seeds, strict=True)]
                lines.append(Line(median, _of_seeds(name, group.runs), colour, "thick"))
                bands.append(Band(band, colour))
                continue
            labels = [name] if len(curves) == 1 else seeds
            style: Style = "line" if updates else "dots"
            lines += [Line(curve, label, colour, style) for curve, label in zip(curves, labels, strict=True)]
        return Chart(title, along.label, lines, bands, (0.0, 1.0) if percent else None, percent)

    charts = [
        chart(
            "Success without exploration, over environment steps", steps, "eval_success", percent=True, updates=False
        ),
        chart("Success without exploration, over time", time, "eval_success", percent=True, updates=False),
        chart("Success in training, over environment steps", steps, "success", percent=True),
        chart("Success in training, over time", time, "success", percent=True),
        chart("Largest staleness, versions", steps, "staleness_max"),
        chart("Environment steps per second", steps, "samples_per_s"),
        chart("Mean KL to the proximal policy", steps, "kl"),
        chart("Value loss", steps, "loss/value"),
    ]
    return [one for one in charts if not one.empty]


def _of_seeds(name: str, runs: Sequence[Run]) -> str:
    several = "seeds" if len({run.config.seed for run in runs}) == len(runs) else "runs"
    return f"{name}, {len(runs)} {several}: median, lowest to highest"


def _intervals(rows: Sequence[Row], kind: str) -> list[tuple[float, float]]:
    """Of each row's success; where a bound is missing, it is the rate itself."""

    def bound(row: Row, end: str) -> float:
        value = number(row.get(f"{kind}_{end}"))
        return row[f"{kind}_success"] if value is None else value

    return [(bound(row, "low"), bound(row, "high")) for row in rows]
