"""Measure the texts of pictures as they appear on a page or on a slide."""

from matplotlib.text import Text

# The pixels of a slide that are free for a picture below the heading and a line of code.
SLIDE = (1200, 560)
# 12 points are 16 pixels. Some texts have the size 8.33, which Matplotlib calls "small".
SMALLEST = 15.9


def measured(picture):
    """Draw a figure with 10 pixels per point, so that texts are as wide as in an SVG."""
    picture.figure.set_dpi(720)
    picture.figure.draw_without_rendering()
    return picture.figure


def problems(picture):
    """Return a message for each text outside the picture or too small on a slide."""
    figure = measured(picture)
    sizes = [72 * side for side in figure.get_size_inches()]
    scale = min(room / size for room, size in zip(SLIDE, sizes, strict=True))
    messages = []
    ticks = {
        label: axes
        for axes in figure.axes
        for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]
    }
    for text in figure.findobj(Text):
        hidden = text in ticks and not ticks[text].axison
        if not text.get_text() or not text.get_visible() or hidden:
            continue
        if scale * text.get_fontsize() < SMALLEST:
            messages.append(f"{text.get_text()!r} has {scale * text.get_fontsize():.1f} pixels")
        box, page = text.get_window_extent(), figure.bbox
        outside = box.x0 < -10 or box.x1 > page.x1 + 10 or box.y0 < -10 or box.y1 > page.y1 + 10
        # Labels of ticks beyond the ends of an axis are not drawn.
        if outside and text not in ticks:
            messages.append(f"{text.get_text()!r} leaves the picture")
    return messages
