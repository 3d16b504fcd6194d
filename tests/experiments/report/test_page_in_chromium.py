"""The report in a real browser: it runs, asks for nothing, filters, and leaves hostile text as text."""

import json
import shutil

import pytest
from written_run import GREEDY, VCD, page_samples

from experiments.imports.merged_runs import merge_runs
from experiments.report.page import write_report
from experiments.report.sample_browser import coded_columns
from experiments.results.loaded_run import load_run
from experiments.results.view_run import view_run

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--window-size=1280,1000",
)
MISSING = (
    "this test opens the report in Chromium, and there is none. Install it with "
    "`apt-get update && apt-get install -y chromium chromium-driver` (`make test` does), then run it again."
)
HOSTILE = "</script><script>window.hacked=1</script><img src=http://icl.invalid/x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    chromium, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser, paged):
    """`page(queries=6)`: the report of a written run, opened. Gives the browser."""

    def show(**how):
        browser.get_log("browser")
        browser.get_log("performance")
        browser.get(paged(**how).files.report.as_uri())
        return browser

    return show


def listed(page):
    return page.execute_script("return [...document.querySelectorAll('#list button')].map(b => b.innerText)")


def choose(page, name, value):
    page.execute_script(
        "const box = document.forms[0].elements[arguments[0]]; box.value = arguments[1];"
        "box.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        value,
    )


def axis(page, name):
    words = page.execute_script(
        "return [...document.querySelectorAll('#filters label')].map(l => [l.firstChild.data, l.lastChild.name])"
    )
    return dict(words)[name]


def test_it_opens_without_an_error_and_without_a_request(page):
    opened = page(queries=6)
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    urls = [event["request"]["url"] for event in sent if event["documentURL"].startswith("file:")]
    assert {url.split(":", 1)[0] for url in urls} <= {"file", "data"}
    assert sum(url.startswith("file:") for url in urls) == 1


def test_the_list_shows_one_arm_and_follows_the_filters(page):
    opened = page(queries=6)
    assert len(listed(opened)) == 6
    assert "6 of" in opened.find_element("id", "count").text
    choose(opened, axis(opened, "decoding"), "vcd")
    choose(opened, "result", "wrong")
    wrong = listed(opened)
    assert all(text.startswith("✗") for text in wrong)
    choose(opened, "result", "right")
    assert len(wrong) + len(listed(opened)) == 6
    choose(opened, "result", "all")
    choose(opened, axis(opened, "shots"), "0")
    assert len(listed(opened)) == 6
    choose(opened, axis(opened, "shots"), "")
    assert len(listed(opened)) == 18
    choose(opened, "words", "0003")
    assert len(listed(opened)) == 3
    choose(opened, "words", "no such words")
    assert listed(opened) == []
    assert "No sample fits" in opened.find_element("id", "detail").text


def test_a_sample_shows_its_demonstrations_prompt_and_the_other_arms(page):
    opened = page(queries=6)
    opened.find_elements("css selector", "#list button")[2].click()
    demos = opened.find_elements("css selector", ".demos li")
    assert [d.text.split(".")[0] for d in demos] == ["1", "2", "3", "4"]
    assert all("similarity ." in d.text for d in demos)
    lengths = opened.execute_script(
        "return [...document.querySelectorAll('#detail img')].every(i => i.naturalWidth === 48)"
    )
    assert lengths
    assert opened.find_element("css selector", "#detail .prompt").text.count("What color") == 5
    others = opened.find_elements("css selector", ".others button")
    assert len(others) == 15
    next(o for o in others if o.text.startswith("0 shots")).click()
    assert opened.find_elements("css selector", ".demos li") == []
    assert len(opened.find_elements("css selector", ".others tr.here")) == 1


def test_arrow_keys_walk_through_the_samples(page):
    from selenium.webdriver.common.keys import Keys

    opened = page(queries=6)
    first, second = opened.find_elements("css selector", "#list button")[:2]
    first.send_keys(Keys.ARROW_DOWN)
    assert second.get_attribute("aria-current") == "true"
    assert second.get_attribute("data-query") in opened.find_element("id", "detail").text


def test_hostile_text_is_shown_as_text_and_does_nothing(page):
    opened = page(queries=4, hostile=HOSTILE, tasks=("shapes", f"task{HOSTILE}"), failing={"shapes-0001": HOSTILE})
    for button in opened.find_elements("css selector", "#list button"):
        button.click()
        assert HOSTILE in opened.find_element("id", "detail").text
    assert opened.execute_script("return window.hacked") is None
    sources = opened.execute_script("return [...document.images].map(i => i.src.slice(0, 10))")
    assert set(sources) == {"data:image"}
    assert opened.get_log("browser") == []


def test_a_script_that_got_into_the_page_would_not_run(browser, paged, tmp_path):
    """The second line of defense: the content policy, checked with a page that was broken on purpose."""
    html, path = paged(queries=6).html, tmp_path / "report.html"
    path.write_text(html.replace("<main>", "<main><script>window.hacked=1</script>", 1), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.execute_script("return window.hacked") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_the_page_fits_a_phone_and_has_both_color_schemes(page):
    opened = page(queries=6)
    try:
        metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
        light = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        dark_media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_media)
        assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") != light
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_an_answer_is_displayed_token_by_token_with_the_tokens_of_each_branch(page):
    opened = page(queries=3, traced=True, hostile=HOSTILE)
    assert opened.get_log("browser") == []
    assert opened.execute_script("return window.hacked") is None
    first, last = opened.find_elements("css selector", ".strip button")
    assert (last.text, last.get_attribute("class")) == ("(end)", "heat5 changed")
    assert first.get_attribute("class") == "heat0"
    assert HOSTILE in first.text
    assert last.get_attribute("aria-pressed") == "true"  # where the contrast changed the token
    tints = [
        opened.execute_script("return getComputedStyle(arguments[0]).backgroundColor", token) for token in (first, last)
    ]
    assert tints[0] != tints[1]
    text = opened.find_element("css selector", "#detail").text
    assert "Step 1, (end): 1 token survives the mask; the reference would say other" in text
    head = [cell.text for cell in opened.find_elements("css selector", ".step thead th")]
    assert head == ["reference ×2.00", "branch 1 ×-1.00", "combined"]
    first.click()
    assert "2 tokens survive the mask." in opened.find_element("css selector", "#detail").text
    rows = opened.find_elements("css selector", ".step tbody tr")
    assert [cell.text for cell in rows[0].find_elements("css selector", "td.n")] == [".700"] * 3
    assert "JS divergence .000" in rows[-1].text


def test_a_run_without_steps_draws_none(page):
    assert page(queries=6).find_elements("css selector", ".strip") == []


def test_no_table_is_wider_than_a_page_of_1280_pixels(page):
    opened = page(queries=6, traced=True)
    opened.set_window_size(1280, 1000)
    opened.execute_script("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    widths = opened.execute_script(
        "return [...document.querySelectorAll('.wide')].map(table => [table.scrollWidth, table.clientWidth])"
    )
    assert len(widths) > 5
    assert all(needed <= available for needed, available in widths)


@pytest.fixture
def resized(browser):
    """`resized(360)`: the browser at a width in pixels; `media="print"` for the style of paper."""

    def resize(width, media=""):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})

    yield resize
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


LARGE = {"queries": 6, "shots": (0, 1, 2, 4, 8, 16), "retrievers": ("random", "knn", "mmr")}
A4_WIDTH = 702  # of 210 mm less two margins of 12 mm, in pixels of 1/96 inch


@pytest.mark.parametrize(("width", "media"), [(1168, ""), (360, ""), (A4_WIDTH, "print")])
def test_nothing_is_cut_on_a_desktop_a_phone_and_paper(page, resized, width, media):
    opened = page(**LARGE)
    resized(width, media)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    wide = opened.execute_script(
        "return [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    )
    if width != 360:  # a phone scrolls tables sideways
        assert wide == 0
        tables = "return Math.max(...[...document.querySelectorAll('table')].map(t => t.getBoundingClientRect().right))"
        assert opened.execute_script(tables) <= width


def test_the_first_column_stays_in_sight_when_a_table_scrolls(page, resized):
    opened = page(**LARGE)
    resized(360)
    moved = opened.execute_script(
        "const box = document.querySelector('#scores .wide'), head = box.querySelector('tbody th');"
        "const before = head.getBoundingClientRect().left; box.scrollLeft = 80;"
        "return [box.scrollLeft, head.getBoundingClientRect().left - before]"
    )
    assert moved == [80, 0]


MARKS = (
    "[...document.querySelectorAll('.hero [role=graphics-symbol]')]"
    ".filter(m => m.getAttribute('aria-label').startsWith('random, greedy, '))"
)


def test_a_click_on_a_name_in_the_key_hides_its_line_in_every_panel(page):
    opened = page(queries=6)
    counts = (
        "const key = document.querySelector('.key button'); {click}"
        f"const marks = {MARKS}; "
        "return [marks.length, marks.filter(m => getComputedStyle(m).display === 'none').length, key.ariaPressed]"
    )
    assert opened.execute_script("return document.querySelector('.key button').innerText.trim()") == "random, greedy"
    total, hidden, pressed = opened.execute_script(counts.replace("{click}", ""))
    assert (hidden, pressed) == (0, "true")
    assert total == 2 * (3 + 3 + 1)  # in the panel of each task: points, their intervals and the line
    assert opened.execute_script(counts.replace("{click}", "key.click();")) == [total, total, "false"]
    assert opened.execute_script(counts.replace("{click}", "key.click();")) == [total, 0, "true"]


def test_a_mark_shows_its_numbers_and_the_figure_has_the_colors_of_the_page(page):
    from selenium.webdriver.common.action_chains import ActionChains

    opened = page(queries=6)
    mark = opened.execute_script(f"return {MARKS}.find(m => m.getAttribute('aria-roledescription') === 'point')")
    ActionChains(opened).move_to_element(mark).perform()
    tip = opened.find_element("id", "tip")
    assert tip.is_displayed()
    assert "shots: " in tip.text
    assert "[" in tip.text
    colors = "return [getComputedStyle(arguments[0]).fill, getComputedStyle(document.body).getPropertyValue('--c0')]"
    fill, variable = opened.execute_script(colors, mark)
    red, green, blue = (int(variable.strip()[i : i + 2], 16) for i in (1, 3, 5))
    assert fill == f"rgb({red}, {green}, {blue})"


def test_folded_sections_are_open_on_paper(page):
    opened = page(queries=6)
    folded = "return [...document.querySelectorAll('section:not(#record) details')].filter(one => !one.open).length"
    assert opened.execute_script(folded) > 3
    opened.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.execute_script(folded) == 0


def test_a_page_of_100000_samples_opens_in_a_second_and_filters_in_a_tenth(browser, paged, tmp_path):
    """The samples of a small page, repeated. The fastest of some filters and of some openings is measured."""
    text = paged(queries=6).html
    head, rest = text.split('id="data">')
    content, tail = rest.split("</script>", 1)
    data = json.loads(content)
    samples = page_samples(data["samples"])
    copies = 100_000 // len(samples) + 1
    data["samples"] = coded_columns(
        [
            {**sample, "query": f"{sample['query']}-{i}", "output": f"{sample.get('output', '')} {i}"}
            for i in range(copies)
            for sample in samples
        ]
    )
    path = tmp_path / "large.html"
    path.write_text(f'{head}id="data">{json.dumps(data)}</script>{tail}', encoding="utf-8")
    opened = []
    for _ in range(3):
        browser.get(path.as_uri())
        opened.append(
            browser.execute_script("return performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        )
    assert min(opened) < 1000  # .2 s on a free core
    filtered = browser.execute_script(
        "const box = document.forms[0].elements['result'], times = [];"
        "for (const value of ['wrong', 'right', 'disagree', 'all', 'wrong', 'all']) {"
        "  const start = performance.now(); box.value = value;"
        "  box.dispatchEvent(new Event('input', {bubbles: true})); document.body.offsetHeight;"
        "  times.push(performance.now() - start); } return times"
    )
    assert min(filtered) < 100
    assert f"of {data['samples']['size']} samples" in browser.find_element("id", "count").text


def test_two_merged_runs_are_filtered_by_a_column_of_the_data(browser, written, tmp_path):
    how = {"queries": 9, "shots": (2,), "retrievers": ("knn",), "tasks": ("shapes",)}
    runs = [written("greedy", decodings=(GREEDY,), **how), written("vcd", decodings=(VCD,), **how)]
    merge_runs(tmp_path / "both", [run.path for run in runs])
    view = view_run(load_run(tmp_path / "both"), by=["answer"])
    browser.get(write_report(view).report.as_uri())
    assert "By answer" in browser.find_element("css selector", "nav").text
    assert browser.find_elements("css selector", "#by-answer table")
    assert len(listed(browser)) == 9
    for answer, queries in view.frame.drop_duplicates("query")["gold"].map(lambda gold: gold[0]).value_counts().items():
        choose(browser, "by-answer", answer)
        assert len(listed(browser)) == queries
    choose(browser, "by-answer", "")
    choose(browser, axis(browser, "decoding"), "")
    assert len(listed(browser)) == 18
