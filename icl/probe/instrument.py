"""What checks share: answers that are asked once, the server's noise, and which images matter."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .distances import Answer, Scale, distance, fisher_fewer
from .prompts import Prompt, replaced, shots, to_messages, user
from .server import Server

SUBSTITUTES = "WXYZ"
OTHERS = "STUVWXYZ"
P_VALUE = 0.01
Build = Callable[[str], Prompt]
"""Makes a prompt with the images of these names."""


class Status(StrEnum):
    """What a check says. Only `RED` is a fault of the server."""

    OK = "ok"
    NOTE = "note"
    ABSENT = "not offered"
    OPEN = "cannot tell"
    RED = "RED"


@dataclass(frozen=True)
class Verdict:
    """The result of a check.

    Attributes:
        text: A sentence with figures.
        witness: Prompts whose answers show the fault.
    """

    status: Status
    text: str
    witness: tuple[Prompt, ...] = ()


@dataclass(frozen=True)
class Effect:
    """What replacing one image did: the largest change, how many of the tries changed the answer, and the tries."""

    size: float
    changes: int
    tries: int
    witness: Prompt


@dataclass(eq=False)
class Instrument:
    """A server with its noise.

    Args:
        repeats: Answers that are averaged for one, which divides the noise by the root of this number.
    """

    server: Server
    repeats: int = 1
    scale: Scale = field(init=False)
    repeat_distances: tuple[float, ...] = field(init=False)
    usual_distance: float = field(init=False)
    pair_distances: tuple[float, ...] = field(init=False)
    _memory: dict[str, Answer] = field(default_factory=dict)

    def calibrate(self) -> None:
        """Measures noise and signal. Texts that differ between repeats are not compared from here on."""
        prompts = [user("A"), user("C"), shots("ABC")]
        rounds = [[self.fresh(prompt) for prompt in prompts] for _ in range(3)]
        if self.server.of_texts:
            stable = [
                i
                for i in range(len(self.server.questions))
                if all(len({answers[j].texts[i] for answers in rounds}) == 1 for j in range(len(prompts)))
            ]
            if 0 < len(stable) < len(self.server.questions):
                self.server.questions = [self.server.questions[i] for i in stable]
                rounds = [[Answer({}, tuple(a.texts[i] for i in stable)) for a in answers] for answers in rounds]
                self._memory.clear()
        repeat_distances = [[distance(a[j], b[j]) for a, b in itertools.combinations(rounds, 2)] for j in range(3)]
        self.repeat_distances = tuple(max(of_one) for of_one in repeat_distances)
        self.usual_distance = statistics.median(itertools.chain(*repeat_distances))
        self.pair_distances = tuple(
            distance(self.ask(user(a)), self.ask(user(b))) for a, b in itertools.combinations("ABCDE", 2)
        )
        noise, signal = statistics.median(self.repeat_distances), statistics.median(self.pair_distances)
        self.scale = Scale(noise, signal, self.server.of_texts)

    def ask(self, prompt: Prompt) -> Answer:
        """The answer to a prompt, which is asked once."""
        key = repr(to_messages(prompt, ""))
        if key not in self._memory:
            self._memory[key] = self.fresh(prompt)
        return self._memory[key]

    def fresh(self, prompt: Prompt) -> Answer:
        """The answer to a prompt, asked anew."""
        return self.server.ask(prompt, self.repeats)

    def changed(self, a: Prompt, b: Prompt) -> bool:
        """Whether two prompts have different answers."""
        return self.scale.changed(self.ask(a), self.ask(b))

    def distance(self, a: Prompt, b: Prompt) -> float:
        return distance(self.ask(a), self.ask(b))

    def red_if(self, is_clear: bool, text: str, *witness: Prompt) -> Verdict:
        """RED, or "cannot tell" if the expected change is so small that its absence proves nothing."""
        return Verdict(Status.RED if is_clear else Status.OPEN, text, witness)

    def mismatched(self, answers: Iterable[Answer], names: Sequence[str], own: Mapping[str, Answer]) -> list[str]:
        """Names whose answer is clearly another image's ("A as B") or nobody's ("A as no other").

        Args:
            own: The answers that each name has alone.
        """
        wrong = []
        for answer, name in zip(answers, names, strict=True):
            gap = distance(answer, own[name])
            nearest = min(own, key=lambda other: distance(answer, own[other]))
            if gap > self.scale.tolerance and distance(answer, own[nearest]) < gap / 2:
                wrong.append(f"{name} as {nearest}")
            elif gap > max(self.scale.tolerance, self.scale.signal / 2):
                wrong.append(f"{name} as no other")
        return wrong

    def effects(self, build: Build, names: str) -> list[Effect]:
        """What each image does: it is replaced by others until the answer changes."""
        base, effects = self.ask(build(names)), []
        for index in range(len(names)):
            sizes = []
            for other in SUBSTITUTES[: 4 if self.server.of_texts else 2]:
                prompt = build(replaced(names, index, other))
                sizes.append(distance(base, self.ask(prompt)))
                if not self.server.of_texts and sizes[-1] > self.scale.tolerance:
                    break
            changes = sum(size > self.scale.tolerance for size in sizes)
            effects.append(Effect(max(sizes), changes, len(sizes), prompt))
        return effects

    def judge_effects(self, build: Build, names: str, where: str) -> Verdict:
        """Does each image matter? An image without an effect is a fault if the others have a clear one."""
        effects = self.effects(build, names)
        silent = [i for i, effect in enumerate(effects) if not effect.changes]
        if not silent:
            return Verdict(Status.OK, f"each of {len(names)} images {where} changes the answer")
        numbers = ", ".join(str(i + 1) for i in silent)
        text = f"image {numbers} of {len(names)} {where} never changes the answer"
        witness = (build(names), effects[silent[0]].witness)
        effective = [effect for effect in effects if effect.changes]
        if self.server.of_texts:
            a, n = sum(effects[i].changes for i in silent), sum(effects[i].tries for i in silent)
            b, m = sum(effect.changes for effect in effective), sum(effect.tries for effect in effective)
            p = fisher_fewer(a, n, b, m) if b else 1.0
            text += f" ({a} of {n} changes, the other images {b} of {m}, p = {p:.2g})"
            return self.red_if(p < P_VALUE, text, *witness)
        together = self.distance(build(names), build(OTHERS[: len(names)]))
        silent_size = max(effects[i].size for i in silent)
        text += f" (changes up to {silent_size:.2g}; all images at once {together:.2g}; noise {self.scale.noise:.2g})"
        return self.red_if(self.scale.expects(max(together, *(effect.size for effect in effects))), text, *witness)


# The table of checks.


class Prompts(StrEnum):
    """Prompts that a check matters for."""

    WITH_IMAGES = "prompts with images"
    WITH_SEVERAL_IN_ONE_TURN = "prompts with several images in one turn"
    WITH_IMAGES_IN_TURNS = "prompts with images in several turns"
    OTHER = "other requests"


Function = Callable[[Instrument], Verdict]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: The name on the command line.
        claim: What holds for a server that reads its prompts.
        matters_for: Prompts that a fault changes. Before a run, only checks that matter for its prompts are run.
        deep: Whether it takes so many requests that it runs only if asked for.
    """

    name: str
    claim: str
    run: Function
    matters_for: Prompts
    deep: bool


CHECKS: dict[str, Check] = {}
"""In the order in which they run."""


def check(matters_for: Prompts = Prompts.OTHER, *, deep: bool = False) -> Callable[[Function], Function]:
    """Adds a function, whose docstring is the claim, to the table."""

    def add(function: Function) -> Function:
        name = function.__name__
        CHECKS[name] = Check(name, (function.__doc__ or "").strip().rstrip("."), function, matters_for, deep)
        return function

    return add
