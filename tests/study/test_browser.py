"""The page in Chromium: six raters at once with all that raters do, reload, keyboard, reduced motion, axe."""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import uvicorn

from latent_shift.study.analysis import analyse
from latent_shift.study.app import create_app
from latent_shift.study.create import create_study
from latent_shift.study.design import DesignOptions
from latent_shift.study.sources import ReadOptions, open_sources
from studies import FPS, PROMPTS, TEXTS

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}")]

RATERS, PAIRS = 2, 4
MOST_STEPS = 400  # of a session: keys are pressed again until the page has changed
STATE = """() => {
  const seen = (id) => !document.getElementById(id).closest("[hidden]");
  if (seen("finished")) return "finished";
  if (seen("problem")) return "problem";
  if (seen("next")) return "next";
  return seen("rating") && !document.getElementById("answer-left").disabled ? "open" : null;
}"""


@pytest.fixture
def folder(sources, tmp_path):
    named = [str(path) for path in sources.values()]
    opened = open_sources(named, PROMPTS, ReadOptions())
    options = DesignOptions(raters_per_pair=RATERS, pairs_per_rater=PAIRS)
    create_study(opened, PROMPTS, tmp_path / "study", options)
    return tmp_path / "study"


@contextmanager
def served(folder):
    """The study on a port of its own; yields (address, store)."""
    app = create_app(folder)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.store
    finally:
        server.should_exit = True
        thread.join(10)
        app.state.store.close()


@asynccontextmanager
async def chromium():
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        await browser.close()


class Rater:
    """A person at the page. wrong: answers known pairs wrongly. double: clicks twice."""

    def __init__(self, name, store, wrong=False, double=False):
        self.name, self.store, self.wrong, self.double = name, store, wrong, double
        self.problems, self.requests = [], []

    async def come(self, browser, address, **options):
        self.context = await browser.new_context(viewport={"width": 480, "height": 480}, **options)
        self.page = await self.new_page()
        await self.page.goto(f"{address}/join/{self.store.invitation()}")
        await self.page.click("#agree")
        await self.page.wait_for_url("**/r/*")
        self.token = self.page.url.rsplit("/", 1)[1]
        return self

    async def new_page(self):
        page = await self.context.new_page()
        page.set_default_timeout(120_000)  # six at once, on busy cores
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        return page

    async def wait(self, page=None):
        """Wait until something can be done."""
        handle = await (page or self.page).wait_for_function(STATE)
        return await handle.json_value()

    def wanted(self, choice):
        """What this rater thinks of the pair in front: right about known pairs unless `wrong`."""
        showing = self.store.current(self.token)
        known = None if showing is None else self.store.known_pair(showing)
        if known is None:
            return choice
        question = next((one for one in ("quality", "faithfulness") if one not in showing.answers), "quality")
        right = showing.clips[0] == known.clips[known.expected[question]]
        return "left" if right != (self.wrong and showing.kind == "catch") else "right"

    async def act(self, page=None, choice="left"):
        """One answer, or the step to the next pair; the state before it."""
        page = page or self.page
        state = await self.wait(page)
        if state == "next":
            await page.keyboard.press("Enter")
        elif state == "open":
            wanted = await asyncio.to_thread(self.wanted, choice)
            if self.double:
                await page.dblclick(f"#answer-{wanted}", force=True)
            else:
                await page.keyboard.press({"left": "ArrowLeft", "right": "ArrowRight"}[wanted])
        return state

    async def rate(self, page=None, choice="left", until=lambda rater: False):
        for _ in range(MOST_STEPS):
            state = await self.wait(page)
            if state in ("finished", "problem") or (state == "open" and until(self)):
                return state  # nothing is on its way: answers open when the last one has arrived
            await self.act(page, choice)
        raise AssertionError(f"{self.name}: does not come to an end")


def test_six_raters_at_once(folder):
    with served(folder) as (address, store):
        counts = asyncio.run(_six_raters(address, store))
    assert set(counts.values()) == {RATERS}
    assert len(counts) == 2 * len(store.study.pairs)


async def _six_raters(address, store):
    async with chromium() as browser:
        gone = await Rater("gone", store).come(browser, address)
        raters = [Rater("careless", store, wrong=True), Rater("double", store, double=True),
                  Rater("tabs", store), Rater("plain", store), Rater("last", store)]  # fmt: skip
        for rater in raters:
            await rater.come(browser, address)
        careless, _, tabs, *_ = raters
        second_tab = await tabs.new_page()
        await second_tab.goto(tabs.page.url)

        def has_a_pair_in_front(rater):
            showing = store.current(rater.token)
            return showing.kind == "pair" and set(showing.answers) == {"quality"}

        ends = await asyncio.gather(
            gone.rate(until=has_a_pair_in_front),
            careless.rate(),
            raters[1].rate(choice="right"),
            tabs.rate(choice="left"),
            tabs.rate(second_tab, choice="right"),
            *(rater.rate(choice="right") for rater in raters[3:]),
        )
        assert ends == ["open", *["finished"] * 6]
        await gone.context.close()  # in the middle of a pair
        real = store.clock
        store.clock = lambda: real() + 60 * store.study.options.lease_minutes + 5
        while store.progress().whole < store.progress().wanted:
            late = await Rater("late", store).come(browser, address)
            raters.append(late)
            assert await late.rate() == "finished"

        answers = store.answers()
        assert len({(one.rater, one.place, one.question) for one in answers if one.live}) == sum(
            one.live for one in answers
        )
        assert [one.whole for one in answers if not one.live] == [
            False
        ]  # of the one who left: kept, not counted
        results = analyse(store.study, answers, store.raters(), store.progress())
        excluded = [rater.number for rater in results.raters if rater.excluded]
        assert excluded == [1]
        votes = [one for one in answers if one.is_vote and one.rater not in excluded]
        assert "catch answers right" in results.raters[1].excluded
        for rater in (gone, *raters):
            assert rater.problems == [], rater.name
            assert all(url.startswith(address) for url in rater.requests), rater.name
        return Counter((one.pair, one.question) for one in votes)


def test_one_rater_in_detail(folder):
    with served(folder) as (address, store):
        asyncio.run(_in_detail(address, store))


async def _in_detail(address, store):
    async with chromium() as browser:
        rater = await Rater("careful", store).come(browser, address)
        page = rater.page
        support = await page.evaluate(
            "document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"
        )
        assert support
        # The text is nowhere before the first question is answered, and keys do nothing before a whole play.
        await page.wait_for_function("() => document.getElementById('left').currentTime > 0")
        content = await page.content()
        assert not any(text in content for text in TEXTS)
        assert await rater.wait() == "open"
        # In step, over some plays.
        apart = await page.evaluate("""() => new Promise((done) => {
          const [a, b] = ["left", "right"].map((id) => document.getElementById(id)), found = [];
          const look = () => {
            found.push([a.currentTime, b.currentTime]);
            found.length < 90 ? requestAnimationFrame(look) : done(found);
          };
          look();
        })""")
        assert max(abs(one - other) for one, other in apart) < 1 / FPS
        assert max(one for one, _ in apart) > 0.15  # they do play
        await page.keyboard.press("ArrowLeft")
        await page.wait_for_selector("#prompt:not([hidden])")
        assert await page.inner_text("#prompt") in TEXTS
        # A reload in the middle: the second question again, with its text, and the first answer kept.
        await page.reload()
        await page.wait_for_selector("#prompt:not([hidden])")
        assert "text" in await page.inner_text("#question")
        assert [one.question for one in store.answers()] == ["quality"]
        assert (await _axe(page)) == []
        # The server is away for a moment: the answer is sent again, and counts once.
        await rater.wait()
        await page.route("**/answers", lambda route: route.abort())
        await page.keyboard.press("ArrowLeft")
        await page.wait_for_function(
            "() => document.getElementById('message').textContent.includes('Nothing is lost')"
        )
        await page.unroute("**/answers")
        assert await rater.wait() == "next"
        assert len(store.answers()) == 2
        stored = store.answers()[0]
        assert 0 < stored.seconds < 60
        assert stored.plays >= 1

        # Phones, dark, and no motion until a key is pressed.
        still = await Rater("still", store).come(
            browser, address, reduced_motion="reduce", color_scheme="dark"
        )
        await still.page.set_viewport_size({"width": 360, "height": 740})
        await still.page.wait_for_selector("#rating:not([hidden])")
        await still.page.wait_for_function("() => document.getElementById('right').readyState === 4")
        await asyncio.sleep(0.5)
        assert await still.page.evaluate("document.getElementById('left').currentTime") == 0
        await still.page.keyboard.press("Space")
        assert await still.wait() == "open"
        wide = await still.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360
        assert (await _axe(still.page)) == []

        await still.page.goto(f"{address}/join/{store.invitation()}")
        await still.page.wait_for_selector("#consent:not([hidden])")
        assert (await _axe(still.page)) == []
        nobody = await still.context.new_page()
        await nobody.goto(f"{address}/r/nobody")
        await nobody.wait_for_selector("#problem:not([hidden])")
        assert rater.problems == still.problems == []


def test_clips_that_do_not_come_are_fetched_again(folder):
    with served(folder) as (address, store):
        asyncio.run(_without_clips(address, store))


async def _without_clips(address, store):
    async with chromium() as browser:
        rater = await Rater("patient", store).come(browser, address)
        page = rater.page
        assert await rater.wait() == "open"
        await page.route("**/clips/**", lambda route: route.abort())
        await page.reload()
        told = "() => document.getElementById('message').textContent.includes('{}')"
        await page.wait_for_function(told.format("Nothing is lost"))
        await page.unroute("**/clips/**")
        assert await rater.wait() == "open"
        assert await page.inner_text("#message") == ""
        # Clips that come whole and are none: not the server's fault.
        await page.route(
            "**/clips/**", lambda route: route.fulfill(body="no video", content_type="video/mp4")
        )
        await page.reload()
        await page.wait_for_function(told.format("cannot play the clips"))
        assert rater.problems == []


async def _axe(page):
    """Findings of axe-core that are serious or critical."""
    from axe_playwright_python.async_playwright import Axe

    found = await Axe().run(page)
    return [one["id"] for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
