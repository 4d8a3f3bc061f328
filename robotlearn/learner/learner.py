"""The learner: takes stored segments, updates the policy, publishes its weights, keeps checkpoints and metrics."""

import logging
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from robotlearn import checkpoint
from robotlearn.algorithms.base import OffPolicy, OnPolicy
from robotlearn.algorithms.errors import AlgorithmError
from robotlearn.algorithms.registry import algorithm_factory, make_algorithm
from robotlearn.buffer.store import SegmentStore
from robotlearn.cells import cells_of, env_options
from robotlearn.checkpoint import Checkpoint
from robotlearn.config.config import Config
from robotlearn.contract import Fit, contract
from robotlearn.demonstrations_check import check_demonstrations
from robotlearn.device import device
from robotlearn.display import Display, View
from robotlearn.durable import write_atomic
from robotlearn.errors import CheckpointError, RunFolderError
from robotlearn.evaluation import Evaluation, evaluate_cells
from robotlearn.inputs import Inputs
from robotlearn.learner.accounts import Accounts
from robotlearn.learner.approval import Approval
from robotlearn.learner.checkpoint_writer import CheckpointWriter
from robotlearn.learner.episode_feed import EpisodeFeed, episode_gate
from robotlearn.learner.feed import Feed
from robotlearn.learner.live import LiveView
from robotlearn.learner.normalization import Demonstrated
from robotlearn.learner.replay_feed import ReplayFeed, check_replay
from robotlearn.learner.serving import Serving
from robotlearn.learner.start import teach
from robotlearn.learner.upkeep import Upkeep
from robotlearn.metrics import RECENT, MetricsLog, draw_curve, ended, read_metrics
from robotlearn.policy import build_policy
from robotlearn.replay.demonstrations import store as store_demonstrations
from robotlearn.replay.finished import Finished
from robotlearn.report.page import write_report
from robotlearn.report.run import Run
from robotlearn.run_folder import RunFolder
from robotlearn.wire.door import server_keys
from robotlearn.wire.publisher import Publisher
from robotlearn.wire.segment import Segment
from robotlearn.wire.server import LearnerServer

log = logging.getLogger(__name__)

_FED = "replay."
"""Prefix of what a checkpoint keeps beside the algorithm's own."""


class _Stopped(Exception):
    """Raised by the progress callback of a long computation when a stop was asked for."""


class Learner:
    """One run, from its start or from its newest checkpoint to its end. Used by one thread but for `view`."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        *,
        resume: bool,
        bind: str | None = None,
        key: str | None = None,
        live: LiveView | None = None,
    ) -> None:
        """Bind the address (`bind`, else the config's; `key` likewise) and open the log; `folder` must be held. `live`
        is shown to.

        Raises AddressError, KeysError, LogError, CheckpointError, RunFolderError for a run that is complete, and
        PolicyError, ConfigError or UnknownAlgorithmError for a policy or an algorithm that can't be had.
        """
        torch.set_num_threads(config.learner.threads)
        self.config, self.folder, self._live = config, folder, live
        self._cells = cells_of(config)
        self._inputs = Inputs(config, self._cells)
        self._contract = contract(config, self._cells)
        # A run that was stopped before its first update may have no checkpoint: it begins again.
        begun = folder.highest_version > 0 or bool(checkpoint.list_versions(folder.checkpoints))
        # All now: what is wrong with them must not be found after the imitation.
        where = device(config.learner.device, "learner.device")
        self._policy = build_policy(config, self._inputs, where, weights=not (resume and begun))
        algorithm_factory(config.algorithm.name)
        check_replay(config, self._cells)
        self._checkpoint = checkpoint.load_newest(folder.checkpoints, self._contract) if resume and begun else None
        if self._checkpoint is None:
            check_demonstrations(config)
        settings = config.learner
        if self._checkpoint is not None and self._concluded(self._checkpoint):
            done = int(self._checkpoint.facts["updates"])
            more = "a larger learner.updates=N" if done >= settings.updates else "another learner.stop_success"
            raise RunFolderError(
                f"{folder.path} is complete: {done} updates are done and measured; with --resume and {more} it goes on"
            )
        self._gate = episode_gate(config)
        self._store = SegmentStore(folder.segments, misfit=Fit(config, self._cells))
        self._stored_before = self._store.end
        """What is stored from here on comes from the server."""
        self._feed: Feed | None = None
        self._publisher = Publisher()
        approval = settings.approval
        self._serving = Serving(
            config,
            folder,
            self._publisher,
            self._policy,
            Approval(approval, self._inputs, self._cells, config.seed) if approval is not None else None,
            next_version=self._next_version,
            save=self._save,
            restore=self._restore,
            rehearse=self._evaluate,
        )
        self._upkeep = Upkeep(self._store, folder, settings.max_stored_bytes, settings.keep_checkpoints)
        try:
            self._server = LearnerServer(
                bind or settings.bind,
                self._store,
                self._gate,
                self._publisher,
                contract=self._contract,
                run=folder.run_id,
                max_frame_bytes=settings.max_frame_bytes,
                keys=server_keys(key or settings.key),
                insecure_public=settings.insecure_public,
            )
        except BaseException:
            self._store.close()
            raise
        self._metrics = MetricsLog(folder)
        self._accounts = Accounts(self._server, self._store, self._cells)
        self._version, self._updates = -1, 0
        self._phase, self._progress, self._waits_for = "starting", 0.0, ""
        self._row: dict[str, float | None] = {}
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._saved = -1
        self._writer = CheckpointWriter(folder.checkpoints)
        self._torn = False
        """While an update changes the policy: what there is then is neither the old version nor the new one."""

    @property
    def _name(self) -> str:
        """Which tasks with which robots."""
        tasks = dict.fromkeys(cell.task.name for cell in self._cells)
        return f"{', '.join(tasks)} with {', '.join(self._inputs.embodiments)}"

    @property
    def address(self) -> str:
        """Where edges reach it."""
        return self._server.address

    def run(self, stop: Event, display: Display) -> None:
        """Learn until the config's end or `stop`; whatever happens, what was learnt is saved."""
        self._stop, self._display = stop, display
        try:
            if self._checkpoint is not None:
                # Before the server takes anything in: what the log holds now is read here, what comes later is taken
                # from the server, and nothing twice.
                self._go_on(self._checkpoint)
            self._server.start()
            write_atomic(self.folder.address, self.address.encode())
            display.say(f"learner of run {self.folder.path} listens at {self.address}")
            if self._live is not None:
                self._live.start(self.folder.run_id, [cell.spec for cell in self._cells], self._planned)
                display.say(f"live view: {self._live.place}")
            if self._checkpoint is None:
                self._begin()
            assert self._feed is not None
            self._accounts.begin()
            while not self._finished():
                self._collect(self._feed)
                if self._feed.due:
                    self._update(self._feed)
            if not stop.is_set():
                self._conclude()
        except _Stopped:
            if self._version < 0:
                display.say("stopped before the first version; nothing to save")
        finally:
            self._close()

    # ---- start

    def _begin(self) -> None:
        taught = teach(self._policy, self.config, self._cells, self._inputs, self._report, self._note_imitation)
        self._make_algorithm()
        if isinstance(self._algorithm, OffPolicy) and self.config.demonstrations.path is None:
            self._keep_demonstrations(taught.shown)
        self._feed_from(None, {})
        self._reserve_version()
        self._serving.weights = self._version
        self._save()
        if taught.measured is not None:
            self._display.say(
                f"start: {taught.steps} steps of imitating {taught.demonstrations} demonstrations give "
                f"{_rate(taught.measured)} without exploration"
            )
        if not self._finished():  # else the end measures and films the same policy
            if taught.measured is not None:
                self._note(self._measured(taught.measured) | {"sft_steps": taught.steps})
            self._film()
        # Last: what edges do from here on takes time that is counted.
        self._serving.publish(self._version)
        self._serving.offer(self._version)

    def _go_on(self, saved: Checkpoint) -> None:
        self._policy.load_state_dict(saved.policy)
        self._make_algorithm()
        learnt, fed = _parted(saved.algorithm)
        self._algorithm.load_state_dict(learnt)
        self._updates = int(saved.facts["updates"])
        self._accounts.restore(saved.facts)
        self._recent.extend(saved.facts.get("recent", ()))
        self._version = saved.version  # the run folder's may be older, restored from a copy
        waits = self._feed_from(saved.facts, fed)
        # Published last: a failure above must not leave a checkpoint that lacks what was not read.
        self._serving.weights = saved.version
        self._serving.resume(saved.version)
        self._serving.publish(self._next_version())
        self._serving.offer(self._version)
        self._display.say(
            f"resumed from version {saved.version} as version {self._version}: {self._updates} updates done, {waits}"
        )

    def _make_algorithm(self) -> None:
        config = self.config
        self._algorithm = make_algorithm(config.algorithm.name, self._policy, config.algorithm, config.seed)

    def _feed_from(self, facts: dict[str, Any] | None, state: dict[str, torch.Tensor]) -> str:
        """Have what the algorithm learns from, as it was at a checkpoint; in words, what waits."""
        parts = (self._inputs, self._store, self._stored_before, self._gate)
        if isinstance(self._algorithm, OffPolicy):
            shown = self.config.demonstrations
            there = self._demonstrations if shown.path is None else Path(shown.path) / "log"
            heard = self._hear if self._live is not None or self.config.learner.approval is not None else None
            self._feed = ReplayFeed(
                self._algorithm,
                self.config,
                self._cells,
                *parts,
                heard=heard,
                demonstrated=there / "records" if shown.episodes else None,
            )
        elif isinstance(self._algorithm, OnPolicy):
            if self._algorithm.group != self.config.group:
                raise AlgorithmError(
                    f"algorithm {self.config.algorithm.name!r} learns from groups of {self._algorithm.group} episodes, "
                    f"and this run's edges begin groups of {self.config.group}: only grpo has groups so far"
                )
            self._feed = EpisodeFeed(self._algorithm, self.config.learner, *parts, heard=self._hear)
        else:
            raise AlgorithmError(
                f"algorithm {self.config.algorithm.name!r} is a {type(self._algorithm).__name__}, expected an OnPolicy "
                "or an OffPolicy one (robotlearn.algorithms.base)"
            )
        self._feed.version = max(self._version, self.folder.highest_version)
        waits = self._feed.begin(facts, state)
        self._accounts.env_steps = self._feed.env_steps
        return waits

    @property
    def _demonstrations(self) -> Path:
        return self.folder.path / "demonstrations"

    def _keep_demonstrations(self, shown: Sequence[Demonstrated]) -> None:
        """For what draws from them later; a run that is resumed has them too."""
        for number, (cell, episodes) in enumerate(shown):
            store_demonstrations(self._demonstrations, cell, number, episodes)

    def _concluded(self, saved: Checkpoint) -> bool:
        """Whether nothing is left to be done: the updates are, or the success that ends it, and it was measured."""
        if not ended(self.config.learner, saved.facts["updates"], saved.facts.get("recent", ())):
            return False
        rows = read_metrics(self.folder.metrics)[-1:]
        return any(row.get("eval_success") is not None and row["version"] == saved.version for row in rows)

    def _report(self, phase: str, progress: float) -> None:
        self._phase, self._progress = phase, progress
        if self._stop.is_set():
            raise _Stopped

    # ---- the loop

    def _finished(self) -> bool:
        return self._stop.is_set() or ended(self.config.learner, self._updates, self._recent)

    def _collect(self, feed: Feed) -> None:
        self._phase = "collecting"
        self._progress = self._updates / self.config.learner.updates
        self._waits_for = "" if feed.due else f"{feed.waits_for}{self._pinned()}"
        feed.version = self._version
        feed.take(self._server.take_stored(timeout=0.0 if feed.due else 0.1))
        self._accounts.env_steps = feed.env_steps
        self._serving.look({edge.edge: edge.version for edge in self._server.peers()})
        if feed.version != self._version:  # weights were served again: what is too old for them isn't learnt from
            feed.version = self._version
            feed.take(())
        self._accounts.mark()
        feed.moved(self._upkeep.look(feed.facts))
        self._look_at_checkpoint()

    def _hear(self, segment: Segment, completed: Sequence[Finished]) -> None:
        self._serving.hear(segment, completed)
        if self._live is not None:
            self._live.segment(segment, self._version)

    def _update(self, feed: Feed) -> None:
        self._torn = True
        self._phase, self._waits_for = "updating", ""
        feed.version = self._version
        begun = time.perf_counter()
        learnt = feed.update(self._serving.settle)
        if learnt is None:
            self._torn = False
            feed.published()
            return
        metrics, episodes = learnt
        seconds = time.perf_counter() - begun
        self._updates += 1
        row: dict[str, float | None] = {
            "updates": self._updates,
            **self._accounts.row_of(episodes, self._version),
            **feed.counts(),
            **{name: float(f"{value:.6g}") for name, value in (metrics | feed.row()).items()},
            "update_seconds": round(seconds, 4),
        }
        self._serving.publish(self._next_version())
        self._torn = False
        feed.published()
        settings = self.config.learner
        self._row = row
        if row["success"] is not None:
            self._recent.append(row["success"])
        self._note(row | {"version": self._version})
        due = settings.eval_every is not None and self._updates % settings.eval_every == 0
        if due and not self._finished():  # else it is measured at the end
            self._note(self._measured(self._evaluate(settings.eval_episodes)))
        if self._updates % settings.checkpoint_every == 0:
            self._look_at_checkpoint(wait=True)
            self._begin_checkpoint()
        self._serving.offer(self._version)

    def _note_imitation(self, steps: int, measured: Evaluation) -> None:
        self._metrics.write(
            {
                "imitation_steps": steps,
                "imitation_success": measured.success,
                "imitation_low": measured.low,
                "imitation_high": measured.high,
            }
        )

    def _note(self, row: dict[str, Any]) -> None:
        self._metrics.write(row)
        if self._live is not None:
            self._live.metrics(row)

    def _planned(self, segment: Segment) -> np.ndarray:
        """The actions (C, H, D) of a segment's chunks, from their paths; any thread: statistics don't change."""
        statistics, name = self._policy.statistics()["action"], segment.embodiment
        # A row each where there are several embodiments.
        mean, std = (
            values if values.ndim == 1 else values[self._inputs.embodiments.index(name)]
            for values in (statistics.mean, statistics.std)
        )
        return self._inputs.actions(name, segment.chunk_path[:, -1, :, : len(mean)] * std + mean)

    def _reserve_version(self) -> None:
        self._version = max(self.folder.highest_version, self._version) + 1
        self.folder.reserve_version(self._version)

    def _next_version(self) -> int:
        self._reserve_version()
        return self._version

    def _restore(self, version: int) -> None:
        """Policy and optimiser as they were at a checkpoint. Raises CheckpointError when it is gone or damaged."""
        saved = checkpoint.load(checkpoint.place(self.folder.checkpoints, version), self._contract)
        self._serving.settle()
        self._torn = True
        self._policy.load_state_dict(saved.policy)
        self._algorithm.load_state_dict(_parted(saved.algorithm)[0])
        self._serving.weights = version
        self._recent.clear()  # of the weights that are left
        self._torn = False

    def _evaluate(self, episodes: int) -> Evaluation:
        return evaluate_cells(
            self._policy,
            self._inputs,
            self._cells,
            episodes=episodes,
            seed=self.config.seed + 1,
            threads=self.config.learner.threads,
            options=env_options(self.config),
            progress=lambda done: self._report("measuring", done / episodes),
        )

    def _measured(self, measured: Evaluation) -> dict[str, float | None]:
        return {
            "version": self._version,
            **self._accounts.row(),
            **(self._feed.counts() if self._feed is not None else {}),
            **dict.fromkeys(("success", "return", "staleness_mean", "staleness_max")),  # of no update: null
            "eval_success": measured.success,
            "eval_low": measured.low,
            "eval_high": measured.high,
            "eval_episodes": measured.episodes,
            **{f"eval_success/{name}": part.success for name, part in measured.cells.items()},
            **{f"eval_instruction/{words}": rate.success for words, rate in measured.instructions.items()},
        }

    # ---- end

    def _save(self) -> None:
        """Have a checkpoint of the weights as they are, durable when this returns. Raises CheckpointError."""
        self._look_at_checkpoint(wait=True)
        self._begin_checkpoint()
        self._finish_checkpoint()

    def _begin_checkpoint(self) -> None:
        """Have one written behind training, if there is none of these weights."""
        version = self._serving.weights  # edges may be served older ones again, under newer versions
        if version < 0 or version == self._saved or checkpoint.exists(self.folder.checkpoints, version):
            return
        assert self._feed is not None
        facts = {
            "updates": self._updates,
            **self._accounts.facts(),
            "success": self._row.get("success"),
            "recent": list(self._recent),
            **self._feed.facts(),
        }
        fed = {_FED + name: tensor for name, tensor in self._feed.state().items()}
        learnt = self._algorithm.state_dict() | fed
        self._writer.begin(Checkpoint(version, self._policy.state_dict(), learnt, facts, dict(self._contract)))
        self._saved = version

    def _finish_checkpoint(self) -> None:
        try:
            if not self._writer.wait():
                return
        except BaseException:
            self._saved = -1
            raise
        best = checkpoint.best(self.folder.checkpoints)
        needed = self._serving.needed | ({best} if best is not None else set())
        checkpoint.prune(self.folder.checkpoints, self.config.learner.keep_checkpoints, needed)

    def _look_at_checkpoint(self, *, wait: bool = False) -> None:
        """What was written behind training: whether it could be."""
        if not (wait or self._writer.done):
            return
        try:
            self._finish_checkpoint()
        except CheckpointError as error:
            log.error("%s; training goes on, and so does the checkpoint before it", error)

    def _conclude(self) -> None:
        self._save()
        measured = self._evaluate(self.config.learner.eval_episodes)
        seconds = round(self._accounts.seconds, 3)
        self._display.say(f"end: version {self._version}, {_rate(measured)} without exploration")
        episodes = ", ".join(f"{peer.episodes} of {peer.name}" for peer in self.view().peers)
        if episodes:
            self._display.say(f"episodes: {episodes}")
        try:
            self._film()
        finally:
            # After it: by now the edges have told what they did last. Its time is not of reinforcement.
            self._note(self._measured(measured) | {"seconds": seconds})

    def _film(self) -> None:
        path, episodes = self.folder.videos / f"version-{self._version:06d}.mp4", 4 * len(self._cells)
        try:
            evaluate_cells(
                self._policy, self._inputs, self._cells, episodes=episodes, seed=self.config.seed + 2, video=path,
                options=env_options(self.config), progress=lambda done: self._report("filming", done / episodes),
            )  # fmt: skip
        except (RuntimeError, AttributeError, ImportError, OSError) as error:
            # No GL on this machine: learning goes on, the picture is missing and that is said.
            log.warning("no video: the scene can't be rendered here (%s)", " ".join(str(error).split()))

    def _close(self) -> None:
        try:
            # What a failed update left is no version: the checkpoint before it knows which episodes it took.
            if not self._torn:
                self._save()
            self._look_at_checkpoint(wait=True)
            self._draw()
        finally:
            self._writer.close()
            self._server.close()
            if self._feed is not None:
                self._feed.close()
                self._upkeep.look(self._feed.facts, every_s=0)
            self._upkeep.close()
            self._store.close()
            self._metrics.close()
            self._serving.close()
            if self._live is not None:
                self._live.close()
                self._display.say(self._live.summary())
            self.folder.address.unlink(missing_ok=True)

    def _draw(self) -> None:
        """While the server still answers: edges that wait for the gate rest until they are told to end."""
        try:
            if not read_metrics(self.folder.metrics):
                return
            curve = draw_curve(self.folder, f"{self._name}, seed {self.config.seed}")
            if curve is not None:
                self._display.say(f"curve: {curve}")
            self._display.say(f"report: {write_report(Run.read(self.folder.path))}")
        except Exception as error:  # the run is saved: a picture of it is not worth its exit status
            log.warning("no picture of the run: %s: %s", type(error).__name__, " ".join(str(error).split()))

    # ---- what is shown

    def _pinned(self) -> str:
        version = self._serving.pinned
        return "" if version is None else f" (edges' weights are pinned to version {version})"

    def view(self) -> View:
        """This moment, for the display; any thread may call it."""
        row = self._row
        waits_for = f"space: {self._server.disk_full}" if self._server.disk_full else self._waits_for
        peers = self._accounts.peers(self._serving.awaits_approval)
        return View(
            title=f"{self._name}: {self.folder.path}",
            phase=self._phase,
            progress=self._progress,
            waits_for=waits_for if peers or not waits_for else f"an edge at {self.address}",
            version=self._version,
            success=row.get("success"),
            mean_return=row.get("return"),
            staleness_mean=row.get("staleness_mean"),
            staleness_max=row.get("staleness_max"),
            rate=self._accounts.rate,
            env_steps=self._accounts.env_steps,
            seconds=self._accounts.seconds,
            peers=peers,
        )


def _parted(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The algorithm's part of what a checkpoint keeps, and the feed's."""
    fed = {name.removeprefix(_FED): tensor for name, tensor in state.items() if name.startswith(_FED)}
    return {name: tensor for name, tensor in state.items() if not name.startswith(_FED)}, fed


def _rate(measured: Evaluation) -> str:
    return f"{measured.success:.1%} success [{measured.low:.1%}, {measured.high:.1%}] in {measured.episodes} episodes"
