"""Test website, claims and site_check: pages, their links, and the problems that end a build."""

import html
import json
import re

import pytest
from click.testing import CliRunner
from playwright.sync_api import expect

from course_utils.machine.validation import CourseError
from tests.sites import PICTURE, ROOT, make_course
from workshop import cli
from workshop.publishing import claims, website
from workshop.publishing.addresses import TAG
from workshop.publishing.claims import Evidence
from workshop.publishing.site_check import problems
from workshop.publishing.website import Links

# Sphinx builds the sites of the fixtures `small_site` and `course_site`.
pytestmark = pytest.mark.xdist_group("website")

LECTURE_PAGE = "lectures/01_sums.html"


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def page(site, name):
    return (site / name).read_text(encoding="utf-8")


def text_of(markup):
    """Return the text that a reader sees, with single spaces."""
    plain = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", "", markup, flags=re.S)
    return " ".join(html.unescape(plain).split())


def article(site, name):
    return re.search(r"<article.*?</article>", page(site, name), re.S)[0]


@pytest.mark.full
def test_the_page_of_a_lecture(small_site):
    whole, markup = page(small_site, LECTURE_PAGE), article(small_site, LECTURE_PAGE)
    text = text_of(markup)
    assert "6 * 7" in text and "it is 42" in text and "42 in all" in text
    assert "..." not in text, "the place of a hidden source"
    for absent in ("the_setup", "secret", 'id="check"', "badge.svg"):
        assert absent not in markup, absent
    assert "<strong>Answer.</strong> It is <math" in markup, "the output of a hidden cell"
    assert '<table class="dataframe" id="T_1a2b3"><td>7</td></table>' in markup
    assert PICTURE in markup
    assert "<div>rank 8</div>" in markup, "the last state of a widget"
    assert "require" not in whole and "widget" not in whole
    assert "<mfrac>" in markup and "\\frac" not in markup and 'display="block"' in markup
    scripts = re.findall("<script.*?>", whole)
    assert scripts and not re.search("math", " ".join(scripts), re.I)


@pytest.mark.full
def test_sections_that_go_deeper_are_folded_and_have_a_badge(small_site):
    heading, folded = article(small_site, LECTURE_PAGE).split('<details class="deeper">')
    folded, rest = folded.split("</details>", 1)
    assert '<span class="deeper">Going deeper</span> Is it prime?' in heading
    assert 'id="going-deeper-is-it-prime"' in heading
    assert 'href="../glossary.html#kv-cache"' in heading
    assert "find_divisors" in folded and "2, 3, 7" in folded
    assert "What you have seen" in text_of(rest)
    links = re.findall(r'<link [^>]*href="([^"?]*badge\.css)', page(small_site, LECTURE_PAGE))
    (sheet,) = [small_site / "lectures" / link for link in links]
    assert "span.deeper {" in sheet.read_text(encoding="utf-8")


@pytest.mark.full
def test_the_page_of_an_exercise_shows_the_stub_and_folds_the_checks(small_site):
    markup = article(small_site, "exercises/01_sums/01_sums.html")
    folded = re.search(r"<details.*?</details>", markup, re.S)[0]
    assert "Show the check" in folded and "assert add(1, 2) == 3" in text_of(folded)
    assert "raise NotImplementedError()" in text_of(markup.replace(folded, ""))
    assert "the_setup" not in markup


@pytest.mark.full
def test_links_of_a_guide_lead_to_pages_and_cells(small_site):
    markup = article(small_site, "guide.html")
    links = ["lectures/01_sums.html#sum", "api/memory.html", "speed.html#fast", "#more"]
    links += ["exercises/index.html", "https://example.org", "glossary.html#kv-cache"]
    assert [link for link in links if f'href="{link}"' not in markup] == []
    assert f'href="https://github.com/example/course/blob/{TAG}/Makefile"' in markup
    assert "colab.research" not in markup


@pytest.mark.full
def test_the_page_of_a_package_shows_its_docstring_and_public_names(small_site):
    markup = article(small_site, "api/memory.html")
    assert any("weights" in drawing for drawing in re.findall("<pre>.*?</pre>", markup, re.S))
    assert "estimate(" in text_of(markup) and "class ModelShape(" in text_of(markup)


@pytest.mark.full
def test_buttons_open_the_notebook_in_the_right_repository(small_site):
    assert not (small_site / "old.html").exists(), "this file is from an earlier build"
    lecture = page(small_site, LECTURE_PAGE)
    exercise = page(small_site, "exercises/01_sums/01_sums.html")
    colab, binder = "https://colab.research.google.com/github", "https://mybinder.org/v2/gh"
    file = "lectures/01_sums.ipynb"
    assert f'href="{colab}/example/course/blob/{TAG}/{file}"' in lecture
    assert f'href="{binder}/example/course/{TAG}?urlpath=lab/tree/{file}"' in lecture
    file = "exercises/01_sums/01_sums.ipynb"
    assert f'href="{colab}/example/students/blob/{TAG}/{file}"' in exercise
    assert f"{colab}/example/course" not in exercise


@pytest.mark.full
def test_pages_fit_a_phone_and_can_be_searched(small_site, browser):
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for path in ("guide.html", "lectures/01_sums.html", "api/memory.html", "search.html?q=sum"):
        opened.goto(f"file://{small_site}/{path}")
        assert opened.evaluate(too_wide) == 0, path
    expect(opened.locator("#search-results")).to_contain_text("01 Sums")
    opened.close()


# --- errors of a build ----------------------------------------------------------------------------


def build_error(folder, last_run, output=None):
    """Return the message of a build that must fail and must not change the site."""
    site = output or folder / "site"
    before = sorted(site.rglob("*"))
    with pytest.raises(CourseError) as error:
        website.build(folder, [last_run], site)
    assert sorted(site.rglob("*")) == before
    return str(error.value)


def test_a_folder_with_other_files_is_not_changed(tmp_path):
    last_run = make_course(tmp_path)
    assert "is neither empty nor a site" in build_error(tmp_path, last_run, tmp_path / "docs")


def test_a_link_to_a_missing_file_ends_the_build(tmp_path):
    last_run = make_course(tmp_path)
    (tmp_path / "docs" / "guide.md").write_text("# Guide\n\n[a](../lectures/02_no.ipynb)\n")
    message = build_error(tmp_path, last_run)
    assert message == "docs/guide.md links to ../lectures/02_no.ipynb, which does not exist"


def test_a_claim_that_no_output_supports_ends_the_build(tmp_path):
    last_run = make_course(tmp_path)
    text = (
        "# Claims\n\n[01](../lectures/01_sums.ipynb#sum): `it is 42`, `42 in all`; "
        "[01](../lectures/01_sums.ipynb#sum): `it is 43`; [01](../lectures/01_sums.ipynb#no): `1`; "
        "[01](../lectures/01_sums.ipynb#sum) and no more; [02](../lectures/02_no.ipynb#sum): `1`\n"
    )
    (tmp_path / claims.PAGE).write_text(text)
    assert claims.evidence(tmp_path)[0] == Evidence("01_sums", "sum", ("it is 42", "42 in all"))
    assert build_error(tmp_path, last_run).splitlines()[1:] == [
        f"{claims.PAGE}: cell sum of 01_sums does not show 'it is 43'",
        f"{claims.PAGE}: cell no of 01_sums does not exist",
        f"{claims.PAGE}: nothing is quoted from the output of cell sum of 01_sums",
        f"{claims.PAGE}: cell sum of 02_no does not exist",
    ]


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[a](../lectures/01_sums.ipynb)", "[a](lectures/01_sums.ipynb)"),
        ("[a](guide.md#more)", "[a](guide.md#more)"),
        ("[a\nb](../exercises/README.md)", "[a\nb](exercises/index.md)"),
        ("[`a[0]`](../exercises/README.md)", "[`a[0]`](exercises/index.md)"),
        ("![a](images/dot.png)", "![a](images/dot.png)"),
        ("[a](../Makefile)", "a"),
        ("[a](..)", "a"),
        ("[a](#b) [a](mailto:b@example.org)", "[a](#b) [a](mailto:b@example.org)"),
        ("[a](#B-c) [a](speed.md#Fast)", "[a](#b-c) [a](speed.md#fast)"),
        ("[a](../lectures/01_sums.ipynb#Sum)", "[a](lectures/01_sums.ipynb#Sum)"),
        ("`[a](no.md)`", "`[a](no.md)`"),
        ("```\n[a](no.md)\n```", "```\n[a](no.md)\n```"),
        ("```\n```\n[a](../Makefile)", "```\n```\na"),
    ],
)
def test_links_between_files_become_links_between_pages(tmp_path, before, after):
    make_course(tmp_path)
    links = Links(tmp_path, website.site_paths(tmp_path))
    assert links.rewritten(before, "docs/guide.md") == after


# --- problems of pages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="b.html">', "a.html: b.html does not exist"),
        ('<a href="#c">', "a.html: #c: the page has no element with the id c"),
        ('<a href="d/e.html#f">', "a.html: d/e.html#f: the page has no element with the id f"),
        ('<a id="g"></a><p id="g"><svg id="p12345678-x"/><svg id="p12345678-x"/>',
         "a.html: the id g is used twice"),
        ('<img src="h.png" alt="">', "a.html: the picture h.png has no alternative text"),
        ('<svg role="img" aria-label=""></svg>', "a.html: a picture has no aria-label"),
        ('<img src="i.png" alt="i">', "a.html: i.png does not exist"),
        ('<script src="https://example.org/j.js">', "a.html: requests https://example.org/j.js"),
        ('<script src="//example.org/k.js">', "a.html: requests //example.org/k.js"),
        ('<link href="https://example.org/l.css">', "a.html: requests https://example.org/l.css"),
        ('<img alt="m" src="https://example.org/m">', "a.html: requests https://example.org/m"),
        ("<style>@import 'https://example.org/n';", "a.html: requests https://example.org/n"),
        ('<p style="background: url(https://example.org/o)">', "a.html: requests https://example.org/o"),
    ],
)  # fmt: skip
def test_each_problem_of_a_page_is_found(tmp_path, body, problem):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e.html").write_text('<a href="../a.html">')
    (tmp_path / "h.png").touch()
    (tmp_path / "a.html").write_text(f'<p id="p"><a href="#p"><a href="https://example.org">{body}')
    assert problems(tmp_path) == [problem]


def test_a_stylesheet_must_not_use_other_servers(tmp_path):
    (tmp_path / "a.css").write_text("p {src: url(https://example.org/a)} q {src: url(b.woff)}")
    assert problems(tmp_path) == ["a.css: requests https://example.org/a"]


# --- the command ----------------------------------------------------------------------------------


def test_the_command_uses_the_last_run_and_prints_the_path_of_the_site(tmp_path, monkeypatch):
    folder, calls = tmp_path / "course", []
    make_course(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(website, "build", lambda *args: calls.append(args) or 12)
    content = json.loads((folder / "build/lectures/01_sums.ipynb").read_text())
    for cell in content["cells"]:
        cell.update({"execution_count": 1} if cell["cell_type"] == "code" else {})
    (folder / "build/lectures/01_sums.ipynb").write_text(json.dumps(content))
    result = CliRunner().invoke(cli.main, ["site", "--no-run"])
    assert (result.exit_code, result.output) == (0, f"{folder}/build/site/index.html (12 pages)\n")
    assert calls == [(folder, [folder / "build/lectures/01_sums.ipynb"], folder / "build/site")]


# --- the course's own site ------------------------------------------------------------------------


def secrets_of(path):
    """Yield the parts of a solution that must not be on the site: answers and hidden tests."""
    for cell in cells(path):
        source = "".join(cell["source"])
        yield from re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", source, re.S)
        yield from re.findall(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", source, re.S)


@pytest.mark.full
def test_the_plain_script_can_be_downloaded(course_site):
    (copy,) = course_site.rglob("finetune_plain.py")
    assert copy.read_text("utf-8") == (ROOT / "lectures" / copy.name).read_text("utf-8")


@pytest.mark.full
def test_the_course_site_contains_no_solutions_and_no_hidden_tests(course_site):
    site = " ".join(text_of(page(course_site, path)) for path in course_site.rglob("*.html"))
    # The released cells are on the site, so this search would find a solution, too.
    for path in ROOT.glob("exercises/*/*.ipynb"):
        for cell in (cell for cell in cells(path) if cell["metadata"].get("nbgrader")):
            if cell["cell_type"] == "code":
                assert " ".join("".join(cell["source"]).split()) in site, cell["id"]
    solutions = ROOT.glob("solutions/*/*.ipynb")
    secrets = [" ".join(text.split()) for path in solutions for text in secrets_of(path)]
    assert len(secrets) > 80
    for secret in secrets:
        assert len(secret) < 30 or secret not in site, secret
