"""The page of one run."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hal.data import data_path
from robotlearn.config.edge import BatchEdgeConfig
from robotlearn.config.load import load_config
from robotlearn.durable import write_atomic
from robotlearn.report import figures
from robotlearn.report.accounts import Balance, counts
from robotlearn.report.chart import Chart, compact, figure, spark
from robotlearn.report.html import document, duration, moment, percent, section, table, tiles
from robotlearn.report.run import GOOD, Run, number, points
from robotlearn.report.values import differing, value_of

VIDEO_BYTES = 24 << 20
"""Of all videos in one page; beyond it the oldest but the first are left out, and that is said."""


def write_report(run: Run, others: Sequence[Run] = ()) -> Path:
    """Write RUN/report.html, whole or not at all; `others` differ from `run` in nothing but the seed."""
    write_atomic(run.folder.report, page(run, others).encode())
    return run.folder.report


def page(run: Run, others: Sequence[Run] = ()) -> str:
    """The whole page, HTML."""
    charts = [figures.imitation(run)] if run.imitation else []
    if run.updates:
        charts += [figures.success(run, key, others) for key in (figures.STEPS, figures.TIME)]
    body = [
        _head(run, others),
        section("Success", _grid([one for one in charts if not one.empty], "wide") + _parts(run) + _instructions(run)),
        section("The policy on film", _videos(run)),
        *(section(heading, _grid(found)) for heading, found in figures.details(run).items() if found),
        section("What was counted", _accounts(run)),
        section("Config", _config(run)),
    ]
    return document(f"{run.title}, seed {run.config.seed}: {run.name}", "".join(body))


def outcome(run: Run) -> str:
    """One sentence: what the run came to."""
    if not run.rows:
        steps, success = points(run.imitation, "imitation_steps", "imitation_success")[-1]
        return f"So far imitation taught the policy to succeed at {percent(success)}, in {steps:.0f} steps."
    summary = run.summary()
    spent = [f"{summary.updates} update{'s' * (summary.updates != 1)}"]
    if summary.env_steps is not None:
        spent.append(f"{summary.env_steps:,} environment steps")
    if summary.seconds is not None:
        spent.append(duration(summary.seconds))
    after = f"after {', '.join(spent[:-1])} and {spent[-1]}" if len(spent) > 1 else f"after {spent[0]}"
    start, final = summary.start_success, summary.final_success
    if final is None:
        recent = [value for _, value in figures.axis("updates", [run]).of(run.updates, "success")[-5:]]
        if recent:
            return f"Training episodes succeeded at {percent(sum(recent) / len(recent))} {after}; not evaluated yet."
        return f"The policy that imitation taught succeeds at {percent(start)}; no update yet."
    interval = "" if summary.final_low is None or summary.final_high is None else (
        f" [{100 * summary.final_low:.1f}, {100 * summary.final_high:.1f}]"
    )  # fmt: skip
    if not run.config.learner.updates:
        return f"The policy that imitation taught succeeds at {percent(final)}{interval}; nothing else was wanted."
    if start is None:
        return f"Success without exploration is {percent(final)}{interval} {after}."
    if percent(start) == percent(final):
        return f"Success without exploration stayed at {percent(final)}{interval} {after}."
    way = "rose" if final > start else "fell"
    return f"Success without exploration {way} from {percent(start)} to {percent(final)}{interval} {after}."


def _head(run: Run, others: Sequence[Run]) -> str:
    config, summary, state = run.config, run.summary(), run.state
    versions = [value for row in run.rows if (value := number(row.get("version"))) is not None]
    times = [value for row in run.rows or run.imitation if (value := number(row.get("time"))) is not None]
    edges = ", ".join(
        f"{edge.name} ({f'{edge.arms} simulated arms' if isinstance(edge, BatchEdgeConfig) else 'one paced arm'})"
        for edge in config.edges
    )
    taught = config.algorithm.name if config.learner.updates else "imitation"
    facts = [
        ("Run", run.name),
        ("Policy", f"{config.policy.kind}, chunks of {config.policy.horizon}; {taught}"),
        ("Seed", ", ".join([str(config.seed), *(f"{one.config.seed} (thin)" for one in others)])),
        ("Edges", edges),
        ("Weights", f"versions {min(versions):.0f} to {max(versions):.0f}" if versions else ""),
        ("Measured", f"{moment(times[0])} to {moment(times[-1])}" if times else ""),
    ]
    listed = "".join(f"<div><dt>{what}</dt><dd>{escape(text)}</dd></div>" for what, text in facts if text)
    bound = config.learner.max_staleness
    low, high = summary.final_low, summary.final_high
    values = [
        ("Success, start", percent(summary.start_success), "no exploration"),
        (
            "Success, now" if state == "running" else "Success, end",
            percent(summary.final_success),
            f"{100 * low:.1f} to {100 * high:.1f}, n = {summary.final_episodes}"
            if low is not None and high is not None
            else "not evaluated yet",
        ),
        (
            f"To {100 * GOOD:.0f} %",
            "–" if summary.seconds_to_90 is None else duration(summary.seconds_to_90),
            "not reached" if summary.env_steps_to_90 is None else f"and {compact(summary.env_steps_to_90)} steps",
        ),
        ("Updates", str(summary.updates), f"of at most {config.learner.updates}"),
        ("Env. steps", "–" if summary.env_steps is None else compact(summary.env_steps), "taken in"),
        ("Time", "–" if summary.seconds is None else duration(summary.seconds), "of reinforcement"),
        ("Steps per s", "–" if summary.samples_per_s is None else f"{summary.samples_per_s:,.0f}", "mean"),
        (
            "Max. staleness",
            "–" if summary.staleness_max is None else str(summary.staleness_max),
            f"bound {bound:g}" if bound != float("inf") else "no bound",
        ),
    ]
    return (
        f'<header><h1>{escape(run.title)} <span class="state {state}">{state}</span></h1>'
        f'<p class="outcome">{escape(outcome(run))}</p><dl class="facts">{listed}</dl></header>{tiles(values)}'
    )


def _grid(charts: Sequence[Chart], kind: str = "") -> str:
    return f'<div class="grid {kind}">{"".join(map(figure, charts))}</div>' if charts else ""


def _parts(run: Run) -> str:
    """Success per task and embodiment, where the rows tell them apart."""
    rows = []
    for name, (training, evaluation) in figures.success_by_part(run).items():
        task, _, embodiment = name.partition("/")
        last = [percent(curve[-1][1] if curve else None) for curve in (training, evaluation)]
        label = f"{task} {embodiment}: training {last[0]}, evaluation {last[1]} at the end"
        rows.append([escape(task), escape(embodiment), *last, spark((training, evaluation), label)])
    key = '<i class="key line c{}"></i>'
    head = ["task", "embodiment", f"{key.format(0)}training", f"{key.format(1)}evaluation", "course"]
    return f"<h3>By task and embodiment, newest</h3>{table(head, rows, (2, 3))}" if rows else ""


def _instructions(run: Run) -> str:
    """Success per instruction, where the words say which of several goals is meant."""
    rows = []
    for words, evaluation in figures.success_by_instruction(run).items():
        last = percent(evaluation[-1][1] if evaluation else None)
        rows.append([escape(words), last, spark(((), evaluation), f"{words}: evaluation {last} at the end")])
    head = ["instruction", '<i class="key line c1"></i>evaluation', "course"]
    return f"<h3>By instruction, newest</h3>{table(head, rows, (1,))}" if rows else ""


def _videos(run: Run) -> str:
    files = sorted(path for path in run.folder.videos.glob("*.mp4") if path.is_file())
    if not files:
        return ""
    taken: list[Path] = []
    left: list[Path] = []
    total = 0
    for path in [files[0], *reversed(files[1:])]:
        total += path.stat().st_size
        (taken if total <= VIDEO_BYTES else left).append(path)
    shown = "".join(
        f'<figure><video controls muted loop playsinline src="data:video/mp4;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></video>'
        f"<figcaption>{escape(_film_title(path))}</figcaption></figure>"
        for path in sorted(taken)
    )
    note = f"<p>Left out for their size: {escape(', '.join(path.name for path in left))}.</p>" if left else ""
    return f'<div class="grid films">{shown}</div>{note}'


def _film_title(path: Path) -> str:
    """Of `version-000088.mp4`, or `version-000088-lift-panda.mp4` where there are several tasks or robots."""
    version, _, part = path.stem.removeprefix("version-").partition("-")
    if not version.isdecimal():
        return path.stem
    return f"version {int(version)}{', ' if part else ''}{part}: four arms, without exploration"


def _accounts(run: Run) -> str:
    balance = Balance.of(run.last)
    parts = []
    if balance is not None:
        kind, word = ("good", "holds") if balance.holds else ("bad", "does not hold")
        if balance.surplus > 0:
            word = "holds as far as the edges have told"
        parts.append(
            f'<p class="balance {kind}"><b>Nothing lost, nothing stored twice: {word}.</b> {escape(str(balance))}</p>'
        )
    blocks = "".join(
        f"<div><h3>{escape(heading)}</h3>"
        + table((), [[_meaning(key, text), f"{value:,}"] for key, value, text in lines], (1,))
        + "</div>"
        for heading, lines in counts(run.last).items()
    )
    if run.undone:
        parts.append(f"<p>{run.undone} rows of metrics were done again after a resume and are not shown.</p>")
    return "".join(parts) + f'<div class="columns">{blocks}</div>'


def _meaning(key: str, text: str) -> str:
    return f"{escape(text or key)}<small>{escape(key) if text else ''}</small>"


def _config(run: Run) -> str:
    """What differs from the shipped config that is nearest, and the whole of it."""
    shipped = {file.stem: load_config(file) for file in data_path("configs").glob("*.yaml")}
    alike = {name: config for name, config in shipped.items() if config.task == run.config.task}
    text = ""
    if alike:
        name = min(alike, key=lambda one: len(differing([run.config, alike[one]])))
        keys = differing([run.config, alike[name]])
        rows = [
            [f"<code>{escape(key)}</code>", escape(value_of(run.config, key)), escape(value_of(alike[name], key))]
            for key in keys
        ]
        text = f"<p>As the shipped config <code>{escape(name)}</code>" + (
            f", but for:</p>{table(['key', 'this run', name], rows)}" if rows else ".</p>"
        )
    whole = run.folder.config.read_text(encoding="utf-8")
    return f"{text}<details><summary>The config as run</summary><pre>{escape(whole)}</pre></details>"
