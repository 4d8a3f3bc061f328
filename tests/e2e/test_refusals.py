"""What can't work is one line and exit status 2, and harms no learner that is at work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.harness import Program, Site, batch, paced, tiny

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("refusals")]  # one learner for all


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("refusals"))
    try:
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def learner(place: Site) -> Program:
    learner = place.learner(place.config(tiny(batch("left"), paced("station"))))
    place.address(learner)
    return learner


def _refused(program: Program) -> str:
    """The line that says why; robotlearn's log, if it says more, comes in lines of its own."""
    assert program.ended("a refusal") == 2, program.tail()
    said = [line for line in program.lines if line.startswith("robotlearn: ")]
    assert len(said) == 1, program.tail()
    assert not any("Traceback" in line for line in program.lines)
    return said[0]


@pytest.mark.parametrize("edge", ["left", "station"])
def test_an_edge_of_another_contract_is_refused_by_the_key(place: Site, learner: Program, edge: str) -> None:
    config, address = place.folder / "config.yaml", place.address(learner)
    other = place.edge(config, edge, address, "policy.horizon=8", "edges.0.segment_steps=8", "edges.1.segment_steps=8")
    line = _refused(other)
    assert "policy.horizon" in line and address in line
    assert learner.status is None
    assert not place.processes("--edge", edge), "what the edge started must end with it"


def test_a_second_learner_on_a_run_folder_is_refused(place: Site, learner: Program) -> None:
    config = place.folder / "config.yaml"
    line = _refused(place.learner(config))
    assert "already holds a run" in line and str(place.run) in line
    line = _refused(place.learner(config, "--resume"))
    assert f"in use by another learner (process {learner.pid})" in line and str(place.run) in line
    line = _refused(place.start("train", "train", config, "--run", place.run, "--resume"))
    assert f"in use by another learner (process {learner.pid})" in line
    assert learner.status is None
    assert place.address(learner), "nobody else takes its address away"


UNKNOWN = {
    "policy": {"policy": {"kind": "of_nobody", "horizon": 4}},
    "algorithm": {"algorithm": {"name": "dreamer"}},
}


@pytest.mark.parametrize("sections", UNKNOWN.values(), ids=UNKNOWN)
def test_a_policy_or_an_algorithm_that_can_not_be_had_is_refused_before_anything_is_taught(
    place: Site, sections: dict[str, dict[str, object]]
) -> None:
    config, run = place.config(tiny() | sections, "unknown.yaml"), place.folder / "unknown"
    assert "registered" in _refused(place.start("unknown", "train", config, "--run", run))
    assert not run.exists(), "the folder can be used for another attempt"


def test_a_port_in_use_is_refused(place: Site, learner: Program) -> None:
    address = place.address(learner)
    run = place.folder / "another"
    second = place.start("second", "learner", place.folder / "config.yaml", "--run", run, f"learner.bind={address}")
    line = _refused(second)
    assert address in line and "in use" in line
    assert not (run / "config.yaml").exists(), "the folder can be used for another attempt"
    assert learner.status is None
