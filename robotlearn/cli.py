"""The command line. A command imports what it needs when it runs, so that `--help` is quick and an arm stays light."""

import errno
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robotlearn import gl
from robotlearn.commands.data import data
from robotlearn.commands.emulate import emulate
from robotlearn.commands.estop import estop
from robotlearn.commands.keys import keys
from robotlearn.commands.latency import latency
from robotlearn.commands.record import record
from robotlearn.commands.robots import robots
from robotlearn.commands.serve import serve
from robotlearn.commands.station import station
from robotlearn.commands.teleop import teleop
from robotlearn.commands.weights import weights
from robotlearn.version import __version__

if TYPE_CHECKING:
    from robotlearn.cluster.train import RayTraining
    from robotlearn.evaluation import Evaluation, Rate

app = typer.Typer(
    name="robotlearn",
    help="Online policy learning for real robots: edges collect, a learner learns, new weights come back.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a shipped config.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[key=value ...]", help="Overrides of the config, such as learner.updates=10."),
]
RunOption = Annotated[
    Path | None, typer.Option("--run", help="The run folder; by default runs/NAME-DATE-TIME.", show_default=False)
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on from the newest checkpoint of --run, with that run's config and the overrides given."
    ),
]
RerunOption = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="Watch the run live in Rerun: `viewer` opens it here, FILE.rrd is written for later, "
        "rerun+http://HOST:9876/proxy is one that runs elsewhere.",
    ),
]
LearnerOption = Annotated[str, typer.Option("--learner", help="Where the learner listens: tcp://HOST:PORT.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"robotlearn {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )


@app.command()
def train(
    config: ConfigArgument,
    overrides: Overrides = None,
    run: RunOption = None,
    resume: ResumeOption = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS",
            help="Place the processes on a Ray cluster by their resources: HOST:PORT or auto; local starts one.",
            show_default=False,
        ),
    ] = None,
    rerun: RerunOption = None,
) -> None:
    """Learner and edges on this machine, as child processes; ends with all of them."""
    from robotlearn.config.load import load_config
    from robotlearn.learner import live
    from robotlearn.run_folder import RunFolder
    from robotlearn.train import Training

    if rerun is not None:
        if ray is not None:
            raise typer.BadParameter("the learner may run on another machine with --ray; use one of the two")
        live.check(rerun)
    path = _run_path(config, run, resume)
    loaded = load_config(RunFolder.open(path).config if resume else config, overrides or [])
    if ray is not None:
        raise typer.Exit(_ray_training()(ray, config, loaded, overrides or [], path, resume=resume).run())
    raise typer.Exit(Training(config, loaded, overrides or [], path, resume=resume, rerun=rerun).run())


@app.command()
def learner(
    config: ConfigArgument,
    overrides: Overrides = None,
    run: RunOption = None,
    resume: ResumeOption = False,
    rerun: RerunOption = None,
    bind: Annotated[str | None, typer.Option(hidden=True)] = None,
    key: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """The learner alone; edges on this or other machines come to its address (learner.bind)."""
    import secrets

    from robotlearn.config.load import differences, dump, load_config
    from robotlearn.display import Display, busy
    from robotlearn.durable import write_atomic
    from robotlearn.errors import RunFolderError
    from robotlearn.learner import live
    from robotlearn.processes import freeze_heap, stop_on_signals
    from robotlearn.run_folder import RunFolder

    stop = stop_on_signals()
    if rerun is not None and bind is None:  # with one, `train` starts a learner anew: whatever is shown, it must run
        live.check(rerun)
    path = _run_path(config, run, resume)
    if resume:
        folder = RunFolder.open(path)
        own, loaded = load_config(folder.config), load_config(folder.config, overrides or [])
        other = differences(load_config(config), own)
        if other:
            typer.echo(
                f"the run goes on with its own config and what is overridden here; {config} differs from it in "
                f"{', '.join(other)}",
                err=True,
            )
    else:
        own = loaded = load_config(config, overrides or [])
        folder = RunFolder.create(path, dump(loaded), secrets.token_hex(8))
    with folder:
        try:
            with busy("starting"):
                # Only now: they import torch, and a folder in use is refused at once.
                from robotlearn.algorithms.errors import StateError
                from robotlearn.learner.learner import Learner

                shown = live.LiveView(rerun) if rerun is not None else None
                learning = Learner(loaded, folder, resume=resume, bind=bind, key=key, live=shown)
        except Exception:
            if not resume:
                folder.discard()
            raise
        before = folder.config.read_bytes()
        write_atomic(folder.config, dump(loaded).encode())
        freeze_heap()
        try:
            with Display(learning.view) as display:
                learning.run(stop, display)
        except StateError as error:
            write_atomic(folder.config, before)
            changed = ", ".join(differences(own, loaded))
            wrong = f"what was learnt doesn't fit {changed}, overridden here: " if changed else ""
            raise RunFolderError(f"{folder.path} can't go on: {wrong}{error}") from error


@app.command()
def edge(
    config: ConfigArgument,
    learner: LearnerOption,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Which of the config's edges; needed when it has several.")] = None,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder of its log; by default edges/NAME in ~/.local/state/robotlearn.", show_default=False),
    ] = None,
) -> None:
    """One edge: arms, policy, and the uplink to a learner, which may start later."""
    from robotlearn.config.edge import BatchEdgeConfig
    from robotlearn.config.load import load_config
    from robotlearn.edge.reach import described, reach
    from robotlearn.errors import ConfigError
    from robotlearn.processes import freeze_heap, stop_on_signals
    from robotlearn.robots.states import forget
    from robotlearn.state_folder import state_folder

    stop = stop_on_signals()
    loaded = load_config(config, overrides or [])
    names = [entry.name for entry in loaded.edges]
    chosen = loaded.edge(name) if name is not None else (loaded.edges[0] if len(names) == 1 else None)
    if chosen is None:
        wrong = f"no edge {name!r} in the config" if name is not None else "the config has several edges"
        raise ConfigError(f"{wrong}; choose with --name one of {', '.join(names)}")
    folder = state or state_folder() / "edges" / chosen.name
    logging.getLogger("robotlearn").setLevel(logging.INFO)
    with reach(chosen, learner) as address:
        if isinstance(chosen, BatchEdgeConfig):
            from robotlearn.edge.batch import BatchEdge

            running = BatchEdge(loaded, chosen, address, folder)
        else:
            from robotlearn.edge.station import Station

            forget(chosen.name)
            common = [*(overrides or []), "--edge", chosen.name]
            running = Station(
                loaded,
                chosen,
                address,
                folder,
                lambda part: [part, config, *common, *(["--learner", address] if part == "policy-server" else [])],
            )
        freeze_heap()
        way = "".join(f", {what}" for what in described(chosen))
        typer.echo(f"edge {chosen.name}: works for the learner at {learner}{way}, keeps its log in {folder}", err=True)
        try:
            running.run(stop)
        finally:
            running.close()


@app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its checkpoints.")],
    episodes: Annotated[int, typer.Option(min=1, help="How many; at least one for each robot and task.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and noise.")] = 1000,
    video: Annotated[Path | None, typer.Option(help="Film the first four arms: FILE.mp4 or FILE.gif.")] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="generalisation",
            help="A language task as in training, then with looks, words and starts that training never showed; "
            "--episodes of each.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Where the suite's picture goes; by default into the run folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Success rate of a run's newest policy, without exploration, with its 95 % Wilson interval.

    Where words say which of several things is meant, by instruction, too.
    """
    from robotlearn.errors import ConfigError

    if suite not in (None, "generalisation"):
        raise ConfigError(f"--suite {suite}: there is only one, 'generalisation'")
    if out is not None and (suite is None or out.suffix != ".png"):
        raise ConfigError(f"--out {out}: " + ("only with --suite" if suite is None else "not a .png"))
    if video is not None:
        if suite is not None:
            raise ConfigError(f"--video {video}: not with --suite, which draws a picture of its own, see --out")
        if video.suffix not in (".mp4", ".gif"):
            raise ConfigError(f"--video {video}: neither an .mp4 nor a .gif")
        if not gl.choose():
            raise ConfigError("--video: nothing to draw with, neither EGL nor OSMesa is installed")
    from robotlearn.saved_policy import find_policy

    saved = find_policy(run)
    if suite is not None:
        from rich.console import Console

        from robotlearn.suite_run import run_suite  # only now: it imports torch

        console = Console(file=sys.stdout)
        picture = out or saved.file.parent / "generalisation.png"
        run_suite(
            saved, episodes=episodes, seed=seed, picture=picture, drawable=gl.choose(), as_json=as_json, console=console
        )
        return
    version, cells = saved.version, len(saved.config.cells())
    if episodes < cells:
        typer.echo(f"--episodes {episodes}: there will be {cells}, one for each robot and task", err=True)
    from robotlearn.evaluate_run import evaluate_run  # only now: it imports torch

    measured = evaluate_run(saved, episodes=episodes, seed=seed, video=video, quiet=as_json)
    if as_json:
        typer.echo(json.dumps({"version": version, **measured.as_json()}))
    else:
        typer.echo(
            f"version {version}: success {measured.success:.1%} [{measured.low:.1%}, {measured.high:.1%}] "
            f"({measured.successes} of {measured.episodes}), return {measured.mean_return:.3f}, "
            f"length {measured.mean_steps:.1f} steps"
        )
        for name, part in measured.cells.items():
            typer.echo(_told(f"  {name}", part))
            for words, rate in part.instructions.items():
                typer.echo(_told(f"    {words}", rate))
        for words, rate in measured.instructions.items():
            typer.echo(_told(f"  {words}", rate))
        if video is not None:
            typer.echo(f"video: {video}")


def _told(what: str, rate: "Evaluation | Rate") -> str:
    return f"{what}: {rate.success:.1%} [{rate.low:.1%}, {rate.high:.1%}] ({rate.successes} of {rate.episodes})"


@app.command("run")
def run_policy(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="A run folder, or one of its checkpoints.")],
    robot: Annotated[
        str | None, typer.Option(help="A spec's name or YAML file; by default the run's robot.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="One of the run's tasks; needed when it has several.", show_default=False)
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="How many; in a dry run how many chunks.")] = 10,
    driver: Annotated[
        str | None,
        typer.Option(help="What talks to the robot, as mujoco, a simulated one; as the run did.", show_default=False),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="One of the driver's options, such as port=/dev/ttyACM0; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the policy would do and what safety would make of it; no move.")
    ] = False,
    ahead: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Ask for the next chunk this many steps before the running one ends; by default as the run's paced "
            "edge does, or 0: the arm holds still until its chunk is there.",
            show_default=False,
        ),
    ] = None,
    way: Annotated[
        str | None,
        typer.Option(
            help="What the arm does while the policy computes: hold, wait, overlap, rtc, vlash or prefix; by default "
            "what the run's paced edge does, or hold.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """A policy drives an arm, real or simulated, by the wall clock. Nothing is learnt, nothing is sent anywhere.

    Stopped by a signal before all episodes are done, it tells of those that are and ends with exit status 130.
    """
    from robotlearn.config.load import driver_options
    from robotlearn.display import Display
    from robotlearn.edge.drive import Drive
    from robotlearn.processes import stop_on_signals
    from robotlearn.saved_policy import find_policy_for

    stop = stop_on_signals()
    saved = find_policy_for(policy, robot, task, ahead, way, driver, driver_options(option))
    driving = Drive(saved, episodes=episodes, dry_run=dry_run)
    try:
        if as_json:
            driving.run(stop)
        else:
            with Display(driving.view) as display:
                driving.run(stop, display.say)
    finally:
        driving.close()
        if driving.done or stop.is_set():
            typer.echo(json.dumps(driving.outcome()) if as_json else driving.summary())
    if driving.done < episodes:
        raise typer.Exit(130)


app.command()(robots)
app.add_typer(station, name="station")
app.add_typer(keys, name="keys")
app.add_typer(data, name="data")
app.add_typer(weights, name="weights")
app.command()(emulate)
app.command()(teleop)
app.command()(serve)
app.command()(estop)
app.command()(latency)
app.command()(record)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Run folders; they may still be learning.")],
) -> None:
    """Write RUN/report.html, a page that opens anywhere; runs that differ in the seed only show each other's curve."""
    from robotlearn.report.compare import read_runs
    from robotlearn.report.page import write_report
    from robotlearn.report.seeds import same_but_seed

    read = read_runs(runs)
    for run in read:
        others = [other for other in read if other is not run and same_but_seed(run, other)]
        typer.echo(f"report: {write_report(run, others)}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN ...", help="Run folders; they may still be learning.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the curves of all, too.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Runs side by side: success, time and steps to 90 %, rate, staleness, and what their configs differ in."""
    from rich.console import Console

    from robotlearn.report.compare import compare, read_runs

    compare(read_runs(runs), as_json=as_json, page=html, console=Console(file=sys.stdout))


@app.command()
def view(
    what: Annotated[
        str, typer.Argument(metavar="ROBOT|RUN", help="A robot's spec (name or YAML file), a run folder or checkpoint.")
    ],
    robot: Annotated[str | None, typer.Option(help="Which of a run's robots; needed when it has several.")] = None,
    task: Annotated[
        str | None, typer.Option(help="The scene to put a robot into; of a run, which of its tasks.")
    ] = None,
    expert: Annotated[bool, typer.Option("--expert", help="Let the task's scripted expert act.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and noise.")] = 0,
) -> None:
    """MuJoCo's window: a robot to pull at, or a run's newest policy at work, in real time, until it is closed."""
    from robotlearn import window
    from robotlearn.processes import stop_on_signals

    window.check(what, robot=robot, task=task, expert=expert)
    window.need_display(what)
    from robotlearn.view import view as show  # only now: it imports torch

    show(what, robot=robot, task=task, expert=expert, seed=seed, stop=stop_on_signals(), say=typer.echo)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False) -> None:
    """What works here, what is missing, and the line that mends it; exit status 1 when something is broken."""
    from robotlearn.doctor.report import doctor as examine

    raise typer.Exit(examine(as_json=as_json))


@app.command("config")
def show_config(
    key: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A key, a section, or a word to look for; all without it.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page of all keys, as in the docs.")] = False,
) -> None:
    """What a config may hold: each key, what it takes, its default, what it means."""
    from robotlearn.config.reference import keys, matching, nearest_key, page
    from robotlearn.errors import ConfigError

    if markdown:
        typer.echo(page(), nl=False)
        return
    found = keys() if key is None else matching(key)
    if not found:
        near = nearest_key(str(key))
        hint = f", nearest is '{near}'" if near else "; `robotlearn config` shows all"
        raise ConfigError(f"no key of a config has anything to do with {key!r}{hint}")
    section = ""
    for one in found:
        if one.section != section:
            section = one.section
            typer.echo(f"\n{section}")
        default = f"default {one.default}" if one.default else "must be given"
        typer.echo(f"  {one.path}: {one.takes}; {default}\n      {one.meaning}")


@app.command(hidden=True)
def arm(
    config: ConfigArgument,
    edge: Annotated[str, typer.Option()],
    server: Annotated[str, typer.Option()],
    station: Annotated[str, typer.Option()],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
) -> None:
    """The arm process of a paced edge; started by its station."""
    from robotlearn.config.load import load_config
    from robotlearn.edge.arm import run_arm
    from robotlearn.processes import stop_on_signals

    stop = stop_on_signals()
    run_arm(load_config(config, overrides or []), edge, server=server, station=station, stop=stop, dry_run=dry_run)


@app.command("policy-server", hidden=True)
def policy_server(
    config: ConfigArgument,
    edge: Annotated[str, typer.Option()],
    server: Annotated[str, typer.Option()],
    states: Annotated[str, typer.Option()],
    overrides: Overrides = None,
    learner: Annotated[str | None, typer.Option()] = None,
    session: Annotated[int, typer.Option()] = 0,
    checkpoint: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """The policy server of paced edges; started by a station. Weights: of --learner, or of --checkpoint."""
    from robotlearn.config.edge import PacedEdgeConfig
    from robotlearn.config.load import load_config
    from robotlearn.edge.serving import Serving
    from robotlearn.edge.weights_source import CheckpointWeights, LearnerWeights
    from robotlearn.errors import ConfigError
    from robotlearn.processes import freeze_heap, stop_on_signals

    stop = stop_on_signals()
    loaded = load_config(config, overrides or [])
    entry = loaded.edge(edge)
    if (learner is None) == (checkpoint is None):
        raise ConfigError("policy-server: weights come either of --learner or of --checkpoint")
    if not isinstance(entry, PacedEdgeConfig):
        raise ConfigError(f"edge {edge!r} of this config is not a paced one")
    if checkpoint is not None:
        source = CheckpointWeights(checkpoint, loaded)
    else:
        source = LearnerWeights(learner, loaded, edge=edge, session=session)
    # A policy that is run and not taught does what it does best.
    explore = checkpoint is None
    serving = Serving(loaded, entry, source, session=session, server=server, states=states, explore=explore)
    freeze_heap()
    try:
        serving.run(stop)
    finally:
        serving.close()


def _ray_training() -> "type[RayTraining]":
    from importlib.util import find_spec

    from robotlearn.errors import ExtraError

    if find_spec("ray") is None:
        raise ExtraError("--ray needs Ray, which is not installed here: pip install 'ray>=2.50'")
    from robotlearn.cluster.train import RayTraining

    return RayTraining


def _run_path(config: str, run: Path | None, resume: bool) -> Path:
    from datetime import datetime

    from robotlearn.errors import RunFolderError

    if run is None and resume:
        raise RunFolderError("--resume needs --run, the folder of the run to go on with")
    return run or Path("runs") / f"{Path(config).stem}-{datetime.now():%Y%m%d-%H%M%S}"


def main() -> None:
    """Run the command line; what its user can mend is one line and exit status 2."""
    gl.choose()
    try:
        app()
    except Exception as error:
        no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, OSError) and (no_space or error.filename is not None):
            where = "" if error.filename is None else f"{error.filename}: "
            text = f"{where}{error.strerror}"  # no permission, not a folder, no space, ...
        elif isinstance(error, _mendable()):
            text = " ".join(str(error).split())
        else:
            raise
        print(f"robotlearn: {text}", file=sys.stderr)
        sys.exit(1 if no_space or type(error).__name__ in _TRANSIENT else 2)


_TRANSIENT = ("RobotFault", "Stopped", "LogFull")
"""What may be over when the process is started again: an arm that was unplugged, or switched off; a full disk."""


def _mendable() -> tuple[type[Exception], ...]:
    """The error trees of the packages. What was never imported has raised nothing; importing it now costs torch."""
    trees = {"robotlearn.errors": "RobotlearnError", "hal.errors": "HalError", "envs.errors": "EnvError",
             "policies.errors": "PolicyError"}  # fmt: skip
    return tuple(getattr(sys.modules[module], name) for module, name in trees.items() if module in sys.modules)
