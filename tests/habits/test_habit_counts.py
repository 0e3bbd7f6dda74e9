"""docs/habits.md says what the table of habits counts."""

from pathlib import Path

from habits.table import counted, rows

PAGE = Path(__file__).parents[2] / "docs/habits.md"


def test_the_page_says_what_the_table_counts():
    said = PAGE.read_text().splitlines()
    missing = [o for o in counted() if o not in said]
    assert not missing, "write into docs/habits.md:\n" + "\n".join(missing)
    assert {o for o in said if o.startswith("- ")} <= set(counted()), "docs/habits.md says more than the table"


def test_the_table_is_large():
    names = [o.__name__ for o in rows()]
    assert len(names) >= 300 and len(names) == len(set(names))
