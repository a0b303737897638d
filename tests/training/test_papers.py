"""Sentences of articles: whole ones, without citations, of articles whose licence allows it."""

from __future__ import annotations

import pytest

from scripts import importing

XML = """<article><front><permissions><license>{licence}</license></permissions>
<abstract><p>Mice that lack the <italic>Abc</italic> gene gain weight on every diet that was tried.</p></abstract>
</front><body><sec><p>Loss of <italic>Abc</italic> &amp; its partner raised the level of insulin in blood
[<xref ref-type="bibr" rid="r1">1</xref>]&#x2013;[<xref ref-type="bibr" rid="r3">3</xref>].
It fell again after four weeks, as Smith et al. Have shown in rats <xref ref-type="fig" rid="f1">(Fig. 1)</xref>.</p>
<fig><caption><p>A caption that nobody should read as a sentence of the article.</p></caption></fig>
</sec></body></article>"""


@pytest.fixture(scope="module")
def papers():
    with importing("models/smollm2") as script:
        yield script("papers")


def test_an_article_is_read_without_citations_captions_and_markup(papers, tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(licence="Creative Commons Attribution"), "utf-8")
    (article,) = papers.articles([tmp_path])
    found = [sentence for paragraph in article for sentence in papers.split(paragraph)]
    assert found == [
        "Mice that lack the Abc gene gain weight on every diet that was tried.",
        "Loss of Abc & its partner raised the level of insulin in blood.",
        "It fell again after four weeks, as Smith et al. Have shown in rats (Fig. 1).",
    ]
    assert all(map(papers.fits, found))


def test_citations_by_number_or_by_name_are_taken_out_of_plain_text(papers):
    text = "It was seen in mice [5-8], rats (9, 10) and men [Smith 2004]. It was not in 12 dogs (none of 12)."
    assert papers.split(text) == ["It was seen in mice, rats and men.", "It was not in 12 dogs (none of 12)."]


def test_articles_without_a_free_licence_are_left_out(papers, tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(licence="All rights reserved"), "utf-8")
    for name, notice in (("b", "© 2005 The Author"), ("c", "under the Creative\nCommons Attribution License")):
        (tmp_path / f"{name}.txt").write_text(f"Text of {name}.", "utf-8")
        (tmp_path / f"{name}.copyright").write_text(notice, "utf-8")
    assert list(papers.articles([tmp_path])) == [["Text of c."]]


@pytest.mark.parametrize(
    "sentence",
    [
        "Too short a one.",
        "as a part of a sentence that begins with a small letter it is refused.",
        "The value was <0.05 in all of the groups that were compared here.",
        "It was described before (, and again) in the same group of people.",
        "A heading without a stop at its end is no sentence of the text",
    ],
)
def test_fragments_and_formulas_are_no_sentences(papers, sentence):
    assert not papers.fits(sentence)
    assert papers.fits("This is a sentence of a usual kind, and it stays.")


def test_groups_are_four_sentences_of_one_paragraph_in_order(papers):
    paragraph = " ".join(f"Sentence number {n} of the paragraph has enough words." for n in range(9))
    groups = list(papers.groups([paragraph, paragraph[:200]]))
    assert [[text.split()[2] for text in group] for group in groups] == [list("0123"), list("4567")]
