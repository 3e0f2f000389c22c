"""Many runs of layerscope: which ones a grid or a recipe asks for, and how they are run one after another. No torch."""
