"""The HTML page: what its parts say, and that the file is whole, safe and loads nothing."""

import base64
import re
import shlex
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from benchmark import accuracy, groups, probes, scores
from benchmark.accuracy import Layout
from benchmark.probes import CellProbe, Share
from benchmark.report import (
    accuracies,
    bounds,
    commands,
    differences,
    findings,
    leaderboard,
    page,
    pictures,
)
from benchmark.report import lines as curve_lines
from benchmark.report.charts import looks
from tests.report_page import NASTY, render
from tests.synthetic_records import letters, write_cell

VOID = {"meta", "link", "img", "br", "line", "input", "hr", "wbr", "path", "rect", "use"}


class Tree(HTMLParser):
    """Counts what matters, and notes elements that are closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(folder / "cache"))
        return render(folder / "results")


@pytest.fixture(scope="module")
def tree(text):
    found = Tree()
    found.feed(text)
    return found


def _scores(paths):
    read = scores.read(paths)
    return read, Layout(accuracy.choose_radii(read))


def test_the_page_is_well_formed_html(tree):
    assert tree.wrong == []
    assert tree.open == []


def test_the_page_loads_nothing(text, tree):
    loaded = [
        a.get(name) for tag, a in tree.found for name in ("src", "data", "poster") if a.get(name)
    ]
    assert all(str(address).startswith("data:") for address in loaded)
    assert all(str(link["href"]).startswith("data:") for link in tree.all("link"))
    assert not any("src" in script for script in tree.all("script"))
    (policy,) = [m["content"] for m in tree.all("meta") if "http-equiv" in m]
    assert str(policy).startswith("default-src 'none';")
    assert not re.search(r"@import|url\(\s*[\"']?https?:", text)


def test_the_page_is_far_below_its_limit(text):
    assert len(text.encode()) < page.LARGEST / 2


def test_every_image_has_words_and_data(tree):
    shown = tree.all("img")
    assert len(shown) >= 3
    for image in shown:
        assert image["alt"]
        kind, data = str(image["src"]).split(",", 1)
        assert kind == "data:image/png;base64"
        assert Image.open(BytesIO(base64.b64decode(data))).size == (8, 8)


def test_headings_skip_no_level(tree):
    levels = [int(tag[1]) for tag, _ in tree.found if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_addresses_within_the_page_exist(tree):
    ids = [a["id"] for _, a in tree.found if "id" in a]
    assert len(ids) == len(set(ids))
    inner = [str(a["href"])[1:] for a in tree.all("a") if str(a["href"]).startswith("#")]
    assert set(inner) <= set(ids)


def test_every_table_has_a_caption_and_scoped_heads(tree):
    assert len(tree.all("caption")) == len(tree.all("table")) > 0
    assert all(head.get("scope") in ("col", "row") for head in tree.all("th"))


def test_whatever_records_say_is_escaped(text):
    assert NASTY not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_without_the_data_set_the_page_says_why_there_are_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    text = render(tmp_path, pool=False)
    assert "the data set&#39;s files are not on this machine" in text
    assert 'class="views"' not in text


def test_one_defense_and_one_attack_make_a_page(tmp_path):
    write_cell(tmp_path, "cnn", "clean", letters(9, 1))
    write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(1, 9)})
    found = groups.find(tmp_path / "mnist" / "records")
    text = page.render(found, "mnist", page.Sources(tmp_path / "mnist"))
    assert "No curve:" in text
    assert "Nothing to compare:" in text
    assert "were probed" in text


def test_groups_with_other_samples_are_sections_of_their_own(tmp_path):
    for count in (10, 20):
        write_cell(tmp_path, "cnn", "clean", letters(count, 0))
        write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(0, count)})
    found = groups.find(tmp_path / "mnist" / "records")
    text = page.render(found, "mnist", page.Sources(tmp_path / "mnist"))
    assert len(re.findall(r'<section id="g\d"', text)) == 2


def test_the_leaderboard_puts_oblivious_beside_adaptive_with_their_gap(tmp_path):
    kept = {"metadata": {"reference": "", "counts": "accuracy"}}
    read, layout = _scores(
        [
            write_cell(tmp_path, "inc", "clean", letters(10, 0), **kept),
            write_cell(tmp_path, "inc", "pgd-linf@classifier", {0.3: letters(8, 2)}, **kept),
            write_cell(tmp_path, "inc", "pgd-linf", {0.3: letters(3, 7)}, **kept),
        ]
    )
    (table,) = leaderboard.board(read, layout).tables
    assert [field.order for field in table.rows[0].fields[3:]] == [80.0, 30.0, 50.0]


def test_a_worst_case_that_misses_an_attack_is_marked_as_a_bound(tmp_path):
    read, layout = _scores(
        [
            write_cell(tmp_path, "cnn", "clean", letters(10, 0)),
            write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(3, 7)}),
            write_cell(tmp_path, "cnn", "fgsm-linf", {0.3: letters(5, 5)}),
            write_cell(tmp_path, "abs", "clean", letters(10, 0)),
            write_cell(tmp_path, "abs", "fgsm-linf", {0.3: letters(6, 4)}),
        ]
    )
    board = leaderboard.board(read, layout)
    adaptive = {row.fields[0].text: row.fields[4] for row in board.tables[0].rows}
    assert adaptive["cnn"].text == "30.0"
    assert adaptive["abs"].text == "≤ 60.0"
    assert board.footnotes == ("not run: pgd-linf",)


def test_where_agreement_has_no_number_the_leaderboard_shows_accuracy_and_says_so(tmp_path):
    purifies = {"metadata": {"reference": "cnn", "counts": "agreement"}}
    read, layout = _scores(
        [
            write_cell(tmp_path, "cnn", "clean", letters(10, 0)),
            write_cell(tmp_path, "vae", "clean", letters(10, 0), **purifies),
            write_cell(tmp_path, "vae", "pgd-linf@classifier", {0.3: letters(8, 2)}, **purifies),
            write_cell(tmp_path, "vae", "fgsm-linf@classifier", {0.3: letters(9, 1)}, **purifies),
            write_cell(tmp_path, "vae", "pgd-linf", {0.3: letters(3, 7)}, **purifies),
            write_cell(tmp_path, "mad", "clean", letters(10, 0), **purifies),
            write_cell(tmp_path, "mad", "fgsm-linf@classifier", {0.3: letters(6, 4)}, **purifies),
            write_cell(tmp_path, "mad", "pgd-linf", {0.3: letters(2, 8)}, **purifies),
        ]
    )
    board = leaderboard.board(read, layout)
    rows = {row.fields[0].text: row.fields for row in board.tables[0].rows}
    whole, part = rows["vae"], rows["mad"]
    assert (whole[3].text, whole[3].aside) == ("80.0", "agreement; accuracy 80.0")
    assert (part[3].text, part[3].aside) == ("≤ 60.0", "accuracy")
    assert part[5].text == "40.0"
    assert "not run: pgd-linf@classifier" in board.footnotes


def test_accuracy_tables_hold_the_numbers_of_the_written_one_turned(tmp_path):
    read, layout = _scores(
        [
            write_cell(tmp_path, "cnn", "clean", letters(9, 1)),
            write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(2, 8)}),
        ]
    )
    (table,) = accuracies.accuracies(read, layout).tables
    assert [column.name for column in table.columns] == ["Defense", "Clean", "pgd-linf", "All Linf"]
    assert [field.order for field in table.rows[0].fields] == ["cnn", 90.0, 20.0, 20.0]


def test_a_curve_is_over_the_attacks_that_were_swept_and_never_rises(tmp_path):
    read, _ = _scores(
        [
            write_cell(tmp_path, "cnn", "clean", letters(10, 0)),
            write_cell(tmp_path, "cnn", "pgd-linf", {0.1: letters(8, 2), 0.3: letters(4, 6)}),
            write_cell(tmp_path, "cnn", "fgsm-linf", {0.1: letters(1, 9)}),
        ]
    )
    (chart,) = curve_lines.lines(read, looks(read.defenses))
    assert chart.data is not None
    assert [row.fields[2].order for row in chart.data.rows] == [100.0, 80.0, 40.0]


def test_sentences_name_the_pairs_that_cannot_be_told_apart(tmp_path):
    paths = []
    for name, right in (("cnn", 0), ("adv_l2", 1), ("abs", 40)):
        paths.append(write_cell(tmp_path, name, "clean", letters(40, 0)))
        paths.append(write_cell(tmp_path, name, "pgd-linf", {0.3: letters(right, 40 - right)}))
    read, layout = _scores(paths)
    (found,) = differences.differences(read, layout).maps
    assert "cannot tell apart at n = 40" in found.sentence
    assert "(1 of 3 pairs): cnn and adv_l2." in found.sentence


def test_a_command_names_exactly_the_cell(tmp_path):
    path = write_cell(
        tmp_path, "vae[answered_by=a]", "pgd-linf@classifier", {8 / 255: "cw", 1.0: "ww"}, seed=3
    )
    read = scores.read([path])
    words = shlex.split(commands.of_cell(read.metadata[0], read))
    options = dict(zip(words[3::2], words[4::2], strict=True))
    radii = [float(each) for each in options.pop("--epsilons").split(",")]
    assert radii == [8 / 255, 1.0]
    assert options == {
        "--dataset": "mnist",
        "--defense": "vae[answered_by=a]",
        "--attack": "pgd-linf@classifier",
        "--samples": "2",
        "--seed": "3",
        "--preset": "quick",
    }


def test_an_amplified_change_touches_black_or_white():
    change = np.array([[[0.0, 0.1], [-0.2, 0.05]]], dtype=np.float32)
    shown, factor = pictures.amplified(change)
    assert factor == pytest.approx(2.5)
    np.testing.assert_allclose(shown, [[[0.5, 0.75], [0.0, 0.625]]], atol=1e-6)


def test_bounds_pictures_are_inlined_as_images(tmp_path):
    (tmp_path / "certificate-quick-bounds.svg").write_text("<svg/>")
    (tmp_path / "certificate-paper-bounds.svg").write_text("<svg/>")
    assert len(bounds.bounds(tmp_path)) == 2
    (one,) = bounds.bounds(tmp_path, "quick")
    assert base64.b64decode(one.uri.split(",")[1]) == b"<svg/>"


def test_findings_of_the_rules_are_shown_and_probes_counted(tmp_path):
    path = write_cell(tmp_path, "cnn", "pgd-linf", {0.3: letters(3, 7)})
    read, layout = _scores([write_cell(tmp_path, "cnn", "clean", letters(10, 0)), path])
    probe = CellProbe(
        cell=path.stem,
        epsilon=0.3,
        rounded=Share(0, 0),
        untransferred=Share(0, 0),
        unbounded=Share(0, 0),
        doubled={"steps": Share(2, 3)},
    )
    probes.write(path.parent, probe)
    found = findings.warnings(read, layout, path.parent)
    assert (found.probed, found.cells, found.known, found.defenses) == (1, 1, 0, 1)
    assert found.table is not None
    texts = [field.text for field in found.table.rows[0].fields]
    assert "budget-not-converged" in texts and any("2 of 3" in text for text in texts)
