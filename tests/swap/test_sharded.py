"""A swapped model over two processes: bags, keys of one table and sequences train as in one."""

from pathlib import Path

import pytest

from tests.run_code import run_ranks


@pytest.mark.dist
def test_a_swapped_model_trains_as_in_one_process_and_unlike_plans_are_refused(
    tmp_path: Path,
) -> None:
    ended = run_ranks("from tests.swap.sharded_worker import main\nmain()", tmp_path, 240)
    for _, shown, errors in ended:
        assert shown.count("as one process, ") == 2, errors
        assert "plans: rank 1 has another plan than rank 0; start every process with" in shown
    for status, _, errors in ended:
        assert status == 1
        assert (
            "ValueError: rank 1 has another sharding plan than rank 0; start every process with "
            "the same model, plan file and settings"
        ) in errors
