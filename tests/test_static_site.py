"""The static site: every link of its pages leads somewhere, to the heading it names."""

import importlib.util
import re
from urllib.parse import unquote

import pytest

from anm_nb.files import project_root

ROOT = project_root()
SPEC = importlib.util.spec_from_file_location("static_site", ROOT / "docs" / "static_site.py")
static_site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(static_site)
PAGES = ["README.md", "docs/results.md", "docs/tasks.md", "docs/extending.md", "notebooks/30_analysis.ipynb"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A part of the site; what it links to and is not in it comes as a file."""
    folder = tmp_path_factory.mktemp("site")
    assert static_site.write_site([ROOT / page for page in PAGES], folder) == []
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages_files_and_headings(page, site):
    written = (site / page).with_suffix(".html")
    html = written.read_text("utf-8").split("<body", 1)[1]
    links = re.findall(r'\b(?:href|src)="(?!https?:|data:|mailto:)([^"]+)"', html)
    assert links
    for link in links:
        path, _, heading = unquote(link).partition("#")
        target = (written.parent / path).resolve() if path else written
        assert target.is_file(), link
        if heading and target.suffix == ".html":
            assert f'id="{heading}"' in target.read_text("utf-8"), link


def test_a_link_that_leads_nowhere_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(static_site, "project_root", lambda: tmp_path)
    (tmp_path / "a.md").write_text("[b](b.md) [c](c.txt) [d](https://d.org/x)")
    (tmp_path / "c.txt").write_text("")
    assert static_site.write_site([tmp_path / "a.md"], tmp_path / "site") == ["a.md: b.md"]
