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
  const shrunk = pictures.filter(p => p.src.startsWith("data:image/svg") && p.width < p.naturalWidth - 1);

  // sRGB to relative luminance, and the contrast of two colours: WCAG 2.2
  const rgba = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length < 4 ? [...c, 1] : c; };
  const laid = (over, under) => [0, 1, 2].map(i => over[i] * over[3] + under[i] * (1 - over[3]));
  const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = each => each ? laid(rgba(getComputedStyle(each).backgroundColor), ground(each.parentElement))
    : [255, 255, 255];
  let letters = 99, contrast = 21;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const each = texts.currentNode.parentElement, range = document.createRange();
    range.selectNodeContents(texts.currentNode);
    if (!texts.currentNode.data.trim() || !range.getBoundingClientRect().width) continue;
    const style = getComputedStyle(each), drawn = each.closest("svg");
    const scale = drawn ? Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b) : 1;
    letters = Math.min(letters, parseFloat(style.fontSize) * scale);
    const under = ground(each), ink = rgba(drawn ? style.fill : style.color);
    for (let e = each; e; e = e.parentElement) ink[3] *= getComputedStyle(e).opacity;
    const [a, b] = [light(laid(ink, under)), light(under)].sort((a, b) => a - b);
    contrast = Math.min(contrast, (b + 0.05) / (a + 0.05));
  }
  const seen = {pictures: pictures.length, shown: shown.length, shrunk: shrunk.length, width: innerWidth, wide};
  console.log("PROBE" + JSON.stringify({...seen, letters, contrast}) + "PROBE");
});
</script></body>"""


def looked_at(page: str, folder: Path, width: int, more: str = "") -> tuple[dict, str]:
    """What PROBE sees of a page's source in a frame so many pixels wide, and the console: an assertion that it can be
    read, letters of at least 11 pixels in a contrast of at least 4.5, without scrolling sideways.

    Args:
        more: Put before the probe.
    """
    # the probe needs a script, which the page's own policy forbids: the copy allows this one and nothing else
    source = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (folder / "probed.html").write_text(source.replace("</body>", more + PROBE))
    frame = folder / "frame.html"  # a frame can be narrower than the narrowest window
    frame.write_text(f"<iframe src=probed.html style='border:0; width:{width}px; height:2000px'></iframe>")
    console = "\n".join(opened(frame, folder)[0])
    seen = json.loads(console.split("PROBE")[1])
    assert seen.pop("letters") >= 11 and seen.pop("contrast") >= 4.5
    assert (seen.pop("wide"), seen.pop("width"), seen.pop("shrunk")) == (False, width, 0)
    return seen, console


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
