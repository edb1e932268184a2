"""Do latents prefer a basis? PPP densities, exact nulls, alignment, and a report.

Works on any array of latents, ours or anyone's, and needs nothing of the training side:
`import ppp_jax.analysis as pa`. The public names are those in `__init__.pyi`; each is imported when
it is first asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
