"""Report sections on discrete tokens: the shape and frequency of every code, and reconstructions."""

from __future__ import annotations

from tstk.plot.codes import MAX_CODES, codes_figure_size, compute_codebook, describe_usage, draw_codes, draw_usage
from tstk.plot.reconstructions import compute_reconstructions, draw_reconstruction
from tstk.report.context import RunContext
from tstk.report.page import Section, render_figure, render_panel, render_panels, render_paragraph

MAX_PANELS = 6


def render_codebook(context: RunContext) -> Section | None:
    """Render the shape of each code, and code frequencies."""
    spec = context.pipeline.tokenizer.out
    has_place = spec.stride is not None and float(spec.stride).is_integer()
    if spec.vocab_size is None or not (has_place or context.pipeline.tokenizer.has_decoder):
        return None
    codebook = compute_codebook(context)
    codes, frequencies = codebook.list_codes()[:MAX_CODES], codebook.frequencies
    label = f"the {len(codes)} most frequent codes as shapes, with their share of the tokens"
    shapes = render_figure(
        label,
        label,
        lambda figure: draw_codes(figure.subplots(), codes, codebook.center),
        codes_figure_size(len(codes)),
    )
    usage = render_panel(
        "how often each code is chosen",
        f"The most frequent code is {frequencies[0]:.1%} of tokens",
        lambda axes: draw_usage(axes, frequencies),
    )
    text = render_paragraph(f"{describe_usage(context, codebook.counts)} {codebook.description}")
    return Section(f"Codes, {context.split_name} split", text + shapes + render_panels([usage]))


def render_reconstructions(context: RunContext) -> Section | None:
    """Render series with their reconstructions by an autoencoder."""
    pipeline = context.pipeline
    if pipeline.decoder is None or not pipeline.decoder.predicts_series:
        return None
    channels = context.select_channels()
    rows = context.select_rows(max(1, MAX_PANELS // len(channels)))
    series = compute_reconstructions(context, rows)
    figures = []
    for channel in channels:
        for row, channels_of_row in zip(rows.tolist(), series, strict=True):
            item = channels_of_row[channel]
            label = f"channel {context.channels[channel]} of {context.describe(row)}, {item.describe()}"
            axis = context.get_axis(row, len(item.samples))
            figures.append(
                render_panel(
                    label,
                    f"The series and its reconstruction: {label}",
                    lambda axes, item=item, axis=axis, channel=channel: draw_reconstruction(  # type: ignore[misc]
                        axes, item, axis, context.window, context.channels[channel]
                    ),
                )
            )
    text = "The input of the tokenizer, and its reconstruction from the codes." + context.describe_channels(channels)
    return Section(f"Reconstructions, {context.split_name} split", render_paragraph(text) + render_panels(figures))
