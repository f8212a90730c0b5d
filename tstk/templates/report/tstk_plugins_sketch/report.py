"""A section of the report with the number of parameters of each component."""

from tstk.report.context import RunContext
from tstk.report.page import Section, render_paragraph


def render_section(context: RunContext) -> Section | None:
    """Render the section, or return None for a run to which it does not apply; called for every run."""
    counts = {slot: sum(p.numel() for p in part.parameters()) for slot, part in context.pipeline.named_slots()}
    return Section("Parameters", render_paragraph(", ".join(f"{slot} {count:,}" for slot, count in counts.items())))
