"""Reports: the HTML page of a run folder, and the folder of figures and tables of an array.

What is in it is imported when it is first asked for, as the stub beside this file lists it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
