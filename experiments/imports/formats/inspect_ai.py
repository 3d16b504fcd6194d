"""Logs of inspect_ai: `DATE_TASK_ID.eval`, a zip of `header.json` and `samples/ID_epoch_N.json`.

Written by `inspect_ai.log._recorders.eval` (inspect_ai 0.3). Samples are paired by (id, epoch); the epoch becomes the
seed. The letters of a score have the values of `inspect_ai.scorer.value_to_float`. Newer versions compress with
zstandard, which pyarrow reads.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.imports.logs import Log, LoggedSample, log_format, score_of, text_of
from icl import DataError, pa, parse_json_object

VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""The values of a score that is a letter: correct, incorrect, partly correct, no answer."""
ZSTANDARD = 93
"""The number of the compression method in a zip file."""
MAX_MEMBER_BYTES = 200_000_000
"""A larger member of the zip is refused: no sample is that long, and it would fill the memory."""
LOCAL_HEADER = 30
"""The bytes of the header of a member before its name."""


@log_format("inspect", r".+\.eval")
def read(path: Path) -> Log:
    """The log of one task. Raises DataError if it is not a zip file of samples."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}  # the last one of a name counts
            if "header.json" not in members:
                raise DataError(f"{path} has no header.json: its evaluation did not end. Run it again or retry it.")
            header = parse_json_object(_content(path, archive, members["header.json"]))
            names = sorted(name for name in members if re.fullmatch(r"samples/.+\.json", name))
            samples = tuple(_sample(parse_json_object(_content(path, archive, members[name]))) for name in names)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(f"{path} is damaged, or not a log of inspect ({error!r}).") from error
    spec = header.get("eval") or {}
    metrics = {
        str(score.get("name")): value
        for score in (header.get("results") or {}).get("scores") or ()
        for name in ("mean", "accuracy")
        if (value := score_of(((score.get("metrics") or {}).get(name) or {}).get("value"))) is not None
    }
    model_args = {"model": spec.get("model"), **(spec.get("model_args") or {})}
    return Log(
        path,
        str(spec.get("task") or path.stem),
        samples,
        origin={
            "from": "inspect",
            "version": (spec.get("packages") or {}).get("inspect_ai"),
            "model_args": model_args,
            "date": spec.get("created"),
        },
        reported=metrics,
    )


def _sample(row: Mapping[str, Any]) -> LoggedSample:
    scores = dict[str, float]()
    for scorer, score in (row.get("scores") or {}).items():
        scores |= dict(_values(scorer, score["value"]))
    target = row["target"]
    usage = (row.get("output") or {}).get("usage") or {}
    counts = {"prompt_tokens": usage.get("input_tokens"), "new_tokens": usage.get("output_tokens")}
    error = row.get("error")
    return LoggedSample(
        key=str(row["id"]),
        epoch=int(row["epoch"]),
        prompt=_prompt(row["input"]),
        target=tuple(map(str, target)) if isinstance(target, list) else (str(target),),
        output=_output(row.get("output") or {}),
        scores=scores,
        columns=dict(row.get("metadata") or {}),
        usage={name: count for name, count in counts.items() if isinstance(count, int)},
        failed=str(error.get("message") or "error") if isinstance(error, dict) else None,
    )


def _values(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """(name, number) of a score. The parts of an object are named `SCORER.PART`."""
    if isinstance(value, Mapping):
        for part, inner in value.items():
            yield from _values(f"{name}.{part}", inner)
    elif (number := VALUES.get(value) if isinstance(value, str) else score_of(value)) is not None:
        yield name, number


def _output(output: Mapping[str, Any]) -> str:
    if "completion" in output:
        return text_of(output["completion"])
    choices = output.get("choices") or [{}]
    return _text((choices[0].get("message") or {}).get("content") or "")


def _prompt(messages: Any) -> str:
    """The text of the input: a string, or messages with their roles."""
    if isinstance(messages, str):
        return messages
    return "\n".join(f"[{message.get('role')}] {_text(message.get('content') or '')}" for message in messages)


def _text(content: Any) -> str:
    """The text of a message. Other parts stand as their type, such as `<image>`."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part.get("type") == "text" else f"<{part.get('type')}>" for part in content)


def _content(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a member. Raises DataError if there are more than MAX_MEMBER_BYTES."""
    if info.file_size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{path}: {info.filename} has {info.file_size:,} bytes, more than the {MAX_MEMBER_BYTES:,} that are read."
        )
    if info.compress_type != ZSTANDARD:
        return archive.read(info)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(LOCAL_HEADER)
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(info.compress_size)
    content: bytes = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read(info.file_size + 1)
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"the checksum of {info.filename} is wrong")
    return content
