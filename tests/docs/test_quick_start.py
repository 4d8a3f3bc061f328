"""The commands of docs/quick-start.md, one after the other as on the page, with shorter trainings and drives."""

from __future__ import annotations

import pytest

from tests.e2e.harness import Site
from tests.pages import Page

SHORT = {
    "train": [
        "learner.updates=2", "learner.episodes_per_update=16", "learner.eval_episodes=4", "learner.eval_every=null",
        "sft.steps=20", "start.success_band=null",
    ],
    "run": ["--episodes", "2"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.renders
@pytest.mark.timeout(1200)
def test_the_page_can_be_followed_from_top_to_bottom(site: Site) -> None:
    commands = Page("docs/quick-start.md").commands()
    for words in commands:
        draws = any("--video" in word for word in words)
        done = site.start(words[0], *words, *SHORT.get(words[0], []), cwd=site.folder, draw=draws)
        assert done.ended() == 0, f"{words}\n{done.tail()}"
    runs = site.folder / "runs"
    assert (runs / "lift" / "lift.gif").read_bytes().startswith(b"GIF8")
    assert (runs / "compare.html").is_file()
    for name in ("lift", "lift-0", "reach-so101", "reach-two"):
        assert (runs / name / "report.html").is_file() and list((runs / name / "checkpoints").iterdir())
    assert {words[0] for words in commands} == {"train", "eval", "report", "run", "config", "compare", "robots"}
