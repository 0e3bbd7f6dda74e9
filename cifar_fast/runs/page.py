"""A page that needs nothing but itself: no network, no script, pictures inside."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

import cifar_fast
from cifar_fast.analysis.names import save_figure
from cifar_fast.errors import InputError
from cifar_fast.files import write_text


@dataclass(frozen=True)
class Picture:
    "An image inside a page."

    src: str  # data URL of a PNG
    text: str  # what it shows

    def __post_init__(self):
        "Raises ValueError for another address, which a page would ask."
        if not self.src.startswith("data:image/png;base64,"):
            raise ValueError("a picture is no PNG inside the page")

    @classmethod
    def of(cls, source: Path | Figure, text: str) -> "Picture":
        "A PNG file, or a matplotlib Figure."
        if isinstance(source, Figure):
            buffer = io.BytesIO()
            save_figure(source, buffer)
            content = buffer.getvalue()
        else:
            content = source.read_bytes()
        return cls("data:image/png;base64," + base64.b64encode(content).decode(), text)


@dataclass
class Answer:
    "A fold-out block of a page, and the numbers behind it."

    name: str  # of the question, in evidence.json
    title: str
    lines: list[str]
    header: list[str] = field(default_factory=list)  # of the table
    rows: list[list[str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    numbers: dict = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # text, by the name of a file beside the page


def write_page(path: Path, template: str, heading: str, **content) -> Path:
    "Fill one of the package's templates; all text in it is escaped. Raises `InputError` for what can be no file."
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: give --out a file in a folder that exists")
    environment = Environment(loader=PackageLoader("cifar_fast.runs"), autoescape=True, trim_blocks=True)
    page = environment.get_template(template).render(heading=heading, version=cifar_fast.__version__, **content)
    write_text(path, page)
    return path
