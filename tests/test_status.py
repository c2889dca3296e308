"""The table of systems says what the tests said, everywhere the same."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

from scops.cli.ls import statuses
from scops.systems import SYSTEMS

ROOT = Path(__file__).parent.parent
SAID = json.loads((ROOT / "docs" / "status.json").read_text("utf-8"))
STATUSES = {"planned", "begun", "built", "proved"}


def loaded(name: str) -> ModuleType:
    """A script of docs, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec
    assert spec.loader
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return module


ROWS = loaded("systems_and_tests").ROWS
make_status = loaded("make_status")


def test_readme_and_page_show_the_table_of_status_json() -> None:
    table = make_status.short_table(SAID)
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme.partition(make_status.BEGIN)[2].partition(make_status.END)[0].strip() == table.strip()
    assert (ROOT / "docs" / "status.md").read_text("utf-8") == make_status.page(SAID)


def test_every_row_is_there_once_with_a_known_word() -> None:
    assert list(SAID) == [row.name for row in ROWS]
    assert {said["status"] for said in SAID.values()} <= STATUSES


def test_every_built_system_has_a_row_and_ls_reads_it() -> None:
    assert SYSTEMS.keys() <= SAID.keys()
    assert all(SAID[name]["status"] != "planned" for name in SYSTEMS)
    assert statuses() == {name: said["status"] for name, said in SAID.items()}


def test_every_named_test_exists() -> None:
    for row in ROWS:
        for test in row.tests.values():
            module, name = test.partition("[")[0].rsplit(".", 1)
            file = ROOT / "tests" / Path(*module.split(".")).with_suffix(".py")
            assert f"def {name}(" in file.read_text("utf-8"), f"{row.name}: {test}"


def test_a_failed_a_skipped_and_a_missing_test_leave_the_cell_empty(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    junit.write_text(
        '<testsuites><testsuite><testcase classname="tests.a.test_b" name="test_c[1]"/>'
        '<testcase classname="tests.a.test_b" name="test_c[2]"><failure/></testcase>'
        '<testcase classname="tests.a.test_b" name="test_d"><skipped/></testcase>'
        '<testcase classname="tests.a.test_b" name="test_e"/></testsuite></testsuites>'
    )
    found = make_status.outcomes(junit)
    tests = dict(
        zip(make_status.COLUMNS, (f"a.test_b.test_{x}" for x in ("e", "c", "d", "f", "c[1]", "c[2]")), strict=True)
    )
    row = make_status.Row("one", "One", "Group", tests)
    cells = [make_status.standing(row, found)[column] for column in make_status.COLUMNS]
    assert cells == [True, False, False, False, True, False]
    assert make_status.standing(row, found)["status"] == "built"
