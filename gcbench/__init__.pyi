from gcbench.auto import AutoModel as AutoModel

__version__: str
