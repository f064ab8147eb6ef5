"""Checkpoints: whole or not there, and refused by name when they do not fit."""

import errno
import json
import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compactrec.embeddings import Feature, FullConfig, checkpoint_io, full_plan
from compactrec.embeddings.checkpoint_group import CheckpointGroup
from compactrec.embeddings.checkpoint_index import Index, TensorSet, differences, write_index
from compactrec.embeddings.checkpoint_io import copy_atomically, write_atomically, write_tensors
from compactrec.embeddings.checkpointing import CheckpointError, CheckpointFolder

IDENTITY = {"config": {"batch_size": 64, "seed": 0}, "plan": "abc", "data": "123"}


def tensors(value: float) -> dict[str, Tensor]:
    return {"a": torch.full((300, 7), value), "b": torch.arange(5), "empty": torch.zeros(0, 3)}


def store_of_two_steps(folder: Path) -> CheckpointFolder:
    store = CheckpointFolder(folder, IDENTITY)
    best = store.write("best-000000001", tensors(1.0))
    store.save(1, tensors(1.0), {"step": 1}, best)
    store.save(2, tensors(2.0), {"step": 2, "loss": 0.1}, best)
    return store


def test_round_trip_and_only_the_last_is_kept(tmp_path: Path) -> None:
    store_of_two_steps(tmp_path / "c")
    store = CheckpointFolder(tmp_path / "c", IDENTITY)
    found = store.load()
    assert found is not None
    assert found.state == {"step": 2, "loss": 0.1}
    read = store.read(found.tensors)
    assert read.keys() == tensors(2.0).keys()
    for key, tensor in tensors(2.0).items():
        assert torch.equal(read[key], tensor)
        assert read[key].dtype == tensor.dtype
    assert found.best is not None
    assert torch.equal(store.read(found.best)["a"], tensors(1.0)["a"])
    assert {p.name for p in store.path.iterdir()} == {
        "checkpoint.json", "best-000000001.safetensors", "step-000000002.safetensors"
    }  # fmt: skip
    (tmp_path / "other").touch()  # as the umask has it
    assert {p.stat().st_mode for p in [*store.path.iterdir(), tmp_path / "other"]} == {
        (tmp_path / "other").stat().st_mode
    }


def test_nothing_is_found_in_a_new_folder(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "none", IDENTITY).load() is None
    assert not (tmp_path / "none").exists()


def test_views_are_saved_as_their_own_values(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    store = CheckpointFolder(tmp_path, IDENTITY)
    views = {"a": flat[:4], "b": flat[4:].view(4, 2), "t": flat.view(3, 4).T.clone().T}
    store.save(1, views, {})
    found = store.load()
    assert found is not None
    for key, view in views.items():
        assert torch.equal(store.read(found.tensors)[key], view)


def test_files_and_names_hold_no_pickle(tmp_path: Path) -> None:
    store_of_two_steps(tmp_path)
    for path in tmp_path.iterdir():
        assert path.suffix in (".json", ".safetensors")
        assert b"torch" not in path.read_bytes()  # a pickle of tensors names its classes


@pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["checkpoint.json", "best-000000001", "step-000000002"])
def test_a_flipped_byte_is_refused(tmp_path: Path, name: str, place: float) -> None:
    store = store_of_two_steps(tmp_path)
    path = next(p for p in tmp_path.iterdir() if p.name.startswith(name))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=f"{path.name} (is damaged|has format)"):
        store.load()


class Thread(CheckpointGroup):
    """One of several processes, in a thread of this one."""

    def __init__(self, rank: int, said: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.size = rank, len(said)
        self.said, self.barrier = said, barrier

    def gather(self, value: Any) -> list[Any]:
        self.said[self.rank] = value
        self.barrier.wait()
        found = list(self.said)
        self.barrier.wait()
        return found


def load_by(size: int, folder: Path) -> list[str]:
    """What ``size`` processes that load together are told: empty where all is well."""
    said, barrier = [None] * size, threading.Barrier(size, timeout=60)

    def load(rank: int) -> str:
        store = CheckpointFolder(folder, IDENTITY)
        store.processes = Thread(rank, said, barrier)
        try:
            found = store.load()
        except CheckpointError as error:
            return str(error)
        assert found is not None
        return ""

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(load, range(size)))


@pytest.mark.parametrize(("saved", "loading"), [(2, 2), (4, 4), (4, 2), (2, 4)])
def test_a_flipped_byte_of_any_process_is_refused_by_all(
    tmp_path: Path, saved: int, loading: int
) -> None:
    sets = []
    with CheckpointFolder(tmp_path, IDENTITY) as store:
        for name in ("best", "step"):
            files = [store.write(f"{name}-{r}", tensors(r)).files[0] for r in range(saved)]
            sets.append(TensorSet(name=name, files=tuple(files), tensors={}))
    best, step = sets
    index = Index(
        identity=IDENTITY, step=2, world_size=saved, tensors=step, best=best, state={},
        ranks=({},) * saved,
    )  # fmt: skip
    write_index(tmp_path, index)
    assert load_by(loading, tmp_path) == [""] * loading
    assert len(index.files) == 2 * saved
    for file in index.files:
        path = tmp_path / file.name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        told = load_by(loading, tmp_path)
        path.write_bytes(content)
        text = f"{path} is damaged: its checksum differs; restore it"
        assert [error.startswith(text) for error in told] == [True] * loading, told


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path)
    path = tmp_path / "step-000000002.safetensors"
    os.truncate(path, 100)
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: it has 100 bytes instead"):
        store.load()


def test_a_missing_tensor_file_is_refused(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path)
    (tmp_path / "step-000000002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step-000000002.safetensors is damaged: .* missing"):
        store.load()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"config": {"batch_size": 32, "seed": 0}},
            r"config\.batch_size is 64 there and 32 here\. Go on with the same settings",
        ),
        ({"config": {"batch_size": 64}}, r"config\.seed is 0 there and None here"),
        ({"plan": "xyz"}, "plan is 'abc' there and 'xyz' here"),
        ({"plan": "x" * 200}, r"another run: plan differs\."),
        (
            {"config": {"batch_size": 64, "seed": 0, "salts": [1, 2]}},
            r"config\.salts is None there and \[1, 2\] here",
        ),
        ({"data": "456"}, "data is '123' there and '456' here"),
    ],
)
def test_another_run_is_refused_by_name(
    tmp_path: Path, other: dict[str, object], message: str
) -> None:
    store_of_two_steps(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        CheckpointFolder(tmp_path, {**IDENTITY, **other}).load()


@pytest.mark.parametrize(("key", "value"), [("version", 1), ("version", 3), ("format", "other")])
def test_another_version_is_refused(tmp_path: Path, key: str, value: object) -> None:
    store = store_of_two_steps(tmp_path)
    path = tmp_path / "checkpoint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=r"has format and version .* this program reads"):
        store.load()


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writes beyond ``num_bytes`` of a file really fail, in the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_step_two_is_whole(folder: Path) -> None:
    store = CheckpointFolder(folder, IDENTITY)
    found = store.load()
    assert found is not None
    assert found.state["step"] == 2
    assert torch.equal(store.read(found.tensors)["a"], tensors(2.0)["a"])
    assert not list(folder.glob("*.partial"))


def test_a_write_that_fails_leaves_the_last_good_one(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path)
    with (
        file_size_limit(1000),
        pytest.raises(CheckpointError, match=r"the one of step 2 is whole\. Free space and run"),
    ):
        store.save(3, tensors(3.0), {"step": 3})
    assert_step_two_is_whole(tmp_path)
    store.save(4, tensors(4.0), {"step": 4})
    found = store.load()
    assert found is not None
    assert found.state["step"] == 4


NUM_CALLS = {"save_file": 1, "fsync": 4, "replace": 2}
"""Calls in one save: a tensor file, the index, and the folder after each."""


@pytest.mark.parametrize("call", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    ("module", "name"), [(checkpoint_io, "save_file"), (os, "fsync"), (os, "replace")]
)
def test_a_full_disk_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str, call: int
) -> None:
    store = store_of_two_steps(tmp_path)
    real: Callable[..., object] = getattr(module, name)
    calls = []

    def full(*arguments: object) -> object:
        calls.append(name)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(module, name, full)
    failed = call < NUM_CALLS[name]
    if failed:
        with pytest.raises(CheckpointError, match="No space left on device"):
            store.save(3, tensors(3.0), {"step": 3})
    else:
        store.save(3, tensors(3.0), {"step": 3})
    monkeypatch.undo()
    assert len(calls) == min(call + 1, NUM_CALLS[name])
    found = CheckpointFolder(tmp_path, IDENTITY).load()
    assert found is not None
    # The last fsync is that of the folder, after the rename: by then the new one counts.
    index_was_replaced = not failed or (name == "fsync" and call == 3)
    assert found.state["step"] == (3 if index_was_replaced else 2)


def test_the_first_write_that_fails_says_that_there_is_none(tmp_path: Path) -> None:
    store = CheckpointFolder(tmp_path / "c", IDENTITY)
    with file_size_limit(1000), pytest.raises(CheckpointError, match="there is no earlier one"):
        store.save(1, tensors(1.0), {})
    assert store.load() is None


def test_what_a_killed_save_left_is_ignored_then_removed(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path)
    (tmp_path / "step-000000003.safetensors.partial").write_bytes(b"half")
    (tmp_path / "step-000000003.safetensors").write_bytes(b"whole but not taken over")
    (tmp_path / "checkpoint.json.partial").write_bytes(b"{")
    (tmp_path / "notes.txt").write_text("not ours")
    assert_step_two_is_whole_despite_leftovers(store)
    store.save(4, tensors(4.0), {})
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint.json", "step-000000004.safetensors", "notes.txt"
    }  # fmt: skip


def test_files_without_an_index_are_named(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path)
    (tmp_path / "checkpoint.json").unlink()
    message = (
        f"{tmp_path} has step-000000002.safetensors but no checkpoint.json, so there is no "
        f"checkpoint in it, and the next save removes them: a first save was cut off, or "
        f"checkpoint.json was removed; restore it if there was one"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert store.load() is None


def assert_step_two_is_whole_despite_leftovers(store: CheckpointFolder) -> None:
    found = store.load()
    assert found is not None
    assert found.state["step"] == 2


def test_discard_keeps_what_the_checkpoint_on_disk_names(tmp_path: Path) -> None:
    store = CheckpointFolder(tmp_path, IDENTITY)
    first = store.write("best-1", tensors(1.0))
    store.save(1, tensors(1.0), {}, first)
    second = store.write("best-2", tensors(2.0))
    store.discard(first)  # the checkpoint of step 1 still needs it
    third = store.write("best-3", tensors(3.0))
    store.discard(second)
    assert not (tmp_path / second.name).exists()
    assert store.load() is not None
    store.save(3, tensors(3.0), {}, third)
    assert not (tmp_path / first.name).exists()


def test_remove(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path / "c")
    store.remove()
    assert not (tmp_path / "c").exists()
    store.remove()


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (float("nan"), ValueError, "is nan, which is not JSON compliant; give None, or leave it"),
        (float("-inf"), ValueError, "is -inf, which is not JSON compliant"),
        (
            torch.ones(3),
            TypeError,
            r"is of type Tensor, and takes JSON values alone: text, numbers, lists and dicts of "
            r"them; give VALUE.tolist\(\) where it is small, and save it with the model",
        ),
        (
            full_plan([Feature(name="a", num_ids=5, dim=4)]),
            TypeError,
            "is of type Plan, .*give VALUE.to_json",
        ),
        (FullConfig(), TypeError, r"is of type FullConfig, .*give VALUE.to_dict\(\)"),
        (
            Feature(name="a", num_ids=5, dim=4),
            TypeError,
            r"is of type Feature, .*give VALUE.model_dump\(mode='json'\)",
        ),
        (Path("x"), TypeError, r"is of type PosixPath, .*; give str\(\) of it"),
        ({(1, 2): 2}, TypeError, r"has the key \(1, 2\); keys of JSON are text: give str\(key\)"),
    ],
)
def test_what_is_no_json_is_named_by_its_key(
    tmp_path: Path, value: object, kind: type[Exception], message: str
) -> None:
    given = {"seen": 3, "log": [1, {"last": value}]}
    name = re.escape("['log'][1]['last']")
    with pytest.raises(
        kind, match=f"^identity{name} {message.replace('VALUE', 'identity' + name)}"
    ):
        CheckpointFolder(tmp_path, given)
    folder = CheckpointFolder(tmp_path, IDENTITY)
    with pytest.raises(kind, match=f"^state{name} {message.replace('VALUE', 'state' + name)}"):
        folder.save(1, {}, given)


@pytest.mark.parametrize("value", [[1], None, "abc", 3])
def test_identity_and_state_are_by_name(tmp_path: Path, value: Any) -> None:
    message = "{} must be a dict of JSON values by name, got {!r}; write {{'name': value}}, or {{}}"
    with pytest.raises(TypeError, match=re.escape(message.format("identity", value))):
        CheckpointFolder(tmp_path, value)
    with pytest.raises(TypeError, match=re.escape(message.format("state", value))):
        CheckpointFolder(tmp_path, {}).save(1, tensors(1.0), value)


@pytest.mark.parametrize(
    ("step", "text"),
    [
        ("a", "a whole number, got 'a'"), (1.5, "a whole number, got 1.5"),
        (True, "a whole number, got True"), (None, "a whole number, got None"),
        (-1, "0 or more, got -1"),
    ],
)  # fmt: skip
def test_a_step_is_a_whole_number(tmp_path: Path, step: Any, text: str) -> None:
    message = f"step must be {text}; give the number of steps that were made"
    with (
        CheckpointFolder(tmp_path / "c", {}) as store,
        pytest.raises((TypeError, ValueError), match=re.escape(message)),
    ):
        store.save(step, tensors(1.0), {})
    assert not (tmp_path / "c").exists()


def test_a_step_may_be_a_numpy_integer(tmp_path: Path) -> None:
    with CheckpointFolder(tmp_path, {}) as store:
        store.save(np.int64(12), tensors(1.0), {})  # type: ignore[arg-type] # an integer to Python
        assert store.last_step == 12


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    store_of_two_steps(tmp_path / "c").close()
    for name in ("checkpoint.json", "step-000000002.safetensors"):
        path = tmp_path / "c" / name
        with pytest.raises(
            CheckpointError, match=rf"{name} is a file; a checkpoint is a folder, so"
        ):
            CheckpointFolder(path, IDENTITY).load()


def test_differences_names_what_differs() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        "d is None there and 4 here",
        "a.c is 2 there and 3 here",
    ]
    many = differences({}, {name: 1 for name in "abcdefg"})
    assert many[-2:] == ["e is None there and 1 here", "and 2 more"]
    assert differences(IDENTITY, IDENTITY) == []
    groups = {"groups": [{"seed": 1}, {"seed": 2}]}
    other = {"groups": [{"seed": 1}, {"seed": 3}]}
    assert differences(groups, other) == ["groups.1.seed is 2 there and 3 here"]


def test_atomic_files(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomically(path, b"one")
    with file_size_limit(2), pytest.raises(OSError, match="File too large"):
        write_atomically(path, b"three")
    assert path.read_bytes() == b"one"
    for _ in range(2):
        copy_atomically(path, tmp_path / "y")
        assert {p.name for p in tmp_path.iterdir()} == {"x", "y"}
    path.unlink()
    assert (tmp_path / "y").read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["y"]


def write_x(path: Path) -> None:
    write_tensors(path, {"a": torch.arange(5)})


def copy_x(path: Path) -> None:
    source = path.with_name("source")
    source.write_bytes(b"one")
    copy_atomically(source, path)
    assert path.read_bytes() == source.read_bytes()
    assert not path.samefile(source)


@pytest.mark.parametrize("write", [lambda path: write_atomically(path, b"one"), write_x, copy_x])
def test_bytes_are_on_disk_before_they_get_their_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    """A copy too, where the file system has no hard links."""
    done: list[tuple[str, str]] = []
    real = os.replace

    def fsync(file: int) -> None:
        done.append(("fsync", Path(f"/proc/self/fd/{file}").readlink().name))

    def replace(source: Path, path: Path) -> None:
        done.append(("replace", path.name))
        real(source, path)

    def link(source: Path, path: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    for made in (fsync, replace, link):
        monkeypatch.setattr(os, made.__name__, made)
    write(tmp_path / "x")
    assert done == [("fsync", "x.partial"), ("replace", "x"), ("fsync", tmp_path.name)]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with store_of_two_steps(tmp_path / "c") as store:
        other = CheckpointFolder(tmp_path / "c", IDENTITY)
        assert other.load() is not None, "reading is for everybody"
        with pytest.raises(CheckpointError, match="another run is writing"):
            other.save(3, tensors(3.0), {})
        with pytest.raises(CheckpointError, match="another run is writing"):
            other.remove()
        assert store.load() is not None
    other.save(3, tensors(3.0), {})
    other.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_the_checkpoint_of_another_run_is_not_written_over(tmp_path: Path) -> None:
    store_of_two_steps(tmp_path / "c").close()
    with pytest.raises(CheckpointError, match="plan is 'abc' there and 'xyz' here"):
        CheckpointFolder(tmp_path / "c", {**IDENTITY, "plan": "xyz"}).save(3, tensors(3.0), {})
    assert_step_two_is_whole(tmp_path / "c")


def test_files_on_disk_are_never_written_over(tmp_path: Path) -> None:
    """Not even by the same step again: until the index names the new ones, the old ones count."""
    store_of_two_steps(tmp_path).close()
    with CheckpointFolder(tmp_path, IDENTITY) as store:
        store.save(2, tensors(5.0), {"step": 2})
        assert [p.name for p in tmp_path.glob("step-*")] == ["step-000000002-1.safetensors"]
        found = store.load()
        assert found is not None
        assert torch.equal(store.read(found.tensors)["a"], tensors(5.0)["a"])


def test_an_asynchronous_save_holds_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    given = tensors(1.0)
    with CheckpointFolder(tmp_path, IDENTITY) as store:
        store.save(1, given, {"step": 1}, asynchronous=True)
        given["a"].fill_(7.0)
        found = store.load()  # waits
        assert found is not None
        assert torch.equal(store.read(found.tensors)["a"], tensors(1.0)["a"])
        store.save(2, given, {"step": 2}, asynchronous=True)
    found = store.load()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("then", ["wait", "save", "close", "load"])
def test_an_error_of_the_thread_is_raised_by_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    store = store_of_two_steps(tmp_path)
    actions: dict[str, Callable[[], object]] = {
        "wait": store.wait,
        "save": lambda: store.save(4, tensors(4.0), {}),
        "close": store.close,
        "load": store.load,
    }

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_io, "save_file", full)
        store.save(3, tensors(3.0), {}, asynchronous=True)
        with pytest.raises(CheckpointError, match=r"No space left.*the one of step 2 is whole"):
            actions[then]()
    store.wait()  # raised once
    assert_step_two_is_whole(tmp_path)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    store = store_of_two_steps(tmp_path)
    found = store.load()
    assert found is not None
    for target, message in (
        ({"c": torch.zeros(3)}, r"does not fit: c is not in it\. Load it into the model"),
        ({"a": torch.zeros(7, 300)}, r"a is float32 \(300, 7\) there and float32 \(7, 300\) here"),
        ({"b": torch.zeros(5)}, r"b is int64 \(5,\) there and float32 \(5,\) here"),
    ):
        with pytest.raises(CheckpointError, match=message):
            store.read(found.tensors, target)
    own = {"a": torch.zeros(300, 7)}
    read = store.read(found.tensors, own, whole=["b"])
    assert read["a"] is own["a"]
    assert read.keys() == {"a", "b"}
    assert torch.equal(own["a"], tensors(2.0)["a"])


def test_a_checkpoint_holds_tensors(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="holds tensors, and 'a' is list; give JSON values as sta"):
        CheckpointFolder(tmp_path, IDENTITY).save(1, {"a": [1]}, {})  # type: ignore[dict-item]  # wrong on purpose


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8, torch.bool])
def test_every_type_and_shape_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    given = {"m": torch.randint(0, 2, (3, 4, 5)).to(dtype), "scalar": torch.ones((), dtype=dtype)}
    with CheckpointFolder(tmp_path, IDENTITY) as store:
        store.save(1, given, {})
        found = store.load()
        assert found is not None
        read = store.read(found.tensors)
    assert all(torch.equal(read[key], given[key]) for key in given)
    assert all(read[key].dtype == dtype for key in given)


def test_a_folder_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for path in (tmp_path / "file" / "c", Path("/proc/nowhere/c")):
        store = CheckpointFolder(path, IDENTITY)
        with pytest.raises(
            CheckpointError, match=r"c cannot be written \(.*\); give a folder that"
        ):
            store.save(1, tensors(1.0), {})
