"""The page in a real browser: nothing leaves it, nothing is complained about, nothing runs over the edge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from robotlearn.report.compare import Comparison
from robotlearn.report.page import write_report
from robotlearn.report.run import Run
from tests.report.browser import CHROMIUM, Browser
from tests.report.conftest import Place, film

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in (apt-get install chromium)"),
]

LOADED = """
Promise.all([...document.querySelectorAll('video')].map(video => video.readyState >= 2 ? 'plays' : new Promise(done => {
    video.onloadeddata = () => done('plays');
    video.onerror = () => done(video.error.message);
})))"""
NEEDED = "document.documentElement.scrollWidth"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as browser:
        yield browser


@pytest.mark.parametrize("width", [1400, 400, 320])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_need_nothing_but_themselves(browser: Browser, place: Place, width: int, dark: bool) -> None:
    runs = [Run.read(place(f"lift-{seed}")) for seed in (0, 1, 2)]
    for version in (0, 16):
        film(runs[0].folder.path, version)
    compared = runs[0].folder.path / "compared.html"
    Comparison(runs).write_page(compared)
    for path, films in ((write_report(runs[0], runs[1:]), 2), (compared, 0)):
        browser.open(path, width, dark=dark)
        assert browser.evaluate(LOADED) == ["plays"] * films
        asked = [address for address in browser.requests if not address.startswith("data:")]
        assert asked == [path.resolve().as_uri()]
        assert browser.complaints == []
        assert browser.evaluate(NEEDED) <= width
        back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") is not dark


def test_a_page_that_asked_for_more_would_be_seen(browser: Browser, place: Place) -> None:
    path = write_report(Run.read(place("smoke")))
    text = path.read_text()
    path.write_text(text.replace("<main>", '<main><img src="http://elsewhere.example/x.png"><script>1</script>'))
    browser.open(path, 400)
    assert len(browser.complaints) == 2 and all("Content Security Policy" in line for line in browser.complaints)
    path.write_text(
        text.replace("Content-Security-Policy", "X").replace("<main>", "<main><img src=http://elsewhere.example/>")
    )
    browser.open(path, 400)
    assert "http://elsewhere.example/" in browser.requests
