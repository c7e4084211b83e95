"""What stands in a picture, and whether it can be read."""

import itertools

from matplotlib.figure import Figure
from matplotlib.text import Text


def kept(monkeypatch):
    """Keep each figure that is saved, beside saving it; return their list."""
    figures, save = [], Figure.savefig

    def saved(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", saved)
    return figures


def texts_of(figure):
    """List the texts of a figure that can be seen: titles, numbers, legends, ticks in the panel."""
    figure.draw_without_rendering()
    unseen = set()
    for axes in figure.axes:
        for axis, place in ((axes.xaxis, 0), (axes.yaxis, 1)):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_ticklabels()
            unseen |= {tick for tick in ticks if not low <= tick.get_position()[place] <= high}
            unseen |= set(axis.get_ticklabels(minor=True))
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [text for text in dict.fromkeys(found) if text.get_text().strip() and text not in unseen]


def overlapping(figure):
    """List the pairs of texts that overlap by more than a pixel, and the texts that are cut off."""
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts_of(figure)]
    pairs = [
        (one, other)
        for (one, box), (other, second) in itertools.combinations(boxes, 2)
        if box.overlaps(second)
    ]
    width, height = figure.bbox.size
    cut = [
        text for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]
    return pairs + cut
