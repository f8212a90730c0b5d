"""CWT-MAE-RoPE: masked autoencoding of wavelet images of time series."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tstk_plugins_cwtmae.published import CWT_MAE_RoPE as CWT_MAE_RoPE
    from tstk_plugins_cwtmae.published import TF_MAE_Classifier as TF_MAE_Classifier

__all__ = ["CWT_MAE_RoPE", "TF_MAE_Classifier"]


def __getattr__(name: str) -> Any:
    """Import the original's classes on first use, since plugins are listed without importing torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tstk_plugins_cwtmae import published

    return getattr(published, name)
