"""A run that is read back: a frame of samples with a column per axis, metric and baseline."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.config import AXES, DEFAULT_CORRECTION, DEFAULT_METRIC, Config, Document, parse_config, primary_metric
from experiments.results.invocations import COLUMNS
from experiments.results.run_metrics import UNAVAILABLE, run_level
from experiments.stats import NO_VALUE, baseline_column, copy_scores, is_accuracy, text_items, to_records, unread_column
from experiments.stats.arms import axes_of, drop_constant_axes
from experiments.stats.bounds import unread_text
from experiments.stopping.looks import read_families
from experiments.store import DECIDED_BY, Store, describe_damaged_lines, equivalence_digest, last_state, refuse_imported
from experiments.store.invocations import run_day
from experiments.store.sample_table import FLAT, SampleTable, column_path
from icl import Better, DataFrame, ICLWarning, Series, StoreError, did_you_mean, entries, pd, resolve
from icl.untrusted import untrusted

if TYPE_CHECKING:
    from experiments.report.notebook import SampleView

EAGER = ("query", "seed", "group", "failed", "output", "unread", "masked", *COLUMNS)
"""The fields of a sample that `lazy_samples` reads at once, besides scores and baselines."""


@dataclass(frozen=True)
class Run:
    """A run directory. Each call reads it again, so a run in progress can be read repeatedly.

    Attributes:
        trust: Whether code that the run names by path may be imported. It is, for a run of your own config.
        from_lines: Whether samples are read from their lines alone, and not from the caches next to them.
    """

    path: Path
    trust: bool = False
    from_lines: bool = False

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        return Store(self.path).read_run() or {}

    @property
    def config(self) -> dict[str, Any]:
        """The config that the run was last started with. Raises StoreError if run.json has no config."""
        config = self.info.get("config")
        if not config:
            raise StoreError(f"{self.path / 'run.json'} has no config. Use the experiment file instead of the run.")
        return dict(config)

    @property
    def untrusted(self) -> Path | None:
        """Its folder if it is not trusted, for `icl.untrusted.untrusted`."""
        return None if self.trust else self.path

    @property
    def config_folder(self) -> Path:
        """The folder of the experiment file, to which its paths are relative."""
        return self.path / str(self.info.get("folder", ""))

    def load_config(self) -> Config:
        """The config, checked, to build its components again.

        Raises:
            StoreError: The run was imported from logs.
            ConfigError: A key is wrong. `expand` refuses what needs trust.
        """
        refuse_imported(self.path, self.info)
        day = run_day(Store(self.path))
        document = Document("config", self.config_folder, self.config, untrusted_run=self.untrusted, day=day)
        return parse_config(document)

    def cells(self) -> DataFrame:
        """One row per cell of the run's last config: digest, axes as labels, numbers of finished and failed samples."""
        store = Store(self.path)
        rows = []
        for digest in _cells(self):
            finished, failed = store.finished_and_failed(digest)
            labels = (store.read_cell(digest) or {}).get("labels", {})
            rows.append({"cell": digest, **labels, "finished": len(finished), "failed": len(failed)})
        return pd.DataFrame(rows)

    def samples(self) -> DataFrame:
        """One row per sample: cell, axes as labels, seed, query, prompt, demonstrations, answer, metrics, baselines.

        Returns:
            A frame. `attrs` has the names of axes, metrics and baselines (`axes`, `metrics`, `baselines`), the good
            direction of each metric (`better`), and the metrics that are accuracies (`accuracies`). A baseline has a
            column for each metric that judges it (`vote:strict`); the column `vote` uses the config's
            `compare.metric`. `failed` is the reason of a failed sample. A run-level metric
            (`icl.metrics.run_level`) has numbers whose mean in a cell is its statistic, and `attrs` has what the metric
            read (`experiments.stats.run_level_frames`). Samples of one query with equal `decided_by`
            have equal answers by construction (`experiments.store.run_state`). A metric with unread outputs
            (`icl.metrics.reading`) has a column of their texts (`unread:lenient`).
        """
        from experiments.results.lazy_column import load_details

        return load_details(self.lazy_samples(), shared=False)

    def lazy_samples(self) -> DataFrame:
        """The frame of `samples`, except that details such as prompts and traces are read when they are used.

        Equal details may share an object: do not change them in place.
        """
        store, info = Store(self.path), self.info
        described = {digest: store.read_cell(digest) or {} for digest in _cells(self)}
        cells = _labels(store, described)
        table = SampleTable(store, list(cells), described, from_lines=self.from_lines)
        if damaged := describe_damaged_lines(table.damaged, "Run the experiment again to compute its sample."):
            warnings.warn(damaged, ICLWarning, stacklevel=2)
        numbers = table.cell_numbers()
        metrics, baselines, columns = dict.fromkeys(info.get("metrics", {})), dict[str, None](), dict[str, Any]()
        for digest, labels in cells.items():
            cell = described[digest]
            labels |= {"cell": digest, DECIDED_BY: cell.get(DECIDED_BY) or equivalence_digest(cell)}
        for label in ("cell", DECIDED_BY, *AXES) if len(table) else ():
            values = pd.Series([labels[label] for labels in cells.values()])
            columns[label] = values.iloc[numbers].reset_index(drop=True)
        for name, values in _columns(table):
            field, *path = column_path(name)
            if field == "scores":
                metrics |= dict.fromkeys(path)
            elif field == "baselines":
                baselines[path[0]] = None
            columns[baseline_column(*path) if len(path) == 2 else path[0] if path else field] = values
        if "unread" in columns:
            columns |= _unread_texts(columns.pop("unread"), pd.DataFrame(columns))
        with untrusted(self.untrusted):
            frame = run_level(pd.DataFrame(columns), info, baselines, self.config_folder)
        unavailable = frame.attrs.get(UNAVAILABLE, {})
        metrics = {name: None for name in metrics if name not in unavailable}
        first = ("cell", DECIDED_BY, *AXES, "seed", "query", "group", "failed", "output", *metrics, *baselines)
        frame = _as_judged_by(frame, baselines, primary_metric(info, tuple(metrics)))
        frame = frame.assign(**dict.fromkeys(column for column in first if column not in frame))
        frame = frame[[*first, *(column for column in frame if column not in first)]]
        frame["failed"] = frame["failed"].astype(object).where(frame["failed"].notna(), None)
        frame.attrs |= {
            "axes": AXES, "metrics": tuple(metrics), "baselines": tuple(baselines),
            "better": {name: _better(name, info.get("metrics", {}).get(name, {})) for name in metrics},
            "accuracies": tuple(name for name in metrics if _is_accuracy(name, info)), UNAVAILABLE: unavailable,
        }  # fmt: skip
        return frame

    def scores(self, metric: str | None = None, by: str | Sequence[str] = (), *, all_axes: bool = False) -> DataFrame:
        """The mean score of every arm with its interval, as in tables/scores.csv.

        Args:
            metric: The metric, by default the config's metric.
            by: A column of the data, such as category, or several: one row per arm and value. Run-level metrics are
                computed within each value.
            all_axes: Whether to keep axes that have a single value.

        Returns:
            One row per arm: its axes as labels, the columns `by`, mean, low and high (95 % interval), samples,
            clusters, queries, seeds, seed_sd and missing (`experiments.stats.summary.summarize_arms`).

        Raises:
            StoreError: The run has no samples.
            ConfigError: The run has no such metric or column.
        """
        from experiments.results.data_columns import split_view
        from experiments.results.view_run import view_run
        from experiments.stats import drop_constant_axes, summarize_arms

        view = view_run(self, metric)
        if by:
            view = split_view(view, [by] if isinstance(by, str) else by)
        table = summarize_arms(view.paired_scores, view.metric, view.axes)
        return table if all_axes else drop_constant_axes(table, view.axes)

    def compare(
        self,
        to: Mapping[str, Any] | None = None,
        metric: str | None = None,
        correct: str | None = None,
        *,
        all_axes: bool = False,
    ) -> DataFrame:
        """Compares every arm with its reference, in pairs. Defaults come from the config's `compare`.

        Axes that have a single value are left out, unless `all_axes`. If unread outputs leave open on which side of 0 a
        difference lies, it is NaN, and `difference_low` and `difference_high` are its bounds.
        """
        from experiments.results.labeling import apply_labels
        from experiments.stats.compare import compare
        from experiments.store.labels import read_labels

        info = self.info
        if read_families(self.path):
            raise StoreError(
                f"{self.path}: its comparisons end when they are decided (`stop`), and other tests would not be valid. "
                "`looks` has their verdicts."
            )
        keys = info.get("config", {}).get("compare") or {}
        reference = to or keys.get("to")
        if not reference:
            raise StoreError(
                f"{self.path}: its config has no 'compare'. Pass the reference: to={{'decoding': 'greedy'}}."
            )
        correction: Any = correct or keys.get("correction", DEFAULT_CORRECTION)
        usual = primary_metric(info, tuple(info.get("metrics", {}))) or DEFAULT_METRIC
        samples = apply_labels(self.samples(), metric or usual, read_labels(self.path))
        table = compare(samples, reference, metric or usual, correct=correction)
        if "unread" in table:
            is_open = table["unread"].gt(0) & (table["difference_low"] * table["difference_high"]).le(0)
            table["difference"] = table["difference"].mask(is_open)
        return table if all_axes else drop_constant_axes(table, axes_of(samples))

    def looks(self) -> DataFrame:
        """The comparisons of a run with `stop`, as they stand after the last look.

        Returns:
            One row per comparison: family, task, arm, reference, verdict (better, worse, differs, equal, open), end
            ('running' or how it ended), look, clusters, pairs, p (valid at any time), difference and its interval (low,
            high), and chance (of a later verdict). Empty for a run without `stop`.
        """
        from experiments.stopping.findings import looks_frame

        better = {name: _better(name, node) for name, node in self.info.get("metrics", {}).items()}
        return looks_frame(read_families(self.path), better)

    def analyze(self, name: str, metric: str | None = None) -> DataFrame:
        """The table of an analysis, such as "copying"; `icl analyze` lists them. Raises ConfigError or StoreError."""
        from experiments.analyses.catalog import find_analysis
        from experiments.results.view_run import view_run

        return find_analysis(name)(view_run(self, metric))

    def sample(self, query: str = "", seed: int | None = None, **axes: Any) -> "SampleView":
        """One sample, which a notebook shows with its images: `run.sample("q-0007", shots=4)`, as `icl show` prints it.

        Args:
            query: An id or the beginning of one. By default a query that the arm does not answer correctly.
            seed: The seed, by default the first.
            **axes: The labels of some axes.

        Raises:
            ICLError: The run has no such query, axis, label or seed.
        """
        from experiments.report.notebook import find_sample

        return find_sample(self, query, {axis: str(label) for axis, label in axes.items()}, seed)

    def _repr_html_(self) -> str:
        from experiments.report.notebook import run_html

        return run_html(self)

    def __repr__(self) -> str:
        state = last_state(self.path, self.info) if self.info.get("sessions") else "empty"
        return f"Run({str(self.path)!r}: {len(self.info.get('cells', []))} cells, {state})"


def load_run(path: str | Path, trust: bool = False) -> Run:
    """The run of a directory, or of a file in it such as its run.json.

    Args:
        path: The directory or the file.
        trust: Whether code that the run names by path may be imported. Without it, the numbers of a run-level metric of
            your own stay as they are stored.

    Raises:
        StoreError: The path is not a run directory.
    """
    folder = Path(path)
    if os.path.isfile(folder):
        folder = next((above for above in folder.parents if (above / "run.json").is_file()), folder)
    if os.path.isfile(folder / "run.json"):
        return Run(folder, trust)
    if os.path.isfile(folder):
        raise StoreError(f"{folder} is a file outside a run directory. Use the folder that contains run.json.")
    inside = [p.parent.name for p in folder.glob("*/run.json")] if os.path.isdir(folder) else []
    if inside:
        raise StoreError(
            f"{folder} is not a run directory, but contains runs: {', '.join(sorted(inside)[:8])}. Use one of them."
        )
    others = [p.parent.name for p in folder.parent.glob("*/run.json")] if os.path.isdir(folder.parent) else []
    have = f" Runs in the same folder: {', '.join(sorted(others)[:8])}." if others else ""
    near = did_you_mean(folder.name, others)
    if os.path.isfile(Path("runs", folder, "run.json")):
        near, have = f" Did you mean '{Path('runs', folder)}'?", ""
    raise StoreError(f"{folder} is not a run directory (no run.json).{near}{have}")


def _cells(run: Run) -> list[str]:
    """The digests of the run's cells. Raises StoreError if run.json names none."""
    digests = run.info.get("cells")
    if not isinstance(digests, list):
        raise StoreError(f"{run.path / 'run.json'} is not the run.json of a run: it has no list of cells.")
    return [str(digest) for digest in digests]


def _columns(table: SampleTable) -> "Iterator[tuple[str, Any]]":
    """The name and values of each column. Scores and baselines of a cell come after its other fields."""
    from experiments.results.lazy_column import LazyColumn

    own = (sorted(cell.columns, key=lambda name: len(column_path(name)) > 1) for cell in table.cells)
    names = list(dict.fromkeys(chain.from_iterable(own)))
    eager = [name for name in names if name in EAGER or column_path(name)[0] in FLAT]
    stored = table.read([name for name in eager if table.columns[name] != "json"])
    rows = np.arange(len(table))
    for name in names:
        if name in stored.column_names:
            yield name, stored[name].to_pandas()
        elif name in eager:
            yield name, pd.Series(table.values([name], rows)[name])
        else:
            yield name, LazyColumn(table, name, rows)


def _unread_texts(unread: "Series[Any]", samples: DataFrame) -> "dict[str, Series[Any]]":
    """A column for each metric with unread outputs (`unread_column`): `unread_text`, and '' for what is read."""
    names = [value if isinstance(value, list) else () for value in unread]
    columns = [name for name in ("output", "gold", "options") if name in samples]
    rows = samples.loc[np.array(list(map(bool, names)), dtype=bool), columns]
    own = [unread_text(str(r["output"]), text_items(r, "gold"), text_items(r, "options")) for r in to_records(rows)]
    texts = pd.Series(own, index=rows.index, dtype=object).reindex(samples.index, fill_value="")
    return {
        unread_column(metric): texts.where(np.array([metric in own for own in names]), "")
        for metric in dict.fromkeys(chain.from_iterable(names))
    }


def _as_judged_by(frame: DataFrame, baselines: Iterable[str], metric: str | None) -> DataFrame:
    """Adds a column of each baseline by its own name: as this metric judges it."""
    columns = {baseline: baseline_column(baseline, str(metric)) for baseline in baselines}
    return copy_scores(frame, {baseline: column for baseline, column in columns.items() if column in frame})


def _better(name: str, node: Mapping[str, Any]) -> Better:
    """The good direction of a metric: from run.json, or from the class of that name in older runs."""
    name = str(node.get("name", name))
    better: Better = node.get("better") or (resolve("metric", name).better if name in entries("metric") else "higher")
    return better


def _is_accuracy(name: str, info: Mapping[str, Any]) -> bool:
    """Whether a metric is a proportion of right answers: from run.json, or from the class in older runs."""
    node = info.get("metrics", {}).get(name, {})
    if node and "accuracies" in info:
        return name in info["accuracies"]
    return bool(node.get("accuracy")) or is_accuracy(str(node.get("name", name)))


def _is_budget(axis: str, mode: object, cells: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the axis is the thinking budget and None is a value of it.

    It is unless options are scored, and if another cell with options has a budget.
    """
    if axis != "max_thinking_tokens" or mode != "options":
        return axis == "max_thinking_tokens"
    return any(cell.get("answer_mode") == "options" and cell.get(axis) is not None for cell in cells)


def _labels(store: Store, cells: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The axis labels of each cell in tables. cells: the digest of a cell -> its cell.json.

    If an axis cannot matter in a cell (the order at 0 shots), its label is the only value that other cells have, or
    'none'.
    """
    if unlabeled := [digest for digest, cell in cells.items() if not cell.get("labels")]:
        path = store.cell_folder(unlabeled[0]) / "cell.json"
        raise StoreError(f"{path} has no labels. Restore the file from a copy, or run the config again.")
    own_labels = {digest: cell["labels"] for digest, cell in cells.items()}
    table_labels: dict[str, dict[str, Any]] = {digest: {} for digest in cells}
    for axis in AXES:
        values = {digest: labels.get(axis, NO_VALUE) for digest, labels in own_labels.items()}
        # an empty list (no transform, no reranker), no intervention and the retriever `none` are values like others
        free = {
            digest
            for digest, value in values.items()
            if axis != "intervene"
            and value == NO_VALUE
            and cells[digest].get(axis) is None
            and not _is_budget(axis, cells[digest].get("answer_mode"), cells.values())
        }
        others = {value for digest, value in values.items() if digest not in free}
        usual = others.pop() if len(others) == 1 else NO_VALUE
        for digest, value in values.items():
            table_labels[digest][axis] = usual if digest in free else value
    return table_labels
