"""Every model case, by name: those of the modules beside this one. `PIPELINED`: those with lengths of streams that say
something about PipeFusion alone.
"""

import importlib
import pkgutil

FAMILIES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
CASES = {case.name: case for family in FAMILIES for case in family.CASES}
PIPELINED = {case.name: case for family in FAMILIES for case in getattr(family, "PIPELINED", [])}
