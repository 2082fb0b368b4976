"""Histograms and thumbnails as HTML: what names say is no markup, and bars are as high as their counts."""

import re

from noiseweave.jobs.studio import charts
from noiseweave.jobs.studio.charts import Bar, Thumb


def test_bars_are_as_high_as_their_counts():
    html = charts.chart(
        "a <b>", [Bar(name="x", value=n, lit=n > 1) for n in (0, 1, 2, 1000)], ("<0", "1"), [0.5]
    )
    heights = [float(h) for h in re.findall(r'<rect [^>]*height="([\d.]+)"', html)]
    assert heights[0] == 0
    assert heights[1] == heights[2] == 1.0  # a count is seen, however small
    assert heights[3] == charts.BASE - 18
    assert html.count('"bar out"') == 2
    assert 'x1="135.0"' in html
    assert "<title>x: 1,000</title>" in html
    assert "a &lt;b&gt;" in html
    assert "&lt;0" in html
    assert "<b>" not in html


def test_nothing_is_drawn_of_nothing():
    assert "<rect" not in charts.chart("none", [], ("0", "1"))
    assert 'height="0.0"' in charts.chart("none", [Bar(name="x", value=0)], ("0", "1"))


def test_tables_and_pairs_are_text():
    assert '<td>a&amp;b</td><td class="number">1,234</td>' in charts.table(["x", "<y>"], [("a&b", 1234)])
    thumb = Thumb(name='"><script>', data=b"jpeg")
    html = charts.pairs("<t>", [(thumb, thumb, "0.5")])
    assert "<script" not in html
    assert html.count("data:image/jpeg;base64,anBlZw==") == 2
    assert 'alt="&quot;&gt;&lt;script&gt;"' in html
