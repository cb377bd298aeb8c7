"""README and docs/ say what is there: links, names, configs and figures."""

import importlib
import re
from pathlib import Path

import pytest

from benchmarks.quotes import passages, quoted

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")]
PAGES = [*OUTSIDE, *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = [
    "losses",
    "datamodules",
    "datamodules.curation",
    "mmtrain",
    "mmtrain.evaluation",
    "mmtrain.towers",
    "mmtrain.fusion",
    "mmtrain.objectives",
]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)]*))?\)")


def test_readme_quotes_the_results():
    results = passages((ROOT / "benchmarks" / "RESULTS.md").read_text())
    _, differing = quoted((ROOT / "README.md").read_text(), results)
    assert differing == [], "python -m benchmarks.quotes writes them anew"


def test_changed_figure_is_told():
    page = "<!-- quoted: speed -->\n| 7.7 s |\n<!-- end -->\n"
    assert quoted(page, {"speed": "| 7.8 s |\n"}) == (page.replace("7.7", "7.8"), ["speed"])
    with pytest.raises(ValueError, match="speed is no passage"):
        quoted(page, {})


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 180


def lost_links(page):
    """The links of a page to files or headings that are not there. mkdocs asks more, but after minutes."""
    home = ROOT if page.name in ("contributing.md", "changelog.md", "results.md") else page.parent  # those are included
    for link, anchor in LINK.findall(page.read_text()):
        target = home / link if link else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            yield f"{link}#{anchor}"


def anchors(text):
    """The names of headings, as mkdocs and GitHub make them of plain words."""
    prose = re.sub(r"^```.*?^```|^    [^\n]*", "", text, flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert list(lost_links(page)) == []


def test_a_link_to_a_heading_that_is_not_there_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# 1-to-K\n[here](#1-to-k) [no](#k) [other](other.md#a-heading) [gone](other.md#gone) [none](no.md)"
    )
    (tmp_path / "other.md").write_text("text\n\n## A heading\n")
    assert list(lost_links(page)) == ["#k", "other.md#gone", "no.md#"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_configs_exist(page):
    named = set(re.findall(r"configs/[\w/]+\.yaml", page.read_text()))
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_page_is_in_the_contents():
    listed = set(re.findall(r"[\w/.]+\.md", (ROOT / "mkdocs.yml").read_text()))
    assert {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} == listed


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_a_place_in_the_reference(package):
    page = (ROOT / "docs" / "api" / f"{package}.md").read_text()
    whole = f"::: {package}\n" in page  # its __all__ is listed in the source, where the reference finds it
    missing = [name for name in importlib.import_module(package).__all__ if not whole and f".{name}\n" not in page]
    assert missing == []


def test_every_config_page_is_in_the_table_of_systems():
    table = (ROOT / "README.md").read_text()
    pages = {str(page.relative_to(ROOT / "configs")) for page in (ROOT / "configs").rglob("*.yaml")}
    others = {"finetune/relation_head.yaml"}  # told in docs/relations.md
    assert {page for page in pages - others if Path(page).name not in table} == set()
