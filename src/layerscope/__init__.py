"""layerscope trains image VAEs and finds out where a vision model loses what matters."""

__version__ = "0.1.0"
