"""The web page in a real browser, opened from a file with the network off: what people do on it, by keys, mouse and touch."""

from __future__ import annotations

import os
import time

import pytest
from browser import Browser, find_browser
from conftest import run_python

MISSING = "no Chromium: install one, such as by apt-get install chromium"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The shipped Doom agent's page."""
    if not find_browser():
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    out = tmp_path_factory.mktemp("page") / "doom.html"
    result = run_python("controller/web.py", "doom", "--out", out)
    assert result.returncode == 0, result.stderr
    assert out.stat().st_size < 12e6
    return out


@pytest.fixture()
def desktop(page, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(page)
        yield browser
        assert browser.complaints() == []


def text(browser: Browser, name: str) -> str:
    return browser.run(f"document.getElementById({name!r}).textContent")


@pytest.mark.slow
def test_the_agent_plays_and_a_person_takes_over_and_gives_back(desktop):
    desktop.wait("page.play.dream.steps > 20")
    assert text(desktop, "who") == "the agent plays"
    before = desktop.run("document.getElementById('dream-canvas').toDataURL()")
    desktop.key("ArrowLeft", "keyDown")
    desktop.wait("page.play.byHand && page.play.lastAction[0] === -1")
    assert text(desktop, "who") == "you play"
    desktop.key("ArrowLeft", "keyUp")
    desktop.wait("page.play.lastAction[0] === 0")
    assert desktop.run("document.getElementById('dream-canvas').toDataURL()") != before
    desktop.key("a", "keyDown")
    desktop.wait("!page.play.byHand")
    desktop.run("document.getElementById('take').click()")
    assert desktop.run("page.play.byHand") and text(desktop, "take") == "Give back to the agent"


@pytest.mark.slow
def test_pause_restart_and_temperature(desktop):
    desktop.wait("page.play.dream.steps > 5")
    desktop.key(" ", "keyDown")
    desktop.wait("page.play.paused")
    steps = desktop.run("page.play.dream.steps")
    time.sleep(0.5)
    assert desktop.run("page.play.dream.steps") == steps
    desktop.key("r", "keyDown")
    desktop.wait("page.play.dream.steps === 0")
    desktop.key(" ", "keyDown")
    desktop.wait("!page.play.paused && page.play.dream.steps > 2")
    # On the slider, arrow keys move it and play nothing.
    desktop.run("document.getElementById('tau').focus()")
    before = desktop.run("page.play.tau")
    desktop.key("ArrowRight", "keyDown")
    desktop.wait(f"page.play.tau > {before}")
    assert float(text(desktop, "tau-shown")) == pytest.approx(before + 0.05)
    assert not desktop.run("page.play.hands.busy") and not desktop.run("page.play.byHand")


@pytest.mark.slow
def test_keys_work_after_a_button_was_clicked(desktop):
    """A real click leaves the focus on the button: A and R are still what they are, and the space bar does not click it again."""
    desktop.click("take")
    desktop.wait("page.play.byHand")
    desktop.key("a", "keyDown")
    desktop.wait("!page.play.byHand")
    desktop.wait("page.play.dream.steps > 10")
    desktop.key("r", "keyDown")
    desktop.wait("page.play.dream.steps < 10")
    assert text(desktop, "who") == "the agent plays"


@pytest.mark.slow
def test_a_key_ends_a_pause(desktop):
    desktop.click("pause")
    desktop.wait("page.play.paused")
    desktop.key("ArrowRight", "keyDown")
    desktop.wait("!page.play.paused && page.play.byHand && page.play.lastAction[0] === 1")
    assert text(desktop, "pause") == "Pause" and text(desktop, "who") == "you play"


@pytest.mark.slow
def test_a_dream_ends_and_the_next_begins(desktop):
    short = "{ const m = page.play.models.memory, f = m.imagine.bind(m); m.imagine = (...all) => ({ ...f(...all), over: true }) }"
    desktop.run(short)
    desktop.wait("page.play.results.length > 1 && page.play.endedAt !== null")
    assert text(desktop, "over") == "The dream ends after 1 steps"
    assert desktop.run("page.play.results.at(-1)") == {"result": 1, "who": "agent"}
    assert int(text(desktop, "best-agent")) >= 1 and text(desktop, "best-you") == "–"


@pytest.mark.slow
def test_a_dream_that_both_played_is_nobodys_best(desktop):
    desktop.wait("page.play.dream.steps > 3")
    desktop.click("take")
    desktop.wait("page.play.players.size === 2")
    desktop.click("take")
    desktop.run("page.play.dream.over = 'limit'; page.play.end()")
    assert desktop.run("page.play.results.at(-1).who") == "both"
    assert text(desktop, "best-agent") == text(desktop, "best-you") == "–"


@pytest.mark.slow
def test_the_real_game_beside_the_dream(desktop):
    """The dream starts where the game is, and leads away from it."""
    desktop.run("{ const m = document.getElementById('moment'); m.value = 30; m.dispatchEvent(new Event('input')) }")
    assert text(desktop, "moment-shown").startswith("step 30 of ")
    # At first it is M's state of that moment, and decodes to what V makes of a sample of the same frame.
    assert desktop.run("(([c]) => c.dream.state.z.every((v, d) => v === c.recordings.state(c.episode, 30).z[d]))([page.compare])")
    desktop.run("document.getElementById('roll').click()")
    desktop.wait("/and [1-9][0-9] dreamt/.test(document.getElementById('moment-shown').textContent)")
    assert desktop.run("document.getElementById('kept').toDataURL() !== document.getElementById('dreamt').toDataURL()")
    desktop.run("page.compare.stop()")
    desktop.run("document.getElementById('roll').click(); page.compare.stop()")
    entered = "document.getElementById('enter').click(); page.play.dream.state === page.recordings.state(0, 30)"
    began = desktop.run(entered)
    assert began and desktop.run("page.play.byHand")
    desktop.wait("page.play.dream.steps > 0")


@pytest.mark.slow
def test_vs_numbers_on_sliders(desktop):
    assert desktop.run("document.querySelectorAll('#sliders input').length") == 15
    picture = "document.getElementById('drawn').toDataURL()"
    before = desktop.run(picture)
    desktop.run(
        "{ const s = document.querySelector('#sliders input'); s.value = s.value > 0 ? -2.5 : 2.5; s.dispatchEvent(new Event('input')) }"
    )
    assert desktop.run(picture) != before
    desktop.run("document.getElementById('reset').click()")
    assert desktop.run(picture) == before


@pytest.mark.slow
def test_a_telephone(page, tmp_path):
    """Nothing is wider than the screen; a finger on the picture's left half steers left; at least 30 steps a second."""
    with Browser(tmp_path / "profile", width=390, height=844, mobile=True) as browser:
        browser.open(page)
        assert browser.run("document.documentElement.scrollWidth") <= 390
        browser.run("globalThis.box = document.getElementById('dream-canvas').getBoundingClientRect()")
        box = [browser.run(f"box.{side}") for side in ("x", "y", "width", "height")]
        left = (box[0] + box[2] * 0.1, box[1] + box[3] * 0.5)
        browser.touch("touchStart", left)
        browser.wait("page.play.byHand && page.play.lastAction[0] < -0.5")
        browser.touch("touchEnd")
        browser.wait("page.play.lastAction[0] === 0 && page.play.byHand")
        # A swipe that scrolls the page does not take over.
        browser.run("document.getElementById('take').click()")
        browser.touch("touchStart", left)
        for step in range(1, 8):
            browser.touch("touchMove", (left[0], left[1] - 25 * step))
        browser.touch("touchEnd")
        browser.wait("scrollY > 50")
        assert not browser.run("page.play.byHand")
        assert browser.run("page.models.arena.simd")
        browser.run("globalThis.one = () => { page.play.dream.step([0], 1.15); page.play.draw(); }")
        rate = browser.run(
            "(() => { const t = performance.now(); for (let n = 0; n < 60; n++) one(); return 60000 / (performance.now() - t) })()"
        )
        assert rate >= 30
        assert browser.complaints() == []
