"""Figures of a run, as its report shows them: each function draws on matplotlib axes, and returns them.

import tstk
tstk.plot.tokens("runs/a", sample=3)          # on a new figure
tstk.plot.forecast("runs/b", ax=axes[0])      # on axes of yours

A run is its directory, hf://owner/name, or a pipeline with an array of series. `open_data` reads both once for several
figures. Nothing is shown or saved: in a notebook figures appear by themselves, elsewhere call
`axes.figure.savefig("figure.png")`.
"""

from tstk.plot.attention_maps import attention
from tstk.plot.codes import codebook
from tstk.plot.confusion_matrix import confusion
from tstk.plot.embeddings import embedding
from tstk.plot.forecasts import forecast
from tstk.plot.plot_data import PlotData, open_data
from tstk.plot.reconstructions import reconstruction
from tstk.plot.tokenization import tokens

__all__ = [
    "PlotData",
    "attention",
    "codebook",
    "confusion",
    "embedding",
    "forecast",
    "open_data",
    "reconstruction",
    "tokens",
]
