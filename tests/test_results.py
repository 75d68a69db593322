"""docs/results.md is what `anm-nb index` writes from the notebooks as they are."""

from anm_nb.files import project_root
from anm_nb.gallery import write_results

PAGE = project_root() / "docs" / "results.md"


def test_the_page_is_what_the_notebooks_show(tmp_path):
    written = write_results(project_root() / "notebooks", tmp_path / "results.md")
    assert written.read_text("utf-8") == PAGE.read_text("utf-8"), "run `anm-nb index`"
    pictures, kept = ({path.name: path.read_bytes() for path in of.glob("*")} for of in (
        tmp_path / "results", PAGE.with_suffix("")
    ))  # fmt: skip
    assert pictures == kept, "run `anm-nb index`"
