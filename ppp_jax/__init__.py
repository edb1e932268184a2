"""Controlled ablations of activation symmetry in JAX.

Train a grid of autoencoders as one program (`Grid`, `train`, `plan`) and ask whether their latents
prefer the axes (`analysis`). Each name is imported when it is first asked for, so that
`ppp_jax.analysis` stays free of the training stack.
"""

import time

import lazy_loader

__version__ = "0.1.0"
__imported__ = time.time_ns()  # source files that change later are not what this process runs
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
