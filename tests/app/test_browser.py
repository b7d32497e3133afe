"""The app in a real browser: one process, one Chromium, every tab."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sightline.data.schema import read_groups, write_groups
from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.results import measure, write_measured
from sightline.recipes.schema import ModelSpec
from sightline.report.evaluation import write_results_page
from sightline.rollouts.hf import load_engine
from sightline.scenes.world import Scenes
from sightline.types import Response

CHROMIUM = Path("/usr/bin/chromium")
httpx = pytest.importorskip("httpx", reason="gradio is absent")
pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="the extra app (gradio) is absent"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is absent"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]

BAD = "<img src=x onerror=alert(1)> {{a}} ${b} a `red` circle"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a run and results."""
    root = tmp_path_factory.mktemp("app")
    groups = list(Scenes().groups("train", 3, root / "data/images", kinds=("caption",)))
    write_groups(root / "data/train.jsonl", groups)
    two = [replace(group, responses=(*group.responses, Response(text=BAD))) for group in groups]
    write_groups(root / "data/sampled.jsonl", two)
    run = root / "runs/dpo"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: dpo\n")
    (run / "metrics.jsonl").write_text("".join(map(line, (1, 2))))
    for name, hits in (("base", [1, 0] * 4), ("dpo", [1] * 8)):
        graded = [Graded(id=f"q{n}", cluster=f"p{n}", counts={"hit": hit}, details={}) for n, hit in enumerate(hits)]
        result = Result(
            bench="pope",
            protocol="official",
            metrics={"accuracy": 100 * sum(hits) / 8},
            metrics_printed={"accuracy": ""},
            by_category={},
            graded=graded,
            formulas={"accuracy": "100 * hit / answers"},
            notes=[],
            failures=0,
        )
        measured = measure(result, {"model": name, "adapter": None})
        write_measured(measured, root / f"eval/{name}/pope/results.json")
        write_results_page(root / f"eval/{name}/report.html", [(None, measured)], title=f"Benchmarks of {name}")
    return root


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1 / step, "rewards/margins": step * step}) + "\n"


@pytest.fixture(scope="module")
def address(root: Path, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app behind a real server on this machine, with two models."""
    from sightline.app.desk import Desk
    from sightline.app.folders import Folders
    from sightline.app.serve import build_app, server_of
    from sightline.app.speakers import Speaker
    from sightline.services.bounds import Bounds
    from sightline.services.serve import address_of, bound_socket

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        engines = [load_engine(ModelSpec(path=str(tiny[family]))) for family in ("llava", "qwen2_5_vl")]
        speakers = [Speaker(name=name, engine=engine) for name, engine in zip(("one", "other"), engines, strict=True)]
        scratch = tmp_path_factory.mktemp("scratch")
        desk = Desk(folders=Folders.of([root]), speakers=speakers, scratch=scratch, bounds=Bounds(picture=200_000))
        server = server_of(desk, build_app(desk, ""))
        bound = bound_socket("127.0.0.1", 0)
        bound.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the app did not start"
            time.sleep(0.01)
        yield address_of(bound)
        server.should_exit = True
        thread.join(30)
        bound.close()
        assert not thread.is_alive() and not scratch.exists(), "copies of pictures go with the app"


@pytest.fixture(scope="module")
def seen(address: str) -> Iterator[Any]:
    """The page in Chromium, what it asked for, and what went wrong on it."""
    from playwright import sync_api

    seen = SimpleNamespace(requests=[], errors=[])
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.errors.append(str(error)))
        page.on("console", lambda told: seen.errors.append(told.text) if told.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#chat-ask")
        seen.page = page
        yield seen
        browser.close()


def opened(seen: Any, name: str, shows: str) -> Any:
    """The tab, once it shows a selector."""
    seen.page.get_by_role("tab", name=name).click()
    seen.page.wait_for_selector(shows)
    return seen.page


def test_a_chat_answers(seen: Any) -> None:
    page = seen.page
    page.click("#chat-draw")
    page.wait_for_selector("#chat-picture img")
    assert "there: " in page.inner_text("#chat-picture")
    assert page.input_value("#chat-question textarea") != "", "the world's own question about the scene"
    page.click("#chat-ask")
    page.wait_for_selector("#chat-said .key")
    page.wait_for_function("document.querySelectorAll('#chat-said [title*=\"nats by the picture\"]').length > 1")
    page.wait_for_function(
        "document.querySelectorAll('#chat-said .card:has([title*=\"nats by the picture\"])').length == 2"
    )
    assert page.locator("#chat-said .who").all_inner_texts()[0].startswith("one")


def test_ask_and_enter_together_ask_once(seen: Any) -> None:
    page = seen.page
    page.fill("#chat-question textarea", "is there a star?")
    before = sum("/queue/join" in url for url in seen.requests)
    page.evaluate(
        """() => {
            const box = document.querySelector("#chat-question textarea");
            document.querySelector("#chat-ask").click();
            box.dispatchEvent(new KeyboardEvent("keypress", {key: "Enter", bubbles: true, cancelable: true}));
        }"""
    )
    turn = page.locator("#chat-said .turn", has=page.get_by_text("is there a star?", exact=True))
    turn.locator(".card:has([title*='nats by the picture'])").nth(1).wait_for()
    assert page.locator("#chat-said .asked").count() == 2
    assert sum("/queue/join" in url for url in seen.requests) == before + 1


def test_words_that_come_after_another_picture_are_not_shown_under_it(seen: Any) -> None:
    page = seen.page
    page.click("#chat-draw")
    page.wait_for_selector("#chat-picture img")
    said = page.locator("#chat-said [data-talk]")
    assert said.is_visible()
    late = "document.querySelector('#chat-said [data-talk]')"
    page.evaluate(f'{late}.outerHTML = {late}.outerHTML.replace(/data-talk="\\w+"/, \'data-talk="left"\')')
    said.wait_for(state="hidden")
    page.click("#chat-new")
    said.wait_for(state="visible")


def test_a_picture_is_sent_and_one_that_is_too_large_is_refused(seen: Any, tmp_path: Path) -> None:
    page = seen.page
    Image.effect_noise((600, 600), 90).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 200_000
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "small.png")
    before = page.get_attribute("#chat-picture img", "src")
    page.set_input_files("input[type=file]", tmp_path / "small.png")
    page.wait_for_function("was => document.querySelector('#chat-picture img').src != was", arg=before)
    page.wait_for_function("document.querySelectorAll('#chat-said .card').length == 0")
    assert "there: " not in page.inner_text("#chat-picture")
    now = page.get_attribute("#chat-picture img", "src")
    page.set_input_files("input[type=file]", tmp_path / "large.png")
    page.wait_for_selector(".toast-body")
    assert page.get_attribute("#chat-picture img", "src") == now
    seen.errors.clear()  # the refusal stands in the console too


def told_by(address: str, element: str, event: str, data: list[Any]) -> dict[str, Any]:
    """What an event of the page gives to a program that sends it."""
    with httpx.Client(base_url=address, timeout=60) as client:
        config = client.get("/config").json()
        (place,) = [one["id"] for one in config["components"] if one["props"].get("elem_id") == element]
        number = next(
            one["id"] for one in config["dependencies"] if [place, event] in one["targets"] and one["backend_fn"]
        )
        sent = {"fn_index": number, "data": data, "session_hash": "program"}
        assert client.post("/gradio_api/queue/join", json=sent).status_code == 200
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "program"}) as events:
            told = (json.loads(line[5:]) for line in events.iter_lines() if line.startswith("data:"))
            output: dict[str, Any] = next(one for one in told if one["msg"] == "process_completed")["output"]
            return output


def test_a_file_of_this_machine_is_no_upload(address: str, pictures: list[str]) -> None:
    sent = {"path": pictures[0], "meta": {"_type": "gradio.FileData"}}
    told = told_by(address, "chat-upload", "upload", [None, sent])
    assert "data" not in told and "not uploaded by a user" in told["error"]
    told = told_by(address, "chat-draw", "click", [None, "caption", 10**30])
    assert "greater than maximum value" in told["error"], "a number that is too large for the stream of events"


def test_rows_are_shown_as_stored_and_as_the_model_sees_them(seen: Any) -> None:
    page = opened(seen, "Data", "#data-shown .question")
    assert page.locator("#data-shown .gallery img").count() == 1
    page.get_by_label("as the model sees it").check()
    page.wait_for_selector("#data-shown .tokens .on")
    assert "as the tower gets it" in page.inner_text("#data-shown")
    first = page.inner_text("#data-shown")
    page.click("#data-next")
    page.wait_for_function("was => document.querySelector('#data-shown').innerText != was", arg=first)


def test_a_label_is_written_by_a_key_and_taken_back(seen: Any, root: Path) -> None:
    out = root / "data/sampled.labels.jsonl"
    page = opened(seen, "Label", "#label-open")
    page.wait_for_function("document.querySelector('#label-file input').value.includes('sampled')")
    page.click("#label-open")
    page.wait_for_selector("#label-board [data-question]")
    texts = page.locator("#label-board .choices .text").all_inner_texts()
    assert BAD in texts, "texts stand as they are"
    page.keyboard.press(str(1 + [text != BAD for text in texts].index(True)))
    page.wait_for_function("document.querySelector('#label-board').innerText.includes('1 of 3')")
    (group,) = read_groups(out)
    assert group.responses[group.edges[0].loser].text == BAD and len(group.edges) == 1
    page.reload()
    page.wait_for_selector("#chat-ask")
    opened(seen, "Label", "#label-board [data-question]")
    assert "1 of 3" in page.inner_text("#label-board") and "sampled" in page.input_value("#label-file input")
    page.keyboard.press("Shift+Digit1")
    page.wait_for_selector("#label-text textarea")
    page.wait_for_function("document.activeElement.closest('#label-text') && document.activeElement.value != ''")
    page.keyboard.press("Control+a")
    page.keyboard.type("There is 1 moon, it is small, unless")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('#label-board').innerText.includes('2 of 3')")
    assert list(read_groups(out))[1].responses[0].text == "There is 1 moon, it is small, unless"
    page.keyboard.press("u")
    page.wait_for_function("document.querySelector('#label-board').innerText.includes('1 of 3')")
    assert len(list(read_groups(out))) == 1
    page.keyboard.press("2")  # at once: the page is still being drawn
    page.wait_for_function("document.querySelector('#label-board').innerText.includes('2 of 3')")
    page.keyboard.press("1")
    page.wait_for_function("document.querySelector('#label-board').innerText.includes('All 3 are labelled')")
    assert len(list(read_groups(out))) == 3


def test_runs_show_a_curve_that_grows(seen: Any, root: Path) -> None:
    page = opened(seen, "Runs", "#runs-shown svg.chart")
    assert "stopped after step 2" in page.inner_text("#runs-shown")
    with (root / "runs/dpo/metrics.jsonl").open("a") as file:
        file.write(line(3))
    page.wait_for_function("document.querySelector('#runs-shown').innerText.includes('after step 3')")
    assert page.locator("#runs-shown svg.chart").count() == 2
    assert page.is_disabled("#runs-stop") and page.is_enabled("#runs-resume")


def test_results_are_shown_and_compared(seen: Any) -> None:
    page = opened(seen, "Results", "#results-table table")
    assert page.locator("#results-table tbody tr").count() == 2
    page.wait_for_selector("#results-shown iframe")
    page.click("#results-compare")
    page.wait_for_selector('#results-shown iframe[title*="against"]')
    frame = page.frame_locator("#results-shown iframe")
    assert "against" in frame.locator("h1").inner_text()
    assert frame.locator("table").first.inner_text()


def test_nothing_was_asked_of_the_network_and_nothing_went_wrong(seen: Any, address: str) -> None:
    """Of all that the tests above did."""
    elsewhere = [url for url in seen.requests if not url.startswith((address, "data:", "blob:"))]
    assert len(seen.requests) > 20 and not elsewhere
    assert not seen.errors
