import altair as alt
import av as av
import datasets as datasets
import datasets.config
import datasets.exceptions
import datasets.table
import faiss as faiss
import filelock as filelock
import httpx2 as httpx2
import huggingface_hub as huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import huggingface_hub.utils._http
import jinja2 as jinja2
import jinja2.exceptions
import jinja2.meta
import jinja2.sandbox
import numpy as np
import openai as openai
import pandas as pd
import PIL as PIL
import PIL.Image
import PIL.ImageChops
import PIL.ImageDraw
import PIL.ImageEnhance
import PIL.ImageFilter
import PIL.ImageOps
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
import pydantic as pydantic
import pydantic_core as pydantic_core
import ray as ray
import rich as rich
import rich.console
import rich.padding
import rich.progress
import rich.table
import rich.text
import ruamel as ruamel
import ruamel.yaml
import ruamel.yaml.error
import safetensors as safetensors
import safetensors.numpy
import safetensors.torch
import scipy as scipy
import scipy.cluster.vq
import scipy.integrate
import scipy.optimize
import scipy.sparse
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch as torch
import torch.nn
import transformers as transformers
import vllm as vllm

__all__ = [
    "PIL",
    "alt",
    "av",
    "datasets",
    "faiss",
    "filelock",
    "httpx2",
    "huggingface_hub",
    "jinja2",
    "np",
    "openai",
    "pa",
    "pd",
    "pydantic",
    "pydantic_core",
    "ray",
    "rich",
    "ruamel",
    "safetensors",
    "scipy",
    "torch",
    "transformers",
    "vllm",
]
