"""model.json: what a saved model is and how to feed it, checked field by field. Needs neither torch nor fastai."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from pathlib import Path

from cifar_fast.errors import InputError
from cifar_fast.files import finite, write_text

CARD = "model.json"
FORMAT = 1  # a network of this package, which is built anew by name
FOREIGN = 2  # any other: its ONNX graph lies beside the card, and its own code can load the weights
MAX_BYTES = 2**26  # of a card, nearly all of which are the names of classes
# What an architecture's parameters may be: a type, and the least and the most. A network is built without memory, and
# its shapes are then compared with those in the file of weights: only how many layers there may be needs a bound.
_SHARE, _MANY = (float, 0, 1), (int, 1, 2**24)
_CNN = {
    "n_out": _MANY, "size": (int, 1, 4096), "n_in": _MANY, "n_convs": (int, 1, 13), "width": _MANY,
    "n_dense": (int, 1, 10_000), "dense_width": _MANY, "conv_dropout": _SHARE, "dropout": _SHARE,
    "logit_dropout": _SHARE, "bn": (bool, 0, 1),
}  # fmt: skip
_RECORD = {"n_out": _MANY, "widths": (list, 1, 2**24), "depth": (int, 2, 3), "bn_momentum": _SHARE}
_BACKBONE = {"n_out": _MANY, "head": (str, None, None)}
_OF_ONE_SIZE = {"size": (int, 1, 4096)}  # of a backbone that is made for images of one size, as a ViT is
_SCHEMAS = {"CustomCNN": _CNN, "RecordNet": _RECORD}
_NOT_BUILT = {"n_out": _MANY}  # of a foreign network
MOST_GROUPS = 64  # entries of a list


@dataclass(frozen=True)
class ModelCard:
    "All that is needed to rebuild a model and to use it, beside its weights."

    architecture: dict  # name and parameters of a network of this package
    vocab: list[str]  # class names, in the order of the outputs
    stored_size: int  # pixels of a side that images are decoded to
    size: int  # pixels of a side fed to the network
    mean: list[float]  # of each channel, in [0, 1], to normalise by
    std: list[float]
    metrics: dict  # what was measured
    data: str  # name of the data set that it was trained on
    weights: str  # name of the weights that it started from
    versions: dict  # of the packages that trained it
    sha256: str  # of the file of weights
    card_sha256: str = ""  # of the rest of the card
    format: int = FORMAT
    onnx_sha256: str = ""  # of a foreign network's model.onnx; empty where there is none
    levels: list[float] | None = None  # of a data set of more than 8 bits: what becomes 0, and what 255

    @property
    def is_foreign(self) -> bool:
        "Whether this package cannot build the network."
        return self.format == FOREIGN

    def temperature(self, source: str | Path) -> float:
        "By what to divide its logits. Raises `InputError` where `store_temperature` has not stored it."
        found = self.metrics.get("temperature")
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < inf:
            raise InputError(f"{source} has no temperature: evaluate its run with --confidence --held-out FOLDS")
        return float(found)

    def to_json(self) -> str:
        "As it is written, with its own hash; numbers that JSON has not are null."
        content = finite(asdict(self))
        if not self.is_foreign:
            del content["onnx_sha256"]
        if self.levels is None:
            del content["levels"]  # which earlier versions do not know
        return json.dumps({**content, "card_sha256": _digest(content)}, indent=2) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, source: str | Path = "model.json") -> "ModelCard":
        "Read a card. Raises `InputError`, naming the field that does not fit."
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source} is not JSON: save the model again") from error
        if not isinstance(content, dict):
            raise InputError(f"{source} holds no fields: save the model again")
        if content.get("format") not in (FORMAT, FOREIGN) or isinstance(content["format"], bool):
            raise InputError(f"{source}: format is {content.get('format')!r}, and this version reads 1 and 2")
        names = {o.name for o in fields(cls)} - ({"onnx_sha256"} if content["format"] == FORMAT else set())
        names -= {"levels"} - set(content)
        for problem, found in (("lacks", names - set(content)), ("has the unknown field", set(content) - names)):
            if found:
                raise InputError(f"{source} {problem} {sorted(found)[0]!r}: save the model again")
        if content["card_sha256"] != _digest(content):
            raise InputError(f"{source} is not as it was written (SHA-256): save the model again")
        for name, fits in _FITS.items():
            if name in names and not fits(content[name]):
                raise InputError(f"{source}: {name} does not fit ({_short(content[name])}): save the model again")
        card = cls(**content)
        card.check_architecture(source)
        if card.architecture["n_out"] != len(card.vocab):
            raise InputError(f"{source}: vocab has {len(card.vocab)} names for {card.architecture['n_out']} outputs")
        return card

    @classmethod
    def read(cls, path: Path) -> "ModelCard":
        "Read the file `path`. Raises `InputError`."
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InputError(f"{path} is too large for a card: save the model again")
            return cls.parse(path.read_bytes(), path)
        except OSError as error:
            inner = path.parent / "model"  # of a run's folder
            advice = inner if (inner / path.name).is_file() else "the folder of a saved model"
            raise InputError(f"{path} cannot be read ({error.strerror}): give {advice}") from error

    def check_architecture(self, source: str | Path) -> None:
        "Raise `InputError` for a parameter that is missing, unknown, of another type or out of bounds."
        options = {k: v for k, v in self.architecture.items() if k != "name"}
        if not isinstance(self.architecture.get("name"), str):
            raise InputError(f"{source}: the architecture has no name")
        schema = _NOT_BUILT if self.is_foreign else _SCHEMAS.get(self.architecture["name"], _BACKBONE)
        if schema is _BACKBONE and "size" in options:
            schema = _BACKBONE | _OF_ONE_SIZE
        for name in sorted(schema.keys() | options.keys()):
            if name not in schema or name not in options:
                known = "an unknown" if name not in schema else "no"
                raise InputError(f"{source}: the architecture has {known} parameter {name!r}")
            kind, least, most = schema[name]
            value = options[name]
            if not _fits(value, kind, least, most):
                raise InputError(f"{source}: the architecture's {name} does not fit ({_short(value)})")


def store_temperature(
    path: Path,  # of model.json
    temperature: float,  # fitted on held-out training images
) -> None:
    "Write it into the card, for `Predictor(calibrated=True)`."
    card = ModelCard.read(path)
    write_text(path, replace(card, metrics={**card.metrics, "temperature": temperature}).to_json())


def _fits(value, kind: type, least: float, most: float) -> bool:
    "Whether a parameter is of its type and within its bounds; a list, whether each of its integers is."
    if kind is list:
        counts = isinstance(value, list) and all(_fits(o, int, least, most) for o in value)
        return counts and 1 <= len(value) <= MOST_GROUPS
    right = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    return right and (value in ("linear", "fastai") if kind is str else least <= value <= most)


def _digest(content: dict) -> str:
    rest = {k: v for k, v in content.items() if k != "card_sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _are_numbers(o, n: int, most: float = 1e3) -> bool:
    return isinstance(o, list) and len(o) == n and all(_fits(x, float, -most, most) for x in o)


_FITS = {
    **dict.fromkeys(("architecture", "metrics", "versions"), lambda o: isinstance(o, dict)),
    **dict.fromkeys(("data", "weights", "sha256", "onnx_sha256"), lambda o: isinstance(o, str)),
    **dict.fromkeys(("stored_size", "size"), lambda o: _fits(o, int, 1, 4096)),
    "vocab": lambda o: isinstance(o, list) and bool(o) and all(isinstance(x, str) for x in o),
    "mean": lambda o: _are_numbers(o, 3),
    "std": lambda o: _are_numbers(o, 3) and all(x > 0 for x in o),
    "levels": lambda o: _are_numbers(o, 2, 1e30) and o[0] < o[1],
}


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
