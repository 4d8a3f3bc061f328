"""What a learner shows: plain lines where there is no terminal, a page where there is one."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from robotlearn.display import Display, PeerLine, View, busy, line, page
from tests.waiting import until

PEER = PeerLine(
    "left", "64 of 64 arms working", 7, 12, 1234.0, 5, "the learner's gate (max_staleness)", 2_340.0, 12_300.0
)
VIEW = View(
    title="lift with panda: runs/demo",
    phase="collecting",
    progress=0.25,
    waits_for="episodes: 3 of 256",
    version=8,
    success=0.5,
    mean_return=0.4,
    staleness_mean=0.3,
    staleness_max=1.0,
    rate=5000.0,
    env_steps=123_000,
    seconds=61.0,
    peers=[PEER],
)


def drawn(view: View) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(page(view))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "part",
    [
        "version 8",
        "success 50%",
        "return 0.40",
        "staleness 0.3 (max 1)",
        "5000 samples/s",
        "left: 64 of 64 arms working, 2.3 of 12.3 kB/s per robot (waits for",
        "waiting for episodes: 3 of 256",
    ],
)
def test_a_line_says_it_all(part: str) -> None:
    assert part in line(VIEW)
    assert "left: 64 of 64 arms working" in line(VIEW)


@pytest.mark.parametrize(
    "part",
    ["version 8", "success 50%", "staleness 0.3 (max 1)", "5000 samples/s", "123 k steps", "1:01", "left",
     "64 of 64 arms working", "1234", "the learner's gate (max_staleness)", "the learner waits for episodes: 3 of 256"],
)  # fmt: skip
def test_the_page_says_it_all(part: str) -> None:
    assert part in drawn(VIEW)


def test_what_the_learner_will_not_get_is_shown() -> None:
    losing = replace(VIEW, peers=[replace(PEER, lost="segments lost: 72 rejected, 3 evicted")])
    assert "2.3 of 12.3 kB/s per robot, segments lost: 72 rejected, 3 evicted (waits for" in line(losing)
    assert "left: segments lost: 72 rejected, 3 evicted" in drawn(losing)
    assert "lost" not in line(VIEW) + drawn(VIEW)


def test_before_the_first_version_there_is_nothing_to_show_but_the_phase() -> None:
    view = View(title="t", phase="imitating 6 demonstrations", progress=0.5)
    assert line(view) == "imitating 6 demonstrations 50%"
    assert "imitating 6 demonstrations" in drawn(view)


def test_what_an_edge_says_of_itself_is_shown_as_it_is() -> None:
    odd = PeerLine("left", "fault: [/bold] [red]joint 3[/red]", 1, 0, 0.0, 0, "[nobody]")
    text = drawn(View(title="[t]", phase="p", progress=0.0, version=1, peers=[odd]))
    assert "fault: [/bold] [red]joint 3[/red]" in text and "[nobody]" in text


def test_without_a_terminal_lines_are_printed_and_paths_are_not_read_as_markup() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=200)
    with Display(lambda: VIEW, console) as display:
        display.say("learner of run runs/[red]x listens at tcp://[::1]:1")
        until(lambda: "version 8" in console.file.getvalue(), "a line")  # type: ignore[attr-defined]
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "learner of run runs/[red]x listens at tcp://[::1]:1" in text
    assert text.count(line(VIEW)) == 1, "a state that was said is not said again at the end"


def test_without_a_terminal_the_last_version_is_said_at_the_end() -> None:
    console, views = Console(file=io.StringIO(), force_terminal=False, width=200), [VIEW]
    with Display(lambda: views[-1], console):
        until(lambda: "version 8" in console.file.getvalue(), "a line")  # type: ignore[attr-defined]
        views.append(replace(VIEW, version=9))
    assert console.file.getvalue().rstrip().endswith(line(views[-1]))  # type: ignore[attr-defined]


def test_on_a_terminal_a_page_is_drawn() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=40)
    with Display(lambda: VIEW, console):
        until(lambda: "arms working" in console.file.getvalue(), "the page")  # type: ignore[attr-defined]


def test_a_line_above_the_page_changes_nothing_of_it() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=40)
    with Display(lambda: VIEW, console) as display:
        until(lambda: "arms working" in console.file.getvalue(), "the page")  # type: ignore[attr-defined]
        for _ in range(3):
            display.say("learner of run runs/[red]x listens at tcp://[::1]:1")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]" not in text and "runs/[red]x" in text


def test_a_spinner_says_nothing_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with busy("loading"):
        pass
    assert capfd.readouterr() == ("", "")
