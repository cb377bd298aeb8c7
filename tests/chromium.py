"""Pages opened in a real browser."""

import json
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(each => each.open = true);
  const pictures = [...document.images];
  const shown = pictures.filter(p => p.complete && p.naturalWidth > 0 && p.getBoundingClientRect().width > 0);
  const wide = document.documentElement.scrollWidth > innerWidth;
  const seen = {pictures: pictures.length, shown: shown.length, width: innerWidth, wide};
  console.log("PROBE" + JSON.stringify(seen) + "PROBE");
});
</script></body>"""


def opened(page: Path | str, folder: Path) -> tuple[list[str], list[str]]:
    """The console messages of a page in Chromium, and the requests it made beyond itself and its data: URIs."""
    address = page if isinstance(page, str) else page.as_uri()
    log = folder / "net.json"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
         "--enable-logging=stderr", f"--user-data-dir={folder / 'user'}", f"--log-net-log={log}",
         "--window-size=1400,2000", f"--screenshot={folder / 'shot.png'}", address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    started = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # Requests of the browser itself have no origin as their initiator.
    asked = [p["url"] for p in started if "url" in p and p.get("initiator", "not an origin") != "not an origin"]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return console, [url for url in asked if url != address and not url.startswith(("data:", "file:"))]
