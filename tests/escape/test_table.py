"""The table and the tests agree."""
import ast
import glob
import os

from table import CLASSES, HERE, rows

LEAST, LEAST_OF_A_CLASS = 60, 2


def functions():
    """{name of a function: its file} of all tests here but these."""
    found = {}
    for path in glob.glob(os.path.join(HERE, "test_escape*.py")):
        with open(path, encoding="utf-8") as f:
            found |= {n.name: path for n in ast.parse(f.read()).body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}
    return found


def test_every_attempt_has_a_class_a_control_and_a_test():
    table, tests = rows(), functions()
    assert len(table) >= LEAST, len(table)
    assert len({(attempt, test) for _, attempt, _, test in table}) == len(table), "an attempt is there twice"
    for kind, attempt, control, test in table:
        assert kind in CLASSES and attempt and control, (kind, attempt)
        assert test in tests, f"{attempt}: there is no {test}"


def test_every_class_has_attempts_and_every_test_is_in_the_table():
    table = rows()
    for kind in CLASSES:
        assert sum(row[0] == kind for row in table) >= LEAST_OF_A_CLASS, kind
    assert set(functions()) == {row[3] for row in table}
