"""Data by name or path: readers, parts, splits and the embedded demo set. Importing this loads neither torch nor numpy.

data = tstk.data.load("har-demo")
batch = data.train.batch(torch.arange(8))
"""

from tstk.data.catalog import available, reader_for
from tstk.data.load import load, load_part

__all__ = ["available", "load", "load_part", "reader_for"]
