"""Every model case, by name: those of the modules beside this one."""

import importlib
import pkgutil

FAMILIES = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
CASES = {case.name: case for family in FAMILIES for case in family.CASES}
