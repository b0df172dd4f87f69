"""The page in Debian's Chromium: what a visitor does, with nothing but this machine to talk to."""

import shlex
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
import uvicorn
from typer.main import get_command

from latent_shift.cli.main import app
from latent_shift.media import write_clip
from latent_shift.server.app import create_app, security_of
from latent_shift.server.config import Limits, ServerConfig

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PROMPT = "a red circle"
WAIT = 180_000  # milliseconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed (apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open pages whose requests must stay on this machine, and that must report no fault."""
    contexts, faults = [], []

    def open_page(url, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        context.set_default_timeout(WAIT)
        contexts.append(context)

        def watch(route):
            if route.request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
                route.continue_()
            else:
                faults.append(route.request.url)
                route.abort()

        context.route("**/*", watch)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def generate(page, prompt=PROMPT, **numbers):
    page.locator("#examples button").first.wait_for()
    page.fill("#prompt", prompt)
    for name, value in numbers.items():
        page.fill(f"#{name}", str(value))
    page.click("#generate")
    page.locator(".prompt").get_by_text(prompt, exact=True).first.wait_for()
    if "seed" in numbers:
        page.locator(".facts", has_text=f"seed {numbers['seed']} ").first.wait_for()


def seconds(page):
    return page.evaluate("[...document.querySelectorAll('video')].map((clip) => clip.currentTime)")


def wait_until(page, true, within=WAIT / 1000):
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def test_a_visitor_types_generates_and_sees_the_clip_play(server, visit):
    page = visit(server.url)
    assert page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')")
    generate(page, seed=7, frames=8)
    page.locator(".frame video").wait_for()
    wait_until(page, lambda: seconds(page)[0] > 0)
    first = seconds(page)[0]
    wait_until(page, lambda: seconds(page)[0] != first)
    assert page.evaluate("document.querySelector('video').loop")
    page.uncheck("#loop")
    wait_until(page, lambda: page.evaluate("document.querySelector('video').ended"))
    assert "seed 7" in page.inner_text(".facts")
    assert page.input_value("#seed") != "7"
    page.locator("#history img").first.wait_for()
    with page.expect_download() as started:
        page.get_by_role("button", name="Download GIF").click()
    assert started.value.suggested_filename == "a-red-circle-7.gif"


def test_a_reload_in_the_middle_loses_nothing(server, visit):
    page = visit(server.url)
    generate(page, seed=8, steps=200, frames=96)  # a long one: not done before the page is back
    page.locator(".frame img").wait_for()  # a preview
    assert page.locator("#queue li").count() == 1
    page.reload()
    page.locator(".frame img").wait_for()
    bar = page.locator(".clip progress")
    wait_until(page, lambda: 0 < bar.evaluate("bar => bar.value") < 100)
    page.locator(".frame video").wait_for()
    assert "seed 8" in page.inner_text(".facts")
    assert page.input_value("#prompt") == PROMPT
    page.locator("#idle").wait_for()


def test_a_queue_shows_places_and_cancels(server, visit):
    page = visit(server.url)
    generate(page, seed=9, steps=200, frames=126)  # long ones: none ends before it is cancelled
    generate(page, prompt="second", seed=10, steps=200, frames=127)
    generate(page, prompt="third", seed=11, steps=200, frames=128)
    page.locator("#queue li", has_text="third").get_by_text("No. ").wait_for()
    page.get_by_role("button", name="Cancel third").click()
    page.locator("#history li", has_text="third").get_by_text("cancelled").wait_for()
    for name in ("Cancel second", f"Cancel {PROMPT}"):
        page.get_by_role("button", name=name).click()
    page.locator("#idle").wait_for()


def test_settings_come_back_from_a_file_and_from_a_drop(server, visit, tmp_path):
    video = server.create(
        prompt="a blue ring", seed=2**62 + 1, num_frames=6, guidance_scale=1.5, negative_prompt="red",
        loop=True,
    )  # fmt: skip
    server.wait(video["id"])
    content = requests.get(f"{server.url}/v1/videos/{video['id']}/content", timeout=30).content
    (tmp_path / "clip.mp4").write_bytes(content)
    expected = {
        "prompt": "a blue ring",
        "seed": str(2**62 + 1),
        "frames": "6",
        "guidance": "1.5",
        "negative": "red",
    }
    page = visit(server.url)
    page.locator("#examples button").first.wait_for()
    page.set_input_files("#file", tmp_path / "clip.mp4")
    wait_until(page, lambda: {name: page.input_value(f"#{name}") for name in expected} == expected)
    assert page.is_checked("#seamless")
    page.fill("#prompt", "another")
    page.evaluate(
        """async (url) => {
            const blob = await (await fetch(url)).blob();
            const data = new DataTransfer();
            data.items.add(new File([blob], "clip.mp4"));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }""",
        f"{server.url}/v1/videos/{video['id']}/content",
    )
    wait_until(page, lambda: page.input_value("#prompt") == "a blue ring")
    page.click("#generate")
    page.locator(".facts", has_text=f"seed {2**62 + 1}").wait_for()
    page.locator(".frame video").wait_for()


def test_two_settings_on_one_seed_play_in_step(server, visit):
    page = visit(server.url)
    page.locator("#compare summary").click()
    page.fill("#other-guidance", "1")
    generate(page, seed=12, frames=16)
    wait_until(page, lambda: page.locator(".frame video").count() == 2)
    assert page.inner_text("#difference") == "guidance: 3 | 1"
    assert page.inner_text("#shown").count("seed 12") == 2
    for _ in range(5):
        wait_until(page, lambda: seconds(page)[0] > 0.1)
        apart = page.evaluate(
            "(() => { const [a, b] = document.querySelectorAll('video');"
            " return Math.abs(a.currentTime - b.currentTime); })()"
        )
        assert apart < 0.2 or apart > 1.7, apart  # a frame is 0.125 s; one may have begun anew
    page.click("#play")
    assert page.evaluate("[...document.querySelectorAll('video')].every((clip) => clip.paused)")


def test_the_command_line_makes_the_same_clip(server, model, visit):
    page = visit(server.url)
    page.locator("#examples button").first.wait_for()
    page.check("#seamless")
    generate(page, prompt='it\'s a "red" circle', seed=13, frames=4)
    line = page.locator(".command pre").inner_text()
    program, *words = shlex.split(line)
    assert program == "latent-shift"
    context = get_command(app).make_context("latent-shift", words)
    _, command, arguments = get_command(app).resolve_command(
        context, [*context._protected_args, *context.args]
    )
    given = command.make_context("generate", arguments).params
    assert given["prompts"] == ['it\'s a "red" circle']
    wanted = {
        "seed": 13,
        "loop": True,
        "frames": 4,
        "model": str(model),
        "steps": 1,
        "guidance": 3.0,
        "fps": 8.0,
        "width": 32,
        "height": 32,
    }
    assert {name: given[name] for name in wanted} == wanted


def test_all_works_by_the_keyboard(server, visit):
    page = visit(server.url)
    page.locator("#examples button").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("a green square")
    page.keyboard.press("Control+Enter")
    page.locator(".prompt", has_text="a green square").wait_for()
    clip = page.locator(".frame video")
    clip.wait_for()
    clip.focus()
    wait_until(page, lambda: not page.evaluate("document.querySelector('video').paused"))
    page.keyboard.press("Space")
    assert page.evaluate("document.querySelector('video').paused")
    page.keyboard.press("Enter")
    wait_until(page, lambda: not page.evaluate("document.querySelector('video').paused"))
    page.locator("#examples button").first.focus()
    page.keyboard.press("Enter")
    assert page.input_value("#prompt") == page.locator("#examples button").first.inner_text()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_no_serious_finding_for_screen_readers_and_no_sideways_scrolling(server, visit, look):
    from axe_playwright_python.sync_playwright import Axe

    server.wait(server.create(prompt=PROMPT, seed=1)["id"])
    options = {"viewport": {"width": 360, "height": 740}} if look == "phone" else {"color_scheme": look}
    page = visit(server.url, **options, bypass_csp=True)  # for the checker's own script
    page.locator(".frame video").wait_for()
    page.locator("#compare summary").click()
    page.locator("#more summary").click()
    found = Axe().run(page).response["violations"]
    assert [one for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_moves_by_itself_where_motion_is_unwelcome(server, visit):
    server.wait(server.create(prompt=PROMPT, seed=1)["id"])
    page = visit(server.url, reduced_motion="reduce")
    page.locator(".frame video").wait_for()
    page.wait_for_timeout(300)
    assert seconds(page) == [0]
    assert page.inner_text("#play") == "Play"


@contextmanager
def served(application):
    """An application in a thread, without its worker."""
    config = uvicorn.Config(application, port=0, log_level="error", lifespan="off")
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run)
    thread.start()
    while not serving.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{serving.servers[0].sockets[0].getsockname()[1]}"
    finally:
        serving.should_exit = True
        thread.join()


def test_a_queue_that_is_longer_than_a_page_is_shown_whole(model, visit, tmp_path):
    application = create_app(ServerConfig(data=tmp_path, models={"tiny": str(model)}))  # without a worker
    with served(application) as url:
        for number in range(1, 31):
            fields = {"prompt": f"circle {number}", "seed": number}
            assert requests.post(f"{url}/v1/videos", json=fields, timeout=WAIT).status_code == 200
        page = visit(url)
        page.locator("#queue li").nth(29).wait_for()
        shown = [item.split("\n") for item in page.locator("#queue li").all_inner_texts()]
        assert [" ".join(words) for words in shown] == [f"No. {n} circle {n} Cancel" for n in range(1, 31)]
        assert page.inner_text("#state") == "30 waiting"
        page.get_by_role("button", name="Cancel circle 2", exact=True).click()
        page.locator("#history li", has_text="circle 2").wait_for()
        assert page.locator("#queue li").count() == 29
        assert page.locator("#queue li").last.inner_text().startswith("No. 29")
        page.close()  # its stream of events, for which the server would wait


def test_new_clips_push_none_out_of_a_longer_history(model, visit, tmp_path):
    application = create_app(ServerConfig(data=tmp_path, models={"tiny": str(model)}))

    def cancelled(url, numbers):
        for number in numbers:
            fields = {"prompt": f"circle {number}", "seed": number}
            made = requests.post(f"{url}/v1/videos", json=fields, timeout=WAIT).json()
            requests.post(f"{url}/v1/videos/{made['id']}/cancel", timeout=WAIT)

    def shown(page):
        return [text.split("\n")[-1] for text in page.locator("#history .text").all_inner_texts()]

    with served(application) as url:
        cancelled(url, range(40))
        page = visit(url)
        page.click("#older")
        wait_until(page, lambda: len(shown(page)) == 40)
        cancelled(url, range(40, 43))
        wait_until(page, lambda: shown(page) == [f"circle {number}" for number in range(42, -1, -1)])
        page.close()


def test_what_the_server_cannot_do_is_told_and_what_it_was_started_with(model, visit, tmp_path):
    config = ServerConfig(data=tmp_path / "data", models={"tiny": str(model)}, dtype="fp32")
    settings = {
        "prompt": "a ring",
        "seed": 1,
        "model": "tiny",
        "guidance_interval": [0.2, 0.8],
        "forecast": None,
    }
    write_clip(tmp_path / "clip.webp", np.zeros((2, 32, 32, 3), np.uint8), 8, settings)
    with served(create_app(config)) as url:
        page = visit(url)
        page.locator("#examples button").first.wait_for()
        page.set_input_files("#file", tmp_path / "clip.webp")
        page.locator("#problem", has_text="the guidance interval, which the server does not take").wait_for()
        page.click("#generate")
        line = page.locator(".command pre").inner_text()
        assert "--dtype fp32" in line
        assert "--device" not in line
        page.close()


def test_what_is_refused_is_said_and_the_rest_goes_on(browser, model, tmp_path):
    config = ServerConfig(
        data=tmp_path, models={"tiny": str(model)}, limits=Limits(steps=10, upload_bytes=1000)
    )
    with served(create_app(config)) as url:
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        page.locator("#examples button").first.wait_for()
        page.set_input_files("#file", {"name": "a.mp4", "mimeType": "video/mp4", "buffer": b"x" * 1001})
        page.locator("#problem", has_text="a.mp4 is larger than the 1000 bytes").wait_for()
        page.fill("#prompt", PROMPT)
        page.locator("#compare summary").click()
        page.fill("#other-steps", "11")
        page.click("#generate")
        page.locator("#problem", has_text="11").wait_for()
        assert page.locator("#queue li").count() == page.locator(".clip").count() == 1
        page.context.close()


def test_a_key_is_asked_for_once_and_kept_for_the_tab(browser, model, tmp_path):
    config = ServerConfig(data=tmp_path, models={"tiny": str(model)})
    with served(create_app(config, security_of(config, api_keys=("secret",)))) as url:
        page = browser.new_page()
        page.goto(url)
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_timeout(300)
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.locator("#examples button").first.wait_for()
        page.reload()
        page.locator("#examples button").first.wait_for()
        assert not page.locator("#key-dialog").is_visible()
        page.context.close()
