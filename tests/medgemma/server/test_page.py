"""The page in a real browser: files in, an answer out, labels, keys, a narrow screen, nothing from elsewhere."""

import os
import re
from pathlib import Path

import pytest

from tests.medgemma.server.chromium import CHROMIUM, tab
from tests.medgemma.server.conftest import Running
from tests.medgemma.server.test_chat import slices
from tests.nano import needs_nano

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("MEDGEMMA_REQUIRE") != "1", reason="no chromium; run `make system`"
)


@needs_nano
def test_the_page_needs_nothing_from_elsewhere(served: Running) -> None:
    reply = served.client().get("/")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=|https?://|@import", reply.text)
    assert "Not a medical device" in reply.text


@needs_nano
@needs_chromium
@pytest.mark.slow
def test_a_series_is_shown_asked_and_compared(served: Running, ct_file: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.dcm" for number in range(3)]
    for file, data in zip(files, slices(ct_file, 3), strict=True):
        file.write_bytes(data)
    with tab(served.url, tmp_path / "profile") as page:
        page.until("document.getElementById('status')?.textContent === 'ready'")
        page.choose("#files", files)
        page.until("document.getElementById('status').textContent === '3 pictures'")
        assert page.evaluate("document.getElementById('slice').value") == "2"
        page.click("#ask")
        page.until("document.getElementById('status').textContent === 'done'")
        assert page.evaluate("document.getElementById('answer').textContent")
        page.click("#classify")
        page.until("document.querySelectorAll('.bar').length === 4")
        page.click("h1")
        page.evaluate("document.activeElement.blur()")
        page.key("ArrowDown", 40)
        assert page.evaluate("document.getElementById('slice').value") == "3"
        shown = page.evaluate("[...document.getElementById('canvas').getContext('2d').getImageData(64, 64, 1, 1).data]")
        assert shown[3] == 255 and sum(shown[:3]) > 0
        page.evaluate("document.getElementById('question').focus()")
        page.key("Enter", 13, modifiers=2)
        page.until("document.getElementById('status').textContent === 'done'")
        if folder := os.environ.get("MEDGEMMA_SCREENSHOTS"):
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(Path(folder) / "serve.png")
        page.send("Emulation.setDeviceMetricsOverride", width=380, height=800, deviceScaleFactor=1, mobile=True)
        assert page.evaluate("document.documentElement.scrollWidth <= 380")
        if folder:
            page.screenshot(Path(folder) / "serve-narrow.png")
