"""What happens with each kind of input is what the table says, and what the page says."""

import re

import pytest

from kinds import COMMAND, KINDS, PAGE, happens, page, row


@pytest.mark.parametrize("kind", KINDS, ids=lambda o: f"{o.group}: {o.given}".encode("ascii", "replace").decode())
def test_what_happens_with_each_kind_of_input(kind):
    result, said = happens(kind)
    assert result == kind.result, said
    assert re.search(kind.said, said, re.MULTILINE)
    assert kind.said or result == "refused" or not said
    assert row(kind, result, said) in PAGE.read_text(), f"docs/{PAGE.name} is out of date: {COMMAND}"


def test_the_page_has_these_rows_and_no_others():
    found = [("", "")] * len(KINDS)
    shape = re.sub(r"(?m)^(\| .+? \|).*$", r"\1", page(found))
    assert re.sub(r"(?m)^(\| .+? \|).*$", r"\1", PAGE.read_text()) == shape, f"{PAGE.name} is out of date: {COMMAND}"
