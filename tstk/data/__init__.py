"""Load data sets by name or path, split and ready for training. Importing this package loads neither torch nor numpy.

data = tstk.data.load_data("har-demo")
batch = data.train.batch(torch.arange(8))
forecasts = tstk.data.load_data("table.csv", tstk.data.DataConfig(context=96, horizon=24))
"""

from tstk.data.catalog import get_reader, list_datasets
from tstk.data.config import DataConfig
from tstk.data.load import load_data, load_split

__all__ = ["DataConfig", "list_datasets", "load_data", "load_split", "get_reader"]
