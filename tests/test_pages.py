"""The pages for people hold together: links lead somewhere, files that are named exist, every page is in a list."""

import re
import unicodedata
from pathlib import Path

import pytest
import yaml
from comfy_host import PACK_ROOT

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "web/docs/*.md", "benchmarks/*.md", ".github/**/*.md")
    for page in PACK_ROOT.glob(pattern)
)
# Pages whose text speaks of the code: each `path/of/a/file.py` in them is one of the repository.
ON_THE_CODE = [
    page for page in PAGES if page.parent.name == "decisions" or page.name in ("architecture.md", "CONTRIBUTING.md")
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:[\w.]+/)+[\w.]+\.(?:py|md|json|yml|toml|txt))`")
CODE = re.compile(r"```.*?```", re.DOTALL)


def name(page: Path) -> str:
    return str(page.relative_to(PACK_ROOT))


def links(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {_anchor(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading)) for heading in headings}


def _anchor(heading: str) -> str:
    kept = (c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
    return "".join(kept).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    dead = []
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", ON_THE_CODE, ids=name)
def test_files_that_are_named_exist(page):
    """From the repository's root, or below parallel_backend/."""
    named = FILE.findall(page.read_text())
    assert not [path for path in named if not any((root / path).exists() for root in _roots())]


def _roots() -> tuple[Path, ...]:
    return PACK_ROOT, PACK_ROOT / "parallel_backend"


def test_every_page_of_docs_is_in_its_contents():
    for folder in (PACK_ROOT / "docs", PACK_ROOT / "docs" / "decisions"):
        contents = folder / "README.md"
        listed = {(folder / link.partition("#")[0]).resolve() for link in links(contents)}
        assert not {name(page) for page in folder.glob("*.md")} - {name(contents)} - {name(p) for p in _within(listed)}


def _within(paths: set[Path]) -> list[Path]:
    return [path for path in paths if path.is_relative_to(PACK_ROOT)]


def test_readme_is_one_screen_for_a_user():
    text = (PACK_ROOT / "README.md").read_text()
    assert len(text.split()) < 1200
    for command in ("python3 scripts/demo.py", "python3 scripts/test.py"):
        assert command in text


FORMS = sorted(form for form in (PACK_ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if form.name != "config.yml")


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_issue_forms_ask_for_the_doctor_s_json(form):
    fields = {field["id"]: field for field in yaml.safe_load(form.read_text())["body"] if "id" in field}
    doctor = fields["doctor"]
    assert doctor["validations"]["required"] and doctor["attributes"]["render"] == "json"
    assert "parallel_backend/doctor --json" in doctor["attributes"]["description"]
    assert all({"label"} <= field["attributes"].keys() for field in fields.values())
