"""The page in a real browser: filled in, ranked, read by keyboard, on a phone and in the dark."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import serving
from echoembed.server.settings import Keys, Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no browser: Debian's is installed by 'apt-get install chromium'"
)

QUERY = "A cat sat on the mat."
TEXTS = ["The rain fell over the old town.", "A cat sat on a mat.", "Nobody waits for <b>the boats</b> & co."]
SHOTS = os.environ.get("ECHOEMBED_SCREENSHOTS")
"""A folder for screenshots, for whoever wants to look at them."""


@pytest.fixture(scope="module")
def server():
    with serving.running() as one:
        yield one


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()


@pytest.fixture
def page(browser, server):
    """The page as it is opened, with whatever the browser complained of."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(serving.LONG * 1000)
    one = context.new_page()
    one.complaints = []
    one.asked = []
    one.on("console", lambda message: one.complaints.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: one.complaints.append(str(error)))
    one.on("request", lambda request: one.asked.append(request.url))
    one.goto(server.address)
    ready(one)
    yield one
    context.close()


def ready(page) -> None:
    """Wait until the answer is shown."""
    playwright.expect(page.locator("body")).not_to_have_attribute("aria-busy", "true")
    playwright.expect(page.locator("#rank")).to_be_enabled()


def fill(page, query=QUERY, texts=TEXTS) -> None:
    page.get_by_role("textbox", name="Query").fill(query)
    page.get_by_role("textbox", name="Texts").fill("\n".join(texts))
    page.get_by_role("button", name="Rank the texts").click()
    ready(page)


def shot(page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("recipe", ["echo", "classical"])
def test_ranking_and_similarity_are_the_librarys(page, recipe):
    fill(page)
    loaded = serving.model(recipe=recipe)
    vectors, [query] = loaded.encode_document(TEXTS), loaded.encode_query([QUERY])
    scores = vectors @ query
    rows = page.get_by_role("list", name=f"Texts by {recipe}").get_by_role("listitem")
    assert rows.locator(".text").all_inner_texts() == [TEXTS[at] for at in np.argsort(-scores)]
    assert rows.locator(".score").all_inner_texts() == [f"{score:.3f}" for score in np.sort(scores)[::-1]]
    cells = page.get_by_role("region", name=f"Similarity by {recipe}").locator("tbody td").all_inner_texts()
    shown = np.array(cells, dtype=float).reshape(3, 3)
    assert np.abs(shown - vectors @ vectors.T).max() <= 0.0051
    assert re.search(r"\d+ ms of the model", page.get_by_label(recipe, exact=True).locator(".cost").first.inner_text())


def test_the_prompts_are_shown_token_by_token_with_what_is_pooled(page):
    fill(page)
    for recipe, copies in (("echo", 2), ("classical", 1)):
        card = page.get_by_role("region", name=f"Prompt of {recipe}")
        tokens = card.get_by_role("option").all_inner_texts()
        assert "".join(tokens).count("cat sat") == copies
        pooled = card.locator(".pooled").all_inner_texts()
        assert "".join(pooled).strip() == QUERY
        seen = card.locator(".verdict").inner_text()
        assert (
            seen == f"{len(pooled) if recipe == 'echo' else 1} of {len(pooled)} pooled tokens have seen the whole text."
        )


def test_a_text_of_the_list_can_be_shown(page):
    fill(page)
    page.get_by_label("Show the prompt of").select_option("2")
    pooled = page.get_by_role("region", name="Prompt of echo").locator(".pooled").all_inner_texts()
    assert "".join(pooled).strip() == TEXTS[1]


def test_what_a_token_has_seen_is_told_and_the_rest_fades(page):
    fill(page)
    for recipe, told in (("echo", "has seen the whole text, and 1 of its"), ("classical", "has seen 1 of the text")):
        card = page.get_by_role("region", name=f"Prompt of {recipe}")
        first = card.locator(".pooled").first
        first.hover()
        assert told in card.get_by_role("status").inner_text()
        place = first.evaluate("node => [...node.parentNode.children].indexOf(node)")
        assert card.locator(".unseen").count() == card.get_by_role("option").count() - place - 1


def test_all_of_it_works_by_keyboard(page):
    page.get_by_role("textbox", name="Query").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(QUERY)
    page.keyboard.press("Enter")
    ready(page)
    assert QUERY in page.get_by_label("Show the prompt of").locator("option").first.inner_text()
    page.get_by_label("Show the prompt of").focus()
    page.keyboard.press("Tab")
    focused = page.locator(":focus")
    assert focused.get_attribute("class") == "token pooled chosen"
    before = focused.inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator(":focus").inner_text() != before
    page.keyboard.press("End")
    assert (
        "has seen the whole text"
        in page.get_by_role("region", name="Prompt of echo").get_by_role("status").inner_text()
    )
    page.keyboard.press("Home")
    assert "has seen nothing" in page.get_by_role("region", name="Prompt of echo").get_by_role("status").inner_text()


def test_every_example_ranks_and_the_link_carries_the_state(page, server):
    for button in page.get_by_role("group", name="Examples").get_by_role("button").all():
        button.click()
        ready(page)
        assert page.get_by_role("list", name="Texts by echo").get_by_role("listitem").count() >= 3
    fill(page)
    link = page.evaluate("location.href")
    other = page.context.new_page()
    other.goto(link)
    ready(other)
    assert other.get_by_role("textbox", name="Query").input_value() == QUERY
    assert other.get_by_role("textbox", name="Texts").input_value().split("\n") == TEXTS
    assert other.get_by_role("list", name="Texts by echo").get_by_role("listitem").count() == 3
    assert "#" not in "".join(page.asked), "the fragment is sent to nobody"


@pytest.mark.parametrize(
    ("query", "texts", "said"),
    [
        ("", TEXTS, "Type a query"),
        (QUERY, [" ", ""], "Type at least one text"),
        (QUERY, ["a"] * 33, "Allowed in one request: 32"),
        ("a\u0001b", TEXTS, "control character"),
    ],
)
def test_errors_are_shown_and_mended(page, query, texts, said):
    fill(page, query, texts)
    alert = page.get_by_role("alert")
    playwright.expect(alert).to_contain_text(said)
    assert page.locator("#results").is_hidden()
    shot(page, "error")
    fill(page)
    assert alert.is_hidden()
    assert page.locator("#results").is_visible()


def test_a_server_that_has_gone_is_said(page):
    page.route("**/compare", lambda route: route.abort())
    fill(page)
    playwright.expect(page.get_by_role("alert")).to_contain_text("does not answer")


def test_the_latest_request_alone_is_answered_whichever_answer_comes_first(page):
    """An example's button asks while an earlier request still runs."""
    held = []
    page.route("**/compare", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    page.get_by_role("textbox", name="Query").fill(QUERY)
    page.get_by_role("button", name="Rank the texts").click()
    page.get_by_role("group", name="Examples").get_by_role("button").last.click()
    first, second = held
    let_go(page, first)
    playwright.expect(page.locator("body")).to_have_attribute("aria-busy", "true")
    playwright.expect(page.locator("#rank")).to_be_disabled()
    let_go(page, second)
    ready(page)
    matches_its_fields(page)


def test_an_answer_that_comes_after_that_to_a_later_request_is_not_shown(page):
    held = []
    page.route("**/compare", lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("textbox", name="Query").fill(QUERY)
    page.get_by_role("button", name="Rank the texts").click()
    page.get_by_role("group", name="Examples").get_by_role("button").last.click()
    ready(page)
    let_go(page, held[0])
    matches_its_fields(page)
    assert page.get_by_role("alert").is_hidden()


def test_an_answer_does_not_hide_that_the_fields_cannot_be_ranked(page):
    held = []
    page.route("**/compare", lambda route: route.continue_() if held else held.append(route))
    page.get_by_role("button", name="Rank the texts").click()
    page.get_by_role("textbox", name="Query").fill("")
    page.keyboard.press("Control+Enter")
    let_go(page, held[0])
    playwright.expect(page.get_by_role("alert")).to_contain_text("Type a query")
    ready(page)


def let_go(page, route) -> None:
    """Send a request that was held back, and wait until the server has answered a later one of the same page."""
    route.continue_()
    page.evaluate(
        "fetch('/compare', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: "
        "JSON.stringify({query: 'a', texts: ['b']})}).then((answer) => answer.json())"
    )


def matches_its_fields(page) -> None:
    """What is shown is of the texts that are in the fields."""
    query = page.get_by_role("textbox", name="Query").input_value()
    assert page.get_by_label("Show the prompt of").locator("option").first.inner_text() == f"the query: {query}"
    texts = page.get_by_role("textbox", name="Texts").input_value().split("\n")
    assert sorted(page.get_by_role("list", name="Texts by echo").locator(".text").all_inner_texts()) == sorted(texts)


def test_a_token_inside_a_character_has_a_place_but_no_text(page):
    fill(page, "a 🧑‍🍳")
    tokens = page.get_by_role("region", name="Prompt of echo").get_by_role("option")
    assert "".join(tokens.all_inner_texts()).count("a 🧑‍🍳") == 2
    inside = page.get_by_role("region", name="Prompt of echo").get_by_role("option", name="part of a character").first
    assert inside.bounding_box()["width"] > 4
    inside.hover()
    assert (
        "“part of a character” has seen"
        in page.get_by_role("region", name="Prompt of echo").locator(".seen").inner_text()
    )


def test_texts_are_texts_and_nothing_is_asked_elsewhere(page, server):
    fill(page, texts=[*TEXTS, '<img src=x onerror="document.title=1">'])
    assert page.locator("main img, main b").count() == 0
    assert page.title() == "echoembed"
    assert all(url.startswith(server.address) for url in page.asked if not url.startswith("data:"))
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_it_reads_well_on_a_phone_and_in_the_dark(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    fill(page)
    page.get_by_role("region", name="Prompt of echo").locator(".pooled").nth(1).hover()
    shot(page, f"{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off at the side"
    sizes = page.locator("button:visible").evaluate_all(
        "nodes => nodes.map(node => node.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 44
    for selector in (
        ".lead",
        ".quiet",
        "button[type=submit]",
        "button.second",
        ".pooled",
        ".verdict",
        "td:not(:empty)",
    ):
        assert contrast(page.locator(f"{selector}:visible").first) >= 4.5, selector


def contrast(locator) -> float:
    """The contrast of an element's text with what is behind it, as WCAG reckons it."""
    ink, *papers = locator.evaluate(
        """node => {
            const found = [getComputedStyle(node).color];
            for (let one = node; one; one = one.parentElement) found.push(getComputedStyle(one).backgroundColor);
            return found;
        }"""
    )
    colours = [[float(part) for part in re.findall(r"[\d.]+", value)] for value in (*papers, "rgb(255 255 255)")]
    behind = np.zeros(3)
    for red, green, blue, *alpha in reversed(colours):
        share = alpha[0] if alpha else 1.0
        behind = share * np.array([red, green, blue]) + (1 - share) * behind
    dark, light = sorted(map(luminance, (behind, np.array([float(part) for part in re.findall(r"[\d.]+", ink)][:3]))))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour) -> float:
    parts = np.asarray(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_a_browser_is_let_in_with_the_key_as_password(browser):
    key = "a-key-for-this-test"
    with serving.running(settings=Settings(port=0, keys=Keys.read(None, {"ECHOEMBED_API_KEY": key}))) as server:
        context = browser.new_context(http_credentials={"username": "any", "password": key})
        page = context.new_page()
        page.goto(server.address)
        ready(page)
        assert page.get_by_role("list", name="Texts by echo").get_by_role("listitem").count() >= 3
        context.close()
