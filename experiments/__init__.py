"""The commands of a clone: `python -m experiments.ablation` runs `ppp_jax.experiments.ablation`.

Benchmarks, figures and what fills the pages of results stand here, because they are of a clone.
"""

import ppp_jax.experiments

__path__ = [*__path__, *ppp_jax.experiments.__path__]
