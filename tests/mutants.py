"""``make mutants``: small changes to the code that decides results, each of which a test should notice (mutmut).

    python -P tests/mutants.py [hetpure/schedule.py ..]

A mutant meets only the tests of its own folder, those that call its function. A run that was stopped goes on; where
files are named, their survivors are tested again.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import libcst
import mutmut.__main__ as mutmut
from mutmut.mutation import mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.workers.isolation import ForkServerRunner

KILLED = "killed", "timeout"
FILES = sys.argv[1:]


def names_and_values(node: libcst.BaseString) -> Iterable[libcst.BaseString]:
    """Mutants of a string, unless it is prose: no test is about a message's wording."""
    if isinstance(node, libcst.SimpleString) and " " not in node.value:
        yield from mutators.operator_string(node)


def arguments(node: libcst.Call) -> Iterable[libcst.Call]:
    """Mutants of a call's arguments, unless they say what is wrong. A condition has mutants of its own."""
    name = node.func.value if isinstance(node.func, libcst.Name) else ""
    if name != "require" and not str(name).endswith("Error"):
        yield from mutators.operator_arg_removal(node)


def of_the_files(**selection) -> tuple[list, dict]:
    """The mutants of ``FILES``, in that order, or all, with the results that stand."""
    mutants, files = collect(**selection)
    if not FILES:
        return mutants, files
    chosen = [each for path in FILES for each in mutants if str(each[0].path) == path]
    return [(file, name, code if status_by_exit_code[code] in KILLED else None) for file, name, code in chosen], files


def submit_own_tests(runner: ForkServerRunner, mutant: str, tests: list[str], *limits: float) -> None:
    """Tests of the mutant's own folder, or others where it has none; fast ones first."""
    folder = mutant.split(".")[1]
    own = [test for test in tests if test.startswith((f"tests/{folder}/", f"tests/test_{folder}.py"))]
    submit(runner, mutant, sorted(own or tests, key=lambda test: (state().duration_by_test[test], test)), *limits)


def report() -> None:
    """Survivors with their changes, then the counts of each file."""
    counts: dict[str, Counter[str]] = {}
    for file, mutant, _ in of_the_files(mutant_names=())[0]:
        status = status_by_exit_code[file.exit_code_by_key[mutant]]
        counts.setdefault(str(file.path), Counter())[status] += 1
        if status not in KILLED:
            changed = [line for line in get_diff_for_mutant(mutant).splitlines()[2:] if line[:1] in ("-", "+")]
            print(f"\n{status}: {mutant}", *changed, sep="\n")
    for path, count in counts.items():
        print(f"{path}: {count.total()} mutants, {sum(count[status] for status in KILLED)} killed")


if __name__ == "__main__":
    collect, mutmut.collect_source_file_mutation_data = mutmut.collect_source_file_mutation_data, of_the_files
    # Which test calls which function may have changed.
    Path("mutants/mutmut-stats.json").unlink(missing_ok=True)
    mutmut.estimated_worst_case_time = lambda _: 0.0  # it sorts mutants by this: keep their order
    submit, ForkServerRunner.submit = ForkServerRunner.submit, submit_own_tests
    narrower = {mutators.operator_string: names_and_values, mutators.operator_arg_removal: arguments}
    mutators.mutation_operators[:] = [
        (kind, narrower.get(operator, operator)) for kind, operator in mutators.mutation_operators
    ]
    mutmut._run((), max_children=2)
    report()
