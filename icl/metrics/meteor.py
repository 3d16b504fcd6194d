"""METEOR 1.5 (Denkowski and Lavie, WMT 2014), as in the COCO caption evaluation.

Words of a caption are aligned with its best reference in four stages (equal words, stems, synonyms,
paraphrases), and matched words are weighted: w = 1, .6, .8, .6 by stage, and d = .75 for content words.

    P = sum over stages of w (d content + (1 - d) function matches) / (d content + (1 - d) function words),  R likewise
    METEOR = (1 - .6 (chunks / matches)^.2) P R / (.85 P + .15 R)

All counts are sums over the cell, so METEOR is no mean of scores of captions. A caption that is one chunk with its
whole reference counts no chunk, as released.

The alignment needs the synonyms and paraphrases that the package `pycocoevalcap` ships, and Java: `pip install
pycocoevalcap`. A run with this metric stops with a sentence if one is missing. A report that is written where they are
missing shows the mean of the samples' own scores, and a warning says so.

Differs from the released code in nothing known: its aligner runs.
"""

import importlib.util
import shutil
import subprocess
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from icl import Better, ConfigError, DataError, Example, Generation, ICLWarning, ScoredSample, component
from icl.metrics.machinery.penn_tokenizer import CACHE_ENTRIES, tokenize
from icl.metrics.run_level import RunStatistic, mean, on_scored_samples

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75  # the parameters for English
STAGES = np.array([1.0, 0.6, 0.8, 0.6])  # weights of equal words, stems, synonyms, paraphrases
WIDTH = 23
"""Counts of a caption: words of both sides, function words of both, four counts of each stage (content words of both
sides, function words of both), chunks, and matched words of both sides."""
Floats = NDArray[np.float64]


def meteor(sums: Floats) -> Floats:
    """METEOR of summed counts. sums: [..., WIDTH] -> [...], in [0, 1]; 0 without a match."""
    words, functions, matched = sums[..., :2], sums[..., 2:4], sums[..., 21:23]
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)  # stage, content or function, side
    weighted = np.tensordot(DELTA * stages[..., 0, :] + (1 - DELTA) * stages[..., 1, :], STAGES, axes=([-2], [0]))
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(weighted / (DELTA * (words - functions) + (1 - DELTA) * functions), -1, 0)
        harmonic = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        fragmentation = np.maximum(0.0, sums[..., 20]) / matched.mean(axis=-1)
    return np.asarray(np.nan_to_num((1 - GAMMA * fragmentation**BETA) * harmonic), dtype=np.float64)


def summands(counts: Sequence[float]) -> tuple[float, ...]:
    """What a caption adds to the sums: the aligner's counts, without the chunk of a caption that matches as a whole."""
    is_whole = counts[20] == 1 and tuple(counts[21:23]) == tuple(counts[:2])
    return (*counts[:20], 0.0 if is_whole else counts[20], *counts[21:])


@component("metric", "meteor")
@dataclass(frozen=True)
class Meteor:
    """METEOR of captions over a whole cell. It needs Java and the package pycocoevalcap."""

    better: ClassVar[Better] = "higher"

    def preflight(self) -> None:
        """Raises ConfigError if Java or the package is missing."""
        if lacking := missing_part():
            raise ConfigError(f"meteor {lacking} Or leave the metric out.")

    def score(self, generation: Generation, example: Example) -> float | None:
        self.preflight()
        if not example.answers:
            return None
        return float(meteor(np.array(_counts(generation.text, example.answers), dtype=np.float64)))

    def run_level(self, samples: Sequence[ScoredSample]) -> RunStatistic:
        if lacking := missing_part():
            _warn_once(lacking)
            return mean([sample.score for sample in samples])
        with_text = [sample if sample.output is not None else replace(sample, score=None) for sample in samples]
        return on_scored_samples(with_text, _values)


@lru_cache
def _warn_once(lacking: str) -> None:
    warnings.warn(
        f"meteor {lacking} The mean of the samples' own scores is shown instead of the score of the cell.",
        ICLWarning,
        stacklevel=3,
    )


def missing_part() -> str | None:
    """Half a sentence if Java or the package is missing."""
    if shutil.which("java") is None:
        return "needs Java, and there is no command `java`. Install a Java runtime, such as default-jre-headless."
    if _folder() is None:
        return "needs the synonyms and paraphrases of the package pycocoevalcap. Run: pip install pycocoevalcap."
    return None


def _values(samples: Sequence[ScoredSample]) -> RunStatistic:
    counts = [_counts(sample.output or "", sample.gold) for sample in samples]
    rows = np.array(counts, dtype=np.float64).reshape(len(samples), WIDTH)
    usual = rows.mean(axis=0) if len(rows) else np.ones(WIDTH)
    worst, best = usual.copy(), usual.copy()
    worst[4:], best[4:20] = 0, 0
    best[4:8] = np.array([*(usual[:2] - usual[2:4]), *usual[2:4]])
    best[20], best[21:] = 0, usual[:2]
    return RunStatistic(rows, meteor, np.ones(len(rows), dtype=bool), rows[:, 1] > 0, worst, best)


@lru_cache(CACHE_ENTRIES)
def _counts(caption: str, references: tuple[str, ...]) -> tuple[float, ...]:
    sides = [" ".join(tokenize(text)).replace("|||", "").replace("  ", " ") for text in (*references, caption)]
    return summands(_aligner().counts(sides[:-1], sides[-1]))


def _folder() -> Path | None:
    spec = importlib.util.find_spec("pycocoevalcap")
    folder = Path(spec.submodule_search_locations[0]) / "meteor" if spec and spec.submodule_search_locations else None
    return folder if folder and (folder / "meteor-1.5.jar").is_file() else None


class _Aligner:
    """The released aligner in a process of its own, which ends when its input is closed."""

    def __init__(self, folder: Path) -> None:
        options = ("-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm")
        self._process = subprocess.Popen(
            ["java", *options],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        self._lock = threading.Lock()

    def counts(self, references: Sequence[str], caption: str) -> tuple[float, ...]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(" ||| ".join(("SCORE", *references, caption)) + "\n")
                self._process.stdin.flush()
                line = self._process.stdout.readline().strip()
                counts = tuple(map(float, line.split()))
            except OSError as error:
                raise DataError(f"the METEOR aligner has stopped. It needs 2 GB of memory. ({error})") from error
            except ValueError:
                counts = ()
        if len(counts) != WIDTH:
            raise DataError(f"the METEOR aligner answered {line!r} to {caption!r}, not {WIDTH} counts.")
        return counts


@lru_cache(1)
def _aligner() -> _Aligner:
    folder = _folder()
    assert folder is not None
    return _Aligner(folder)
