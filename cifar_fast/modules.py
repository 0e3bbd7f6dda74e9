"""A file of the user's as a module, by the name that Python imports it by: relative imports work, classes pickle."""

import ast
import sys
from importlib import import_module, invalidate_caches
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from cifar_fast.errors import InputError

_LOADED: dict[Path, tuple[str, ModuleType]] = {}  # the text of a file when it was run, and the module that it made


def module_name(
    file: Path,  # resolved
) -> str:
    "Its dotted name: what this process knows it by, `python -m` too; else with the packages that it lies in."
    specs = [getattr(o, "__spec__", None) for o in list(sys.modules.values())]
    known = [o.name for o in specs if isinstance(o, ModuleSpec) and o.name != "__main__" and _is_of(o, file)]
    place = file.parent if file.stem == "__init__" else file.with_suffix("")
    parts = [place.name]
    while (place.parent / "__init__.py").is_file():
        place = place.parent
        parts.insert(0, place.name)
    return known[0] if known else ".".join(parts)


def module_of(
    file: Path,  # resolved
    name: str | None = None,  # that another process knows it by; None: `module_name`
) -> ModuleType:
    "The module that `file` makes; it is run anew where its text has changed. Raises `InputError` for some mistakes."
    text, (read, module) = file.read_text(), _LOADED.get(file, (None, None))
    if text == read:
        return module
    try:
        module = _run(file, name or module_name(file))
    except ImportError as error:
        if "relative import" not in str(error):
            raise
        advice = "give each folder of its package an __init__.py, or start it with python -m"
        raise InputError(f"{file} imports relatively, and not from a package ({error}): {advice}") from error
    except NameError as error:
        if error.name not in _in_annotations(text):
            raise
        raise InputError(f"{file}: an annotation cannot be looked up ({error}): import what it names") from error
    _LOADED[file] = text, module
    return module


def _run(file: Path, name: str) -> ModuleType:
    "Run `file` as the module `name`; as another where that is not what Python finds by this name."
    root, beside = (file.parent if file.stem == "__init__" else file).parents[name.count(".")], file.parent
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if str(beside) not in sys.path:
        sys.path.append(str(beside))  # the last: a package may have a module called as one of Python's own
    if name != "__main__":  # of `python folder`
        if _is_of(getattr(sys.modules.get(name), "__spec__", None), file):
            del sys.modules[name]
        invalidate_caches()  # which do not know files that are new
        if _finds(name, file):
            return import_module(name)
    spec = spec_from_file_location(f"experiments_of_{file.stem}", file)
    module = sys.modules[spec.name] = module_from_spec(spec)  # fastcore's load_mod does not: classes would not pickle
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def _finds(name: str, file: Path) -> bool:
    "Whether Python finds `file` by `name`: by `random` it finds another."
    try:
        spec = find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # something that a package around it imports
            raise
        return False
    except ValueError:  # a module without a spec has the name
        return False
    return _is_of(spec, file)


def _is_of(spec: ModuleSpec | None, file: Path) -> bool:
    origin = spec and spec.origin  # not of each the resolved path, which asks the disk
    return bool(origin) and str(origin).endswith(file.name) and Path(origin).resolve() == file


def _in_annotations(text: str) -> set[str]:
    "Names in the annotations of parameters."
    found = [o.annotation for o in ast.walk(ast.parse(text)) if isinstance(o, ast.arg) and o.annotation]
    return {o.id for annotation in found for o in ast.walk(annotation) if isinstance(o, ast.Name)}
