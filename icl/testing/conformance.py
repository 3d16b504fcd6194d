"""Public checks of tasks, metrics and models, for the toolkit's own and for users' components.

Each check takes a component and raises AssertionError with a sentence for the first violation. Checks use no network
and leave no state behind.

    from icl.testing.conformance import check_task
    check_task(MyTask())
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from icl import PIL, Image, Metric, ScoredSample, StreamKey, describe, spans, torch, with_article
from icl.edits import Edit
from icl.metrics.normalize import is_accepted, normalize_text
from icl.metrics.run_level import RunLevelMetric, RunStatistic
from icl.models.base import ABILITIES, Model, Request
from icl.tasks.base import Pool, Task, image_digests
from icl.testing.require import accepts_class, require
from icl.types import Example, Generation, Part, Prompt, Turn, Usage


@accepts_class
def check_task(task: Any, queries: int = 20) -> None:
    """Unique ids, an answer each, options that hold it, no gold in the query, a pool without the query, determinism.

    Images are opened for the first `queries` queries and their pools. If the pool may hold the query's own image, the
    task says so with `pool_shares_images = True`.
    """
    name = type(task).__name__
    require(isinstance(task, Task), f"{name} lacks something of the protocol icl.tasks.base.Task.")
    every = list(task.queries)
    require(bool(every), f"{name} has no queries.")
    _unique([example.id for example in every], f"{name}: two queries have the id")
    some = every[:queries]
    for example in some:
        _check_example(name, example)
    for example in every:
        _check_json(name, example)
    _check_public(name, every)
    pools = [_check_pool(name, task, example) for example in some]
    smallest = min(len(pool) for pool in pools)
    require(
        task.pool_size <= smallest,
        f"{name}: pool_size is {task.pool_size}, and one pool has {smallest}: shots would be planned in vain.",
    )
    again: Any = dataclasses.replace(task)
    for example, pool in zip(some, pools, strict=True):
        twin = next((other for other in again.queries if other.id == example.id), None)
        require(
            twin is not None and _comparable(twin) == _comparable(example),
            f"{name}: query '{example.id}' is not the same in another instance with the same parameters.",
        )
        require(
            [_comparable(e) for e in again.pool(example.id).examples] == [_comparable(e) for e in pool.examples],
            f"{name}: the pool of '{example.id}' is not the same in another instance with the same parameters.",
        )


def metric_probes() -> Iterator[tuple[Generation, Example]]:
    """The outputs and examples that `check_metric` scores: a judge needs its verdicts on them first."""
    for example in _EXAMPLES:
        scores = {option: -float(i) for i, option in enumerate(example.options)}
        for output in (example.answer, *_OUTPUTS, ""):
            yield Generation(output, option_scores=scores), example


@accepts_class
def check_metric(metric: Any) -> None:
    """A number in [0, 1] or None on any output, the same each time; the gold is not worse than silence."""
    name = type(metric).__name__
    require(isinstance(metric, Metric), f"{name} lacks something of the protocol icl.metrics.base.Metric.")
    require(metric.better in ("higher", "lower", "neither"), f"{name}.better is {metric.better!r}.")
    for example in _EXAMPLES:
        scores = {option: -float(i) for i, option in enumerate(example.options)}
        for output in (example.answer, *_OUTPUTS):
            generation = Generation(output, option_scores=scores)
            score = metric.score(generation, example)
            require(
                score is None or (isinstance(score, float | int) and 0 <= score <= 1),
                f"{name}: the score of {output!r} for '{example.id}' is {score!r}, not a number in [0, 1] or None.",
            )
            require(
                score in (None, 0, 1) or not getattr(metric, "accuracy", False),
                f"{name} says that it is an accuracy, and the score of {output!r} for '{example.id}' is {score!r}.",
            )
            require(
                metric.score(generation, example) == score, f"{name}: {output!r} for '{example.id}' has two scores."
            )
        gold, silence = (metric.score(Generation(text, option_scores=scores), example) for text in (example.answer, ""))
        if gold is not None and silence is not None and metric.better != "neither":
            worse = gold < silence if metric.better == "higher" else gold > silence
            require(
                not worse, f"{name}: the gold of '{example.id}' scores {gold}, worse than an empty output ({silence})."
            )
    if isinstance(metric, RunLevelMetric):
        _check_run_level(name, metric)


def _check_run_level(name: str, metric: RunLevelMetric) -> None:
    """A number or None for every sample of a cell, failed ones too, for every cell."""
    pairs = [(e, text) for e in _EXAMPLES for text in (e.answer, *_OUTPUTS)]
    cell = [
        ScoredSample(f"{e.id}-{i}", metric.score(Generation(text), e), e.group, text, e.answers, e.options, e.meta)
        for i, (e, text) in enumerate(pairs)
    ]
    bare = [dataclasses.replace(sample, output=None) for sample in cell]
    failed = [dataclasses.replace(sample, output=None, score=None) for sample in cell[:3]]
    for samples in ([], failed, cell[:1], cell, bare, [*cell, *failed]):
        parts = _numbers(metric.run_level(samples))
        require(
            len(parts) == len(samples), f"{name}.run_level returned {len(parts)} numbers for {len(samples)} samples."
        )
        odd = next((part for part in parts if part is not None and not math.isfinite(part)), None)
        require(
            odd is None, f"{name}.run_level returned {odd}, which is not a number (None is for samples without a part)."
        )
        require(_numbers(metric.run_level(samples)) == parts, f"{name}.run_level gives other numbers each time.")


def _numbers(statistic: RunStatistic | Sequence[float | None]) -> list[float | None]:
    """One number per sample; None without a part in the statistic, or if it is undefined."""
    if not isinstance(statistic, RunStatistic):
        return list(statistic)
    return [None if math.isnan(number) else number for number in statistic.numbers().tolist()]


@accepts_class
def check_model(model: Any, images: bool = True, tolerance: float = 1e-3) -> None:
    """Answers in order, the same alone as in a batch; tokens counted; new tokens limited; options scored if it can.

    A model with the ability 'logits' is held to the equalities of sessions too (`icl.testing.sessions`).
    `images`: whether the prompts show any. `tolerance`: of logits, for models that compute in low precision.
    """
    name = type(model).__name__
    require(isinstance(model, Model), f"{name} does not subclass icl.models.base.Model. Write `class {name}(Model)`.")
    unknown = set(model.abilities) - set(ABILITIES)
    require(not unknown, f"{name}.abilities has {sorted(unknown)}; known are {', '.join(ABILITIES)}.")
    require(bool(model.abilities & {"generate", "logits"}), f"{name} can neither generate nor give logits.")
    foreign = sorted(set(model.needs) - {"gold", "demos"})
    require(not foreign, f"{name}.needs contains {foreign}. A model can need 'gold' and 'demos'.")
    require(isinstance(model.digest, str) and model.digest == model.digest, f"{name}.digest is not one text.")
    model.load()
    model.load()
    requests = [_request(example, images) for example in _EXAMPLES if example.options]
    for request in requests:
        longer = request.prompt.map(_thrice)
        require(
            model.count_tokens(longer) > model.count_tokens(request.prompt) > 0,
            f"{name}.count_tokens does not grow with the prompt. It counts the tokens of all texts of `prompt.parts()` "
            "and those of each image of `prompt.images`.",
        )
    if "logits" in model.abilities:
        from icl.testing.sessions import check_sessions

        check_sessions(model, [requests[0].prompt, *(_short(request.prompt) for request in requests)], tolerance)
    if "generate" not in model.abilities:
        return
    answers = model.generate(requests)
    require(len(answers) == len(requests), f"{name} returned {len(answers)} answers for {len(requests)} requests.")
    require(model.generate([]) == [], f"{name} does not answer no requests with no answers.")
    for request, answer in zip(requests, answers, strict=True):
        _check_answer(name, model, request, answer)


def _check_answer(name: str, model: Model, request: Request, answer: Generation) -> None:
    (alone,) = model.generate([request])
    require(alone.text == answer.text, f"{name} says {answer.text!r} in a batch and {alone.text!r} alone.")
    require(answer.finish in ("stop", "length"), f"{name}: finish is {answer.finish!r}.")
    require(
        isinstance(answer.usage, Usage),
        f"{name}: usage is {answer.usage!r}. It must be icl.Usage(prompt_tokens=..., new_tokens=...).",
    )
    counted = model.count_tokens(request.prompt)
    require(
        answer.usage.prompt_tokens == counted or not model.counts_exactly,
        f"{name}: usage says {answer.usage.prompt_tokens} prompt tokens, count_tokens says {counted}. Return "
        "`Generation(text, usage=Usage(prompt_tokens=self.count_tokens(prompt), ...))`.",
    )
    (short,) = model.generate([dataclasses.replace(request, max_new_tokens=1)])
    require(short.usage.new_tokens <= 1, f"{name} made {short.usage.new_tokens} tokens where one was allowed.")
    if "score" in model.abilities:
        scores = answer.option_scores
        require(
            set(scores) == set(request.options) and all(math.isfinite(s) and s <= 1e-6 for s in scores.values()),
            f"{name}: option scores are {dict(scores)}, not a log-probability for each of {request.options}.",
        )


def _check_example(name: str, example: Example) -> None:
    at = f"{name}, '{example.id}'"
    require(
        bool(example.answers) and all(answer.strip() for answer in example.answers),
        f"{at}: the answers are {example.answers}; there must be at least one, and none empty.",
    )
    require(bool(example.question.strip()) or bool(example.images), f"{at} asks nothing and shows nothing.")
    if example.options:
        _unique([normalize_text(option) for option in example.options], f"{at}: two options read")
        require(
            any(is_accepted(option, example.answers) for option in example.options),
            f"{at}: no accepted answer ({', '.join(example.answers)}) is among the options {example.options}.",
        )


def _check_json(name: str, example: Example) -> None:
    """The public facts of an example are written into samples, so they are JSON."""
    for key, value in example.meta.items():
        require(isinstance(key, str), f"{name}: meta of '{example.id}' has the key {key!r}, which is not a text.")
        problem = _not_json(value)
        require(
            not problem,
            f"{name}: meta['{key}'] of '{example.id}' is {problem}, which JSON cannot hold. Use texts, numbers, true, "
            "false, None, lists and mappings, such as sorted(...) of a set.",
        )


def _not_json(value: Any) -> str:
    """What in a value JSON cannot hold, such as 'a set'; '' if it is JSON. Tuples are read back as lists."""
    if isinstance(value, Mapping):
        if odd := next((key for key in value if not isinstance(key, str)), None):
            return f"a mapping with the key {odd!r}"
        return next(filter(None, map(_not_json, value.values())), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(_not_json, value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value}"
    return "" if value is None or isinstance(value, str | int | float) else with_article(type(value).__name__)


def _check_public(name: str, examples: Sequence[Example]) -> None:
    """Nothing that a component may see names the gold of every query."""
    if len({example.answer for example in examples}) < 2:
        return
    keys = set.intersection(*(set(example.meta) for example in examples))
    public = {f"meta['{key}']": [str(example.meta[key]) for example in examples] for key in sorted(keys)}
    public["group"] = [str(example.group) for example in examples]
    public["domain"] = [str(example.domain) for example in examples]
    for what, values in public.items():
        tells = all(
            normalize_text(value) == normalize_text(example.answer)
            for value, example in zip(values, examples, strict=True)
        )
        require(not tells, f"{name}: {what} is the gold of every query. Put it into `secret`.")
    tells = all(
        normalize_text(example.answer) in normalize_text(example.id).replace("_", "-").split("-")
        for example in examples
    )
    require(not tells, f"{name}: the ids name the gold (such as '{examples[0].id}').")


def _check_pool(name: str, task: Task, query: Example) -> Pool:
    pool = task.pool(query.id)
    require(isinstance(pool, Pool), f"{name}.pool('{query.id}') is not an icl.tasks.base.Pool.")
    require(query.id not in pool.by_id, f"{name}: the pool of '{query.id}' holds the query itself.")
    require(task.pool(query.id).digest == pool.digest, f"{name}: the pool of '{query.id}' changes from call to call.")
    own = image_digests(query)
    if own and not getattr(task, "pool_shares_images", False):
        twin = next((e for e in pool.examples if own & image_digests(e)), None)
        require(
            twin is None,
            f"{name}: '{twin.id if twin else ''}' in the pool of '{query.id}' shows the query's own image. "
            f"Declare pool_shares_images = True if it must.",
        )
    for example in pool.examples[:50]:
        _check_example(name, example)
    return pool


def _thrice(part: Part) -> Part:
    return part if part.text is None else Part(f"{part.text} {part.text} {part.text}", part.name)


def _short(prompt: Prompt) -> Prompt:
    return dataclasses.replace(prompt, turns=prompt.turns[-1:])


def _comparable(example: Example) -> Any:
    return dataclasses.replace(example, images=()), [image.digest for image in example.images]


def _unique(items: Iterable[str], what: str) -> None:
    known_items: set[str] = set()
    for item in items:
        require(item not in known_items, f"{what} '{item}'.")
        known_items.add(item)


def _gray(level: int) -> Image:
    return Image.from_pil(PIL.Image.new("RGB", (64, 64), (level, level, level)), f"gray {level}")


_EXAMPLES = (
    Example("yes-no", (), "is there a dog?", ("yes",), ("yes", "no"), group="g"),
    Example("number", (), "how many dogs?", ("3",), ("1", "2", "3")),
    Example("negative", (), "2 - 5?", ("-3",)),
    Example("class", (), "which animal is it?", ("cat",), ("dog", "cat", "wildcat"), label="cat"),
    Example("open", (), "what is the man holding?", ("a tennis racket", "racket")),
    Example(
        "caption",
        (),
        "describe the image.",
        ("two dogs and a red ball",),
        secret={"objects": ["dog", "ball"], "vocabulary": ["dog", "ball", "cat"]},
    ),
)
_OUTPUTS = (
    "",
    " ",
    "yes",
    "No.",
    "the answer is 3",
    "-3",
    "cat\ndog",
    "a cat and a dog",
    "zwölf\u2028\U0001f600",
    "x " * 500,
)


def _request(example: Example, images: bool) -> Request:
    demo = dataclasses.replace(example, id="demo")
    images_by_owner = [
        (Part(_gray(level), name),) if images else ()
        for level, name in ((90, spans.image(spans.demo(0))), (180, spans.image(spans.QUERY)))
    ]
    turns = (
        Turn("user", (*images_by_owner[0], Part(demo.question, spans.question(spans.demo(0))))),
        Turn("assistant", (Part(demo.answer, spans.answer(spans.demo(0))),)),
        Turn("user", (*images_by_owner[1], Part(example.question, spans.QUESTION))),
    )
    prompt = Prompt(turns, StreamKey(0, example.id))
    return Request(prompt, example.options, 8, demos=((demo, 0.5),), gold=example.answers, score_options=True)


# Public checks of image edits, for the toolkit's own and for users' edits (`icl check edit`).
#
#     check_edit(Mine(strength=2))
#
# The same edit, bound to the same prompt, gives the same pixels and the same digest in any order. Input images stay
# unchanged. Each parameter of the edit is part of the digest, through `describe`.

SIZES = ((12, 8), (31, 47), (64, 64))
KEY, PLACE = StreamKey(0, "query"), spans.image(spans.QUERY)


@accepts_class
def check_edit(edit: Any) -> None:
    """Check an edit. Raises AssertionError with a sentence."""
    name = type(edit).__name__
    require(isinstance(edit, Edit), f"{name} does not extend icl.edits.Edit.")
    parameters = getattr(type(edit), "__dataclass_params__", None)
    require(parameters is not None and parameters.frozen, f"{name} is not a frozen dataclass.")
    require(describe(edit) == describe(dataclasses.replace(edit)), f"{name} is described differently each time.")
    bound = edit.bind(KEY, PLACE)
    require(isinstance(bound, Edit), f"{name}.bind() returned {type(bound).__name__}, which is not an edit.")
    require(bound == edit.bind(KEY, PLACE), f"{name}.bind() draws something else for the same prompt.")
    described = edit.bind(KEY, PLACE).describe()
    require(bound.describe() == described, f"{name}.describe() describes the same edit in two ways.")
    for size in SIZES:
        _check_image(name, bound, size)
    _check_pixels(name, bound)


def _check_image(name: str, edit: Edit, size: tuple[int, int]) -> None:
    at = f"{name}, an image of {size[0]} x {size[1]}"
    pil_image = _image(size)
    before = pil_image.tobytes()
    changed, again = edit.apply_to_image(pil_image), edit.apply_to_image(_image(size))
    require(pil_image.tobytes() == before, f"{at}: apply_to_image() changed the image that it was given.")
    require(changed.mode == "RGB", f"{at}: apply_to_image() returned mode {changed.mode}, not RGB.")
    require(changed.tobytes() == again.tobytes(), f"{at}: apply_to_image() returned other pixels in the second call.")
    require(
        not edit.keeps_size or changed.size == size,
        f"{at} came out as {changed.size[0]} x {changed.size[1]}. Declare keeps_size = False if it must.",
    )
    image = Image.from_pil(_image(size))
    require(image.edit(edit).digest != image.digest, f"{at}: an edited image has the digest of the image.")


def _check_pixels(name: str, edit: Edit) -> None:
    """Only an edit that declares it changes processed pixels."""
    pixels = torch.linspace(-2, 2, 3 * 8 * 8).reshape(1, 3, 8, 8)
    original = pixels.clone()
    changed = edit.apply_to_pixel_values(pixels)
    require(
        bool(torch.equal(pixels, original)), f"{name}.apply_to_pixel_values() changed the pixels that it was given."
    )
    require(
        changed.shape == original.shape,
        f"{name}.apply_to_pixel_values() returned {tuple(changed.shape)} for {tuple(original.shape)}.",
    )
    require(
        changed.dtype == original.dtype,
        f"{name}.apply_to_pixel_values() returned {changed.dtype} for {original.dtype}.",
    )
    require(
        bool(torch.equal(changed, edit.apply_to_pixel_values(original.clone()))),
        f"{name}.apply_to_pixel_values() returned another result in the second call.",
    )
    same = bool(torch.equal(changed, original))
    require(
        edit.applies_to_pixel_values or same,
        f"{name} changes processed pixels: declare applies_to_pixel_values = True.",
    )


def _image(size: tuple[int, int]) -> "PIL.Image.Image":
    wide, high = size
    return PIL.Image.fromarray(np.random.default_rng(wide).integers(0, 256, (high, wide, 3), dtype=np.uint8))
