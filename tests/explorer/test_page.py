"""The explorer's page in a browser: what is drawn, what a click does, at several widths."""

import shutil

import keras
import numpy as np
import pytest

import keras_lgg as lgg

pytest.importorskip("bokeh", reason="needs the extra explorer")
pytest.importorskip("selenium", reason="needs selenium")

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.ci,
    pytest.mark.once,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and chromedriver"),
]

LABELS = np.arange(40) % 4
WRONG = 9
# Where a point in the units of a figure is on the screen.
PLACE = """
const figure = Bokeh.documents[0].get_model_by_name(arguments[0])
const view = Bokeh.index.find_one_by_id(figure.id)
const {left, top} = view.canvas_view.el.getBoundingClientRect()
const {x_scale, y_scale} = view.frame
return [left + x_scale.compute(arguments[1]), top + y_scale.compute(arguments[2])]
"""


def samples():
    rng = np.random.default_rng(0)
    centres = np.abs(rng.normal(size=(4, 12)))
    return (centres[LABELS] + 0.2 * rng.random((40, 12))).astype("float32")


def network(width, name):
    layers = [keras.layers.Dense(width, "relu", name=f"h{i}") for i in (1, 2, 3)]
    return keras.Sequential([keras.Input((12,)), *layers], name=name)


@pytest.fixture(scope="module")
def explored():
    keras.utils.set_random_seed(0)
    x, y = samples(), LABELS.copy()
    y[WRONG] = (y[WRONG] + 1) % 4
    snapshot = lgg.callbacks.GraphSnapshot(x, None, taps=["h1", "h3"], keep=True)
    model = network(8, "small")
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((40, 8)), epochs=2, verbose=0, callbacks=[snapshot])
    pictures = x.reshape(40, 4, 3)
    return {
        "one": lgg.explore(network(8, "plain"), x, y, images=pictures),
        "two": lgg.explore({"a": network(8, "a"), "b": network(16, "b")}, x, y, images=pictures),
        "epochs": lgg.explore({"run": snapshot}, x, y),
        "no labels": lgg.explore(network(8, "plain"), x, texts=[f"word {i}" for i in range(40)]),
    }


@pytest.fixture(scope="module")
def driver():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")  # no network
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    def __init__(self, driver, path):
        self.driver = driver
        driver.get(path.as_uri())
        self.wait("return document.body.dataset.shown")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script):
        return WebDriverWait(self.driver, 20).until(lambda _: self.run(script))

    def shown(self, epoch, depth):
        return self.wait(f"return document.body.dataset.shown === '{epoch}/{depth}'")

    def find(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def point(self, figure, x, y, *, click=False):
        """Move the pointer to a point in the units of a figure, and click there."""
        self.run("arguments[0].scrollIntoView({block: 'center'})", self.section(figure))
        left, top = self.run(PLACE, figure, x, y)
        for shift in (1, 0):
            chain = ActionChains(self.driver)
            chain.w3c_actions.pointer_action.move_to_location(round(left) + shift, round(top))
            chain.perform()
        if click:
            ActionChains(self.driver).click().perform()

    def section(self, figure):
        kind = figure.rstrip("0123456789")
        kind = kind if kind in ("graph", "matrix") else "curves"
        return self.find(f"section.{kind}")[int(figure[-1]) if figure[-1].isdigit() else 0]

    def node(self, sample, network=0):
        """A sample's place in a graph, whose neighbours there are not on top of it."""
        return self.run(
            "const places = explorer.drawn[arguments[1]];"
            "return [places[2 * arguments[0]], places[2 * arguments[0] + 1]]",
            sample, network,
        )  # fmt: skip

    def selected(self):
        return self.run("return explorer.selection()")

    def listed(self, selector):
        return [int(each.get_attribute("data-sample")) for each in self.find(selector)]

    def tip(self):
        return self.find("#tip")[0].text

    def warnings(self):
        return [log for log in self.driver.get_log("browser") if log["level"] != "INFO"]


@pytest.fixture
def opened(driver, explored, tmp_path):
    pages = []

    def open_page(name, width=1280):
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        explored[name].save(tmp_path / "page.html")
        pages.append(Page(driver, tmp_path / "page.html"))
        return pages[-1]

    yield open_page
    for page in pages:
        assert page.warnings() == []
        assert page.run("return performance.getEntriesByType('resource').length") == 0


def lonely(explored, network="plain", layer=0):
    """The sample that lies farthest from all others in a graph."""
    places = explored.frames[network][0][layer].places
    distances = np.linalg.norm(places[:, None] - places, axis=2) + 1e9 * np.eye(len(places))
    return int(distances.min(axis=1).argmax())


def test_the_slider_changes_the_layer(opened, explored):
    page = opened("one")
    assert page.find("h2 .layer")[0].text == "h1"
    page.find("#depth")[0].send_keys(Keys.RIGHT)
    page.shown(0, 1)
    assert [each.text for each in page.find("h2 .layer")] == ["h2", "h2"]
    assert page.find("#where")[0].text == "2 of 3: h2"
    frame = explored["one"].frames["plain"][0][1]
    drawn = page.run("return Array.from(explorer.parts.nodes.data.x0)")
    np.testing.assert_allclose(drawn, frame.places[:, 0], rtol=1e-5)
    assert page.run("return explorer.parts.places.map(place => place.location)") == [1, 1, 1]
    a, b = 3, 8
    cosine = page.run("return explorer.cosineOf(0, 3, 8)")
    assert cosine == pytest.approx(frame.geometry.cosines[a, b], abs=1 / 255)


def test_a_node_is_selected_everywhere(opened, explored):
    page = opened("one")
    sample = lonely(explored["one"])
    page.point("graph0", *page.node(sample), click=True)
    page.wait("return explorer.selection().length")
    assert page.selected() == [sample]
    rank = page.run("return explorer.data.order").index(sample)
    bands = page.run("return explorer.parts.bands.data")
    assert (bands["place"], bands["height"]) == ([rank + 0.5], [40 - rank - 0.5])
    page.run("explorer.select([6, 23])")
    ranks = np.array([page.run("return explorer.data.order").index(each) for each in (6, 23)])
    bands = page.run("return explorer.parts.bands.data")
    assert (bands["place"], bands["height"]) == ([*(ranks + 0.5)], [*(40 - ranks - 0.5)])
    page.run("explorer.select([arguments[0]])", sample)
    near = [explored["one"].neighbours(layer=layer)[sample] for layer in ("h1", "h2", "h3")]
    assert page.listed("#neighbours button") == np.concatenate(near).tolist()
    assert len(page.find("#neighbours .picture")) == 15
    page.find("#neighbours button")[0].click()
    assert page.selected() == [near[0][0]]
    page.find("#clear")[0].click()
    assert page.selected() == []
    assert page.find("#neighbours") == []


def test_a_pair_of_the_matrix_is_selected(opened):
    page = opened("one")
    order = page.run("return explorer.data.order")
    page.point("matrix0", 20.5, 40 - 5.5, click=True)  # line 5, column 20
    page.wait("return explorer.selection().length")
    assert page.selected() == [order[5], order[20]]
    assert f"#{order[5]}" in page.tip()
    assert f"#{order[20]}" in page.tip()


def test_a_frame_in_the_matrix_selects_its_lines_and_columns(opened):
    page = opened("one")
    order = page.run("return explorer.data.order")
    page.run(
        "const {toolbar} = Bokeh.documents[0].get_model_by_name('matrix0');"
        "toolbar.tools.find(tool => tool.type === 'BoxSelectTool').active = true"
    )
    page.point("matrix0", 10.5, 40 - 20.5)
    ActionChains(page.driver).click_and_hold().perform()
    page.point("matrix0", 13.5, 40 - 22.5)
    ActionChains(page.driver).release().perform()
    page.wait("return explorer.selection().length")
    assert set(page.selected()) == {*order[10:14], *order[20:23]}


def test_wrong_labels_are_listed(opened, explored):
    page = opened("one")
    assert page.listed("#suspects button") == explored["one"].suspects(layer="h1").tolist()
    suspects, rings = explored["one"].suspects(layer="h1"), "explorer.parts.rings[0].data"
    places = explored["one"].frames["plain"][0][0].places[suspects]
    np.testing.assert_allclose(page.run(f"return {rings}.x"), places[:, 0], rtol=1e-5)
    first = page.find("#suspects button")[0]
    assert "5 of 5 are of another class, mostly 1" in first.text
    first.click()
    assert page.selected() == [WRONG]
    faded = [1 if each == WRONG else 0.3 for each in suspects]
    assert page.run(f"return {rings}.alpha") == faded


def test_pointing_shows_the_sample(opened, explored):
    page = opened("one")
    assert page.tip() == ""
    sample = lonely(explored["one"])
    page.point("graph0", *page.node(sample))
    assert f"#{sample}" in page.tip()
    assert len(page.find("#tip .picture")) == 1
    page = opened("no labels")
    sample = lonely(explored["no labels"])
    page.point("graph0", *page.node(sample))
    assert f"word {sample}" in page.tip()
    assert page.find("#suspects") == page.find("#legend") == []


def test_a_curve_leads_to_its_layer(opened):
    page = opened("one")
    page.point("effective_rank", 2.1, 1.0, click=True)
    page.shown(0, 2)
    assert page.find("#depth")[0].get_attribute("value") == "2"


def test_a_class_is_selected(opened):
    page = opened("one")
    page.find("#legend button")[2].click()
    assert page.selected() == [i for i in range(40) if LABELS[i] == 2 or i == WRONG]


def test_two_networks_side_by_side(opened, explored):
    page = opened("two")
    assert len(page.find("section.graph")) == len(page.find("section.matrix")) == 2
    sample = lonely(explored["two"], "b")
    page.point("graph1", *page.node(sample, 1), click=True)
    page.wait("return explorer.selection().length")
    assert page.selected() == [sample]
    near = [explored["two"].neighbours(n, layer)[sample]
            for n in "ab" for layer in ("h1", "h2", "h3")]  # fmt: skip
    assert page.listed("#neighbours button") == np.concatenate(near).tolist()
    assert [each.text for each in page.find("#suspects h3")][1].startswith("b: ")
    tops = [each.rect["y"] for each in page.find("section.graph")]
    assert tops[0] == tops[1]


def test_the_slider_of_epochs(opened, explored):
    page = opened("epochs")
    assert page.find("#where")[0].text == "1 of 2: h1, epoch 2"
    page.find("#epoch")[0].send_keys(Keys.LEFT)
    page.shown(1, 0)
    assert page.find("#where")[0].text == "1 of 2: h1, epoch 1"
    drawn = page.run("return Array.from(explorer.parts.nodes.data.y0)")
    expected = explored["epochs"].frames["run"][1][0].places[:, 1]
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)
    rank = page.run("return Array.from(explorer.parts.curves[0].data.effective_rank)")
    np.testing.assert_allclose(rank, explored["epochs"].measures()["effective_rank"][1], atol=1e-5)


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("width", [390, 1280, 1600])
def test_it_can_be_read_at_any_width(opened, name, width):
    page = opened(name, width)
    page.find("#legend button")[0].click()  # fills the panel of the selection
    assert page.run("return document.documentElement.scrollWidth") <= width
    widths = page.run(
        "return [...document.querySelectorAll('.bk-Figure')].map(each => {"
        "const {left, right, height} = each.getBoundingClientRect(); return [left, right, height]})"
    )
    assert len(widths) == (5 if name == "one" else 7)
    assert all(left >= 0 and right <= width and height > 150 for left, right, height in widths)
    sizes = page.run(
        "return [...Bokeh.documents[0].all_models].map("
        "model => model.major_label_text_font_size).filter(size => size)"
    )
    assert set(sizes) == {"9pt"}
