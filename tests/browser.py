"""A real browser for the tests of pages: it opens one, runs a script in it, and gives what came of it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")

# What scripts use: a key that is pressed wherever the focus is, and a value that the test gets.
_HELPERS = """
const press = (key, code = "") => {
  const event = new KeyboardEvent("keydown", { key, code, bubbles: true, cancelable: true });
  (document.activeElement ?? document.body).dispatchEvent(event);
};
const give = (value) => {
  const out = document.createElement("pre");
  out.id = "given";
  out.textContent = JSON.stringify(value);
  document.body.append(out);
};
"""


def dom_of(url: str, tmp_path: Path) -> str:
    """What a browser makes of a page, without its data and scripts."""
    arguments = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        "--dump-dom",
        "--window-size=1200,2000",
    )
    done = subprocess.run(
        [str(BROWSER), *arguments, f"--user-data-dir={tmp_path / 'browser'}", url], capture_output=True, timeout=HANGS
    )
    return re.sub(r"<script.*?</script>", "", done.stdout.decode(), flags=re.DOTALL)


def dom_of_page(page: str, tmp_path: Path, state: str = "") -> str:
    """As `dom_of`, for a page that is put into a file."""
    (tmp_path / "r.html").write_text(page, encoding="utf-8")
    return dom_of(f"file://{tmp_path}/r.html{state}", tmp_path)


def with_scripts(page: str, before: str, after: str) -> str:
    """Run one script before a page begins, and one after it, in an async function that may `give` a value."""
    page = page.replace("<body>", f"<body><script>{before}</script>", 1)
    return page.replace("</body>", f"<script>{_HELPERS}(async () => {{ {after} }})();</script></body>", 1)


def given_by(page: str, tmp_path: Path, after: str, *, before: str = "") -> Any:
    """What a script gives that runs in a page."""
    return given_in(dom_of_page(with_scripts(page, before, after), tmp_path))


def given_in(dom: str) -> Any:
    """What a script gave to a page."""
    found = re.search(r'<pre id="given">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-3000:]
    return json.loads(
        found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", "\xa0").replace("&amp;", "&")
    )
