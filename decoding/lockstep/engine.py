"""Jobs answered by an engine that runs strategies itself: each job is a group of prompts, each group one answer.

Everything is asked at once, in the order of the prompts' beginnings, so that what prompts share is in the engine's
prefix cache when the next one comes: demonstrations across queries, and the branches of one query. Equal jobs are
computed once. Greedy decoding of the prompt as it is needs no group and runs as an ordinary request.

Options are scored by groups that are made to choose the option's own tokens; the strategy's log-probability of each is
kept. All options of one token are read off one step.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from decoding.arm import Arm
from decoding.jobs import Counters, Failure, Job, Ready
from decoding.lockstep import wire
from decoding.lockstep.branch import MOST, Branch
from decoding.loop import TRACE
from decoding.prepare import made_ready
from decoding.sampling import Greedy
from decoding.score import normalised
from decoding.strategies.greedy import GreedyDecoding
from decoding.votes import voting
from decoding.trace import Look, compact
from icl.errors import ICLError, ModelError
from icl.models.vllm.asking import Ask, Said
from icl.types import Generation, Prompt, Usage

FETCHED = 256
"""Answers whose traces are fetched from the engine together."""

Answer = Generation | Failure
Done = Callable[[int, Answer], None]


class StrategyModel(Protocol):
    """What a model with the ability 'strategies' gives."""

    @property
    def trace(self) -> bool: ...
    @property
    def stop_tokens(self) -> frozenset[int]: ...
    def load(self) -> None: ...
    def count_tokens(self, prompt: Prompt) -> int: ...
    def text(self, tokens: Sequence[int]) -> str: ...
    def option_ids(self, prompt: Prompt, options: Sequence[str]) -> list[list[int]]: ...
    def ask(self, groups: Any, done: Callable[[int, list[Said]], None]) -> None: ...
    def kept(self, groups: Sequence[str]) -> Mapping[str, Mapping[str, Any]]: ...


@voting
def run_jobs(
    model: StrategyModel,
    jobs: Sequence[Job],
    counters: Counters | None = None,
    *,
    trace: bool = True,
    done: Done | None = None,
) -> list[Answer]:
    """An answer for each job, in their order: what `decoding.engine.run_jobs` is for models with sessions."""
    counters = Counters() if counters is None else counters
    counters.jobs += len(jobs)
    model.load()
    answers: dict[int, Answer] = {}

    def finish(i: int, answer: Answer) -> None:
        answers[i] = answer
        counters.jobs_failed += isinstance(answer, Failure)
        if done is not None:
            done(i, answer)

    equal: dict[str, list[int]] = {}
    firsts: list[Ready] = []
    for i, one in enumerate(made_ready(jobs, _Aside(model, counters), model.count_tokens)):
        if isinstance(one, Failure):
            finish(i, one)
            continue
        counters.branch_prompts += len(one.branches)
        same = equal.setdefault(one.key, [])
        counters.jobs_reused += bool(same)
        if not same:
            firsts.append(one)
        same.append(i)
    indices = list(equal.values())
    order = sorted(range(len(firsts)), key=lambda j: beginning(firsts[j].branches[0]))

    def ended(place: int, answer: Answer) -> None:
        for i in indices[order[place]]:
            finish(i, answer)

    _Run(model, [firsts[j] for j in order], counters, trace and model.trace, ended).run()
    return [answers[i] for i in range(len(jobs))]


def beginning(prompt: Prompt) -> tuple[str, ...]:
    """A key by which prompts that begin alike stand together."""
    return tuple(
        piece
        for turn in prompt.turns
        for part in turn.parts
        for piece in (turn.role, part.text if part.picture is None else part.picture.digest)
        if piece is not None
    )


class _Aside:
    """Greedy answers for a strategy's preparation. Raises ModelError where one fails."""

    def __init__(self, model: StrategyModel, counters: Counters) -> None:
        self.model, self.counters = model, counters

    def __call__(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        own, greedy = Counters(), Arm(GreedyDecoding())
        jobs = [Job(prompt, greedy, max_new_tokens=max_new_tokens) for prompt in prompts]
        answers = run_jobs(self.model, jobs, own, trace=False)
        self.counters.prepared += len(prompts)
        self.counters.add_work(own)
        for answer in answers:
            if isinstance(answer, Failure):
                raise ModelError(f"what is generated before decoding failed: {answer.reason}")
        return [answer.text for answer in answers if isinstance(answer, Generation)]


@dataclass
class _Group:
    """A group of prompts in the engine. job: whose it is. name: '' where it decodes outside of groups.

    option: the place of the option that it reads, where it reads one.
    """

    job: int
    name: str
    asks: list[Ask]
    option: int = -1


class _Run:
    """The groups of some jobs, asked together. out: told the place of a job and its answer, once it has ended."""

    def __init__(
        self, model: StrategyModel, readies: Sequence[Ready], counters: Counters, trace: bool, out: Done
    ) -> None:
        self.model, self.readies, self.counters, self.trace, self.out = model, readies, counters, trace, out
        self.mark = secrets.token_hex(4)  # engines and runs never meet under one name
        self.made: list[_Group] = []
        self.ids: dict[int, list[list[int]]] = {}
        self.said: dict[int, dict[int, list[Said]]] = {}  # job -> option -> what its prompts said
        self.left: dict[int, int] = {}
        self.ended: list[int] = []

    def run(self) -> None:
        self.model.ask(self._groups(), self._done)
        self._fetch()

    def _groups(self) -> Iterator[list[Ask]]:
        for j, ready in enumerate(self.readies):
            try:
                groups = self._of(j, ready)
            except ICLError as error:
                self.out(j, Failure(f"{ready.job.arm.label}: {error}"))
                continue
            self.left[j], self.said[j] = len(groups), {}
            for group in groups:
                self.made.append(group)
                self.counters.prompts_opened += len(group.asks)
                yield group.asks

    def _of(self, j: int, ready: Ready) -> list[_Group]:
        if len(ready.branches) > MOST:
            raise ModelError(f"it has {len(ready.branches)} branches, and a group in the engine has {MOST} at most.")
        if ready.job.score == "options":
            return self._ballots(j, ready)
        job, arm = ready.job, ready.job.arm
        plain = isinstance(arm.strategy, GreedyDecoding) and isinstance(arm.sampler, Greedy)
        if plain and not self.trace and not job.top:
            return [_Group(j, "", [Ask(ready.branches[0], job.max_new_tokens)])]
        return [self._group(j, ready, job.max_new_tokens, trace=self.trace, top=job.top)]

    def _ballots(self, j: int, ready: Ready) -> list[_Group]:
        """One group an option of several tokens; the first step of the first one reads all first tokens."""
        ids = self.model.option_ids(ready.branches[0], ready.job.options)
        if not ids or not all(ids):
            raise ModelError("an option has no tokens of its own after this prompt.")
        self.ids[j] = ids
        first = tuple(option[0] for option in ids)
        long = [place for place, option in enumerate(ids) if len(option) > 1]
        groups = [self._group(j, ready, len(ids[p]), option=p, force=tuple(ids[p])) for p in long]
        return [*groups, self._group(j, ready, 1, option=len(ids), first=first)]

    def _group(self, j: int, ready: Ready, length: int, option: int = -1, **more: Any) -> _Group:
        name = f"{self.mark}-{j}" + (f"-{option}" if option >= 0 else "")
        arm, key, count = ready.job.arm, ready.job.prompt.key, len(ready.branches)
        told = wire.told(arm.strategy, arm.sampler)
        asks = [
            Ask(
                prompt,
                length,
                Branch(name, b, count, told, key.seed, key.query, **more).extra_args(),
                stops=option < 0,
            )
            for b, prompt in enumerate(ready.branches)
        ]
        return _Group(j, name, asks, option)

    def _done(self, number: int, said: list[Said]) -> None:
        group = self.made[number]
        self.said[group.job][number] = said
        self.left[group.job] -= 1
        if not self.left[group.job]:
            self.ended.append(group.job)
        if len(self.ended) >= FETCHED:
            self._fetch()

    def _fetch(self) -> None:
        """Answers of the jobs that have ended, with what the engine kept of them."""
        names = [self.made[number].name for j in self.ended for number in self.said[j]]
        wanted = [name for name in names if name]
        kept = self.model.kept(wanted) if wanted else {}
        for j in self.ended:
            groups = [(self.made[number], said) for number, said in self.said.pop(j).items()]
            self.out(j, self._answer(self.readies[j], j, groups, kept))
        self.ended.clear()

    def _answer(
        self, ready: Ready, j: int, groups: list[tuple[_Group, list[Said]]], kept: Mapping[str, Mapping[str, Any]]
    ) -> Answer:
        label = ready.job.arm.label
        for group, said in groups:
            record = kept.get(group.name, {})
            if record.get("fault"):
                return Failure(f"{label}: {record['fault']}.")
            wrong = next((one for one in said if one.finish not in ("stop", "length")), None)
            if wrong is not None:
                return Failure(f"{label}: {wrong.reason or f'the engine ended the request ({wrong.finish})'}.")
        if ready.job.score == "options":
            return self._scored(ready, j, groups, kept)
        group, said = groups[0]
        return self._generated(ready, said[0].tokens, kept.get(group.name, {}))

    def _generated(self, ready: Ready, tokens: tuple[int, ...], record: Mapping[str, Any]) -> Generation:
        stopped = bool(tokens) and tokens[-1] in self.model.stop_tokens
        answer = tokens[:-1] if stopped else tokens
        steps = len(tokens)
        self.counters.rows_asked += steps * len(ready.branches)
        usage = Usage(sum(ready.tokens), steps, steps * len(ready.branches))
        numbers = record.get("trace", ())
        trace = dict(zip(TRACE, map(tuple, zip(*numbers, strict=True)), strict=True)) if numbers else {}
        looks = [Look(**told) for told in record.get("looks", ())]
        steps = compact(looks, self.model.stop_tokens, self.model.text)
        return Generation(self.model.text(answer), answer, "stop" if stopped else "length", usage, trace, steps=steps)

    def _scored(
        self, ready: Ready, j: int, groups: list[tuple[_Group, list[Said]]], kept: Mapping[str, Mapping[str, Any]]
    ) -> Answer:
        job, ids = ready.job, self.ids.pop(j)
        by_option = {group.option: kept[group.name] for group, _ in groups}
        first = by_option[len(ids)]["first"]
        logprobs = [by_option[p]["forced"] if p in by_option else [first[p]] for p in range(len(ids))]
        values = [normalised(v, option, job.normalise) for v, option in zip(logprobs, job.options, strict=True)]
        best = max(range(len(values)), key=values.__getitem__)
        usage = Usage(sum(ready.tokens), sum(map(len, ids)), len(ready.branches))
        scores = dict(zip(job.options, values, strict=True))
        return Generation(job.options[best], tuple(ids[best]), "stop", usage, option_scores=scores)
