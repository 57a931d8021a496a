"""The page at /, in a real browser: a question is asked, tokens appear, the slider moves, all of it from one server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import tiny_policy
from serving.browser import CHROMIUM, Page, browsing
from serving.live import Live, serving

from diffpo.config import RolloutConfig, ServeConfig, TaskConfig

ENTER, RIGHT, LEFT = ("Enter", 13, "\r"), ("ArrowRight", 39), ("ArrowLeft", 37)
MASKS = "document.querySelectorAll('.pane:not([hidden]) .cell.mask').length"
READY = "!document.getElementById('ask').disabled"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    policy = tiny_policy(1, learned=True)
    policy.task = TaskConfig("tiny_arithmetic")
    with serving(policy, ServeConfig(rollout=RolloutConfig(temperature=0.0, gen_length=12))) as live:
        yield live


def test_the_page_is_one_file(live: Live) -> None:
    page = live.client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "src=" not in page.text and "http" not in page.text.replace("http-equiv", "")
    prompts = live.client.get("/examples").json()["prompts"]
    assert len(prompts) == 12 and all(prompts)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_a_question_is_asked_and_the_answer_looked_at(live: Live, tmp_path: Path) -> None:
    with browsing(tmp_path) as page:
        page.open(live.url)
        page.wait("document.getElementById('about').textContent.startsWith('tiny:')")
        page.wait("!document.getElementById('examples').hidden")
        page.do("document.getElementById('prompt').value = '012'; document.getElementById('prompt').focus()")
        ask(page)
        expected = live.complete(seed=0)["choices"][0]
        assert page.do("document.querySelector('.answer').textContent") == expected["text"]
        assert f"calls{expected['denoiser_calls']}" in page.do("document.querySelector('dl').textContent")
        settled = page.do(MASKS)

        # back through the calls by keyboard, and on again
        page.do("document.querySelector('.slider').focus()")
        for _ in range(expected["denoiser_calls"]):
            page.press(*LEFT)
        assert page.do(MASKS) == 12 and page.do("document.querySelector('.at').textContent") == "0"
        page.press(*RIGHT)
        assert settled <= page.do(MASKS) < 12 and page.do("document.querySelectorAll('.cell.new').length") > 0

        # two settings side by side: the surest position a call, beside the learned threshold
        page.do("document.getElementById('two').click()")
        page.do(
            "{ const rule = document.querySelectorAll('.rule')[1]; rule.value = 'top_k'; "
            "rule.dispatchEvent(new Event('change')); document.getElementById('prompt').focus() }"
        )
        ask(page)
        top = live.complete(seed=0, sampler="top_k:1")["choices"][0]
        answers = page.do("[...document.querySelectorAll('.answer')].map((each) => each.textContent)")
        assert answers == [expected["text"], top["text"]]

        page.do("document.getElementById('prompt').value = 'x'; document.getElementById('prompt').focus()")
        ask(page)
        assert "alphabet lacks 'x'" in page.do("document.querySelector('.answer.wrong').textContent")
        assert all(address.startswith((live.url, "data:")) for address in page.requested), page.requested
        assert [line for line in page.console if "400" not in line] == []  # of the refused prompt


def ask(page: Page) -> None:
    page.press(*ENTER, modifiers=2)
    page.wait(READY)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_the_page_asks_for_a_key(tmp_path: Path) -> None:
    config = ServeConfig(rollout=RolloutConfig(temperature=0.0, sampler="top_k:1", gen_length=4), api_key="own")
    with serving(tiny_policy(), config) as live, browsing(tmp_path) as page:
        page.open(live.url)
        page.wait("!document.getElementById('keys').hidden")
        page.do(
            "{ const key = document.getElementById('key'); key.value = 'own'; key.dispatchEvent(new Event('change')) }"
        )
        page.wait("document.getElementById('about').textContent.startsWith('tiny:')")
