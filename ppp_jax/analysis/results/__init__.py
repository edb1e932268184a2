"""A grid in numbers: every run measured, judged and put into tables.

What is in it is imported when it is first asked for, as the stub beside this file lists it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
