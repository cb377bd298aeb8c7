"""README and docs/ say what is there: links, names, configs and figures."""

import importlib
import re
from pathlib import Path

import pytest

from benchmarks.quotes import passages, quoted

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    home = ROOT if page.name in ("contributing.md", "changelog.md", "results.md") else page.parent  # those are included
    lost = [link for link in LINK.findall(page.read_text()) if "://" not in link and not (home / link).exists()]
    assert lost == []


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
