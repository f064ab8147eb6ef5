"""Every protocol from raw files of its shape to a report: prepared, planned, trained a little."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

import compactrec.data.schema as schemas
from compactrec.benchmarks.model import build_model
from compactrec.benchmarks.plans import plan_bytes, resolve_plan
from compactrec.benchmarks.protocol_data import marks_of
from compactrec.benchmarks.protocol_file import ProtocolFile, load_protocol, protocol_names
from compactrec.benchmarks.protocol_run import ProtocolRequest, run_protocol
from compactrec.benchmarks.report import write_report
from compactrec.benchmarks.search_result import SearchResult
from compactrec.benchmarks.study import CompareFile
from compactrec.data.loader import BatchLoader
from compactrec.data.manifest import Manifest
from compactrec.data.schema import TableSchema
from compactrec.embeddings import method_names
from tests.benchmarks.made_files import made_files

QUIET = Console(quiet=True)
LITTLE = {"epochs": 1, "evals_per_epoch": 1, "num_threads": 1}


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of 40 million rows would take a minute to draw bags for."""
    whole = schemas.load_schema

    def load(source: str | Path) -> TableSchema:
        table = whole(source)
        sparse = tuple(
            spec.model_copy(update={"wrap": min(spec.wrap, 50)}) if spec.wrap else spec
            for spec in table.sparse
        )
        return table.model_copy(update={"sparse": sparse})

    for module in ("compactrec.data.prepare", "compactrec.benchmarks.protocol_data"):
        monkeypatch.setattr(f"{module}.load_schema", load)


def shortened(protocol: ProtocolFile) -> ProtocolFile:
    """Its searches with one epoch and few candidates."""
    little = {"epochs": 1, "generations": 2, "num_mutations": 2}
    searches = {
        search: given.model_copy(update={"options": {**given.options, **little}})
        for search, given in protocol.searches.items()
    }
    return protocol.model_copy(update={"searches": searches})


def test_optembed_runs_its_search_beside_the_full_tables(tmp_path: Path) -> None:
    """What the file says of the search is what runs, but for its length."""
    protocol = shortened(load_protocol("optembed-criteo"))
    files = {split: tuple(paths) for split, paths in made_files(protocol.name)(tmp_path).items()}
    small = {**LITTLE, "dim": 4, "hidden": [8]}
    request = ProtocolRequest(
        files=files, out=tmp_path, models=("fnn", "deepfm"), num_seeds=1, changes=small,
        allow_changes=True, budgets=("1/2",),
    )  # fmt: skip
    fnn, deepfm = run_protocol(protocol, request, console=QUIET)
    (found,) = (fnn / "searches").glob("optembed*")
    searched = SearchResult.load(found).config
    options, train = searched["options"], searched["train"]
    names = ("epochs", "patience", "threshold_learning_rate", "alpha")
    assert [options[name] for name in names] == [1, 1, 1e-4, 1e-5]
    assert (train["table_decay"], train["table_learning_rate"]) == (1e-5, 3e-4)
    for folder in (fnn, deepfm):
        assert set(cells_of(folder)) >= {("full", "done"), ("optembed", "done")}
    note = CompareFile.load(deepfm).protocol
    assert note is not None
    assert any("first-order weights of deepfm stay full" in text for text in note.caveats)


def cells_of(folder: Path) -> list[tuple[str, str | None]]:
    """Method and status of every cell."""
    cells = CompareFile.load(folder).cells
    return [(cell.method.split(":")[0], run.status) for cell in cells for run in cell.runs]


@pytest.mark.parametrize("name", protocol_names())
def test_it_runs_on_made_files_of_its_shape(name: str, tmp_path: Path) -> None:
    protocol = load_protocol(name)
    if protocol.searches:  # they have a test above
        protocol = protocol.model_copy(update={"searches": {}, "budgets": ()})
    if not set(protocol.methods) <= set(method_names()):
        pytest.skip("a method that it compares has been removed")
    files = {split: tuple(paths) for split, paths in made_files(name)(tmp_path / "raw").items()}
    model = next(iter(protocol.models))
    request = ProtocolRequest(
        files=files, out=tmp_path, models=(model,), num_seeds=1, changes=LITTLE,
        allow_changes=True, budgets=("1/2",) if protocol.methods else (),
    )  # fmt: skip
    (folder,) = run_protocol(protocol, request, console=QUIET)
    summary = write_report([folder], folder, num_resamples=0).summary
    assert summary.full is not None, summary.rows
    assert all(row.auc for row in summary.rows), summary.rows
    assert {row.method for row in summary.rows} >= {"full", *protocol.methods}
    note = summary.protocol
    assert note is not None
    assert all(change.split()[0] in LITTLE for change in note.changes)
    text = (folder / "report.md").read_text()
    for figures, _ in protocol.published(model):
        assert figures.source in text
        assert figures.caveat in text
    if not protocol.figures:
        assert "no published figure that could be verified" in text

    manifest = Manifest.load(tmp_path / "data")
    assert set(manifest.splits) == {"train", "validation", "test"}
    marks = list(marks_of(protocol.data, manifest))
    assert any("a sample" in mark or "cannot be checked" in mark for mark in marks)
    batch = next(iter(BatchLoader(tmp_path / "data", "test", 32, shuffle=False)))
    for other in protocol.models:  # with all options that the file gives
        config = protocol.config(other, tmp_path / "data", tmp_path)
        plan = resolve_plan(config, manifest)
        assert plan_bytes(config, plan).full_serving_bytes
        built, _ = build_model(config, plan, len(manifest.dense))
        logits = built.eval()(batch.dense, batch.kjt())
        assert logits.shape == (batch.batch_size,)
        assert logits.isfinite().all()


def test_mlperf_has_its_tables_whole() -> None:
    """With the published sizes, of which nothing is built."""
    from compactrec.data.manifest import SparseFeature, Split
    from compactrec.embeddings import size

    protocol = load_protocol("mlperf-dlrm-dcnv2")
    table = schemas.load_schema(protocol.data.table)
    manifest = Manifest(
        name="mlperf", protocol=protocol.data.protocol, dense=tuple(s.name for s in table.dense),
        sparse=tuple(
            SparseFeature(name=s.name, num_ids=s.wrap, max_bag=s.bag or 1, oov_id=None)
            for s in table.sparse
        ),
        splits={name: Split(num_rows=0) for name in ("train", "validation", "test")},
    )  # fmt: skip
    (model,) = protocol.models
    config = protocol.config(model, Path("data"), Path("out"))
    report = size(resolve_plan(config, manifest))
    assert report.table_bytes == 4 * 26_135_627_264
    assert sum(feature.max_bag for feature in manifest.sparse) == 214
    assert sum(feature.num_ids or 0 for feature in manifest.sparse) == protocol.data.num_ids
