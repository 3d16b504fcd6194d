"""The reader of task files, which imports the functions that they name."""

import importlib.util
from pathlib import Path
from typing import Any

import yaml

COUNT = {"read": 0}


def _function(loader: Any, node: Any) -> Any:
    module, _, name = loader.construct_scalar(node).rpartition(".")
    spec = importlib.util.spec_from_file_location(module, Path(loader.name).parent / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def load_yaml_config(yaml_path: str, mode: str) -> dict[str, Any]:
    COUNT["read"] += 1
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_constructor("!function", _function)
    path = Path(yaml_path)
    with path.open() as file:
        own = yaml.load(file, loader)  # noqa: S506 - a SafeLoader
    include = own.pop("include", [])
    merged: dict[str, Any] = {}
    for other in reversed([include] if isinstance(include, str) else include):
        merged |= load_yaml_config(str(path.parent / other), mode)
    keys = merged | own
    files = (keys.get("dataset_kwargs") or {}).get("data_files") or {}
    for split, name in files.items():
        files[split] = str(path.parent / name)
    return keys
