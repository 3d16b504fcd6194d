"""Best of n: sampled answers, of which a judge chooses one: the model itself, or another model.

InternLM-XComposer2.5-Reward (Zang et al. 2025, 2501.12368) samples n answers and keeps the one with the highest reward.
Without a trained reward model, the reward is the model's own log-probability of a word after a question about the
answer (P(True), Kadavath et al. 2022, 2207.05221):

    y_1 … y_n sampled,    y = argmax_i log p("Yes" | prompt with the judge's question in place of the question)

The judge reads demonstrations and images of the prompt; its question names the query's question and the answer.
`judge_model` is another model in its role, which reads the same prompt under its own chat template. It is loaded beside
the model that answers and freed with it; a cell's digest covers its weights. The samples are those of
`self_consistency`, and the first one is that of `sampling`: majority and random choice at the cost of the same samples.
Option scores are not sampled, so there this is the reference.

With the default question, the shipped model is a poor judge. With 8 shots and 4 samples at temperature 1.5 on 100
queries of `operators`, the accuracy is .70 to .83 [.60, .89] (counting unread outputs as wrong or right). The first
sample (`sampling`) has .86 to .93 [.78, .97], the vote (`self_consistency`) .98 [.93, .99]. Asked whether the image has
the answer, a question of its training, it chooses well (docs/judges.md).

Differs from the released code in the reward, which is the probability of a word and no trained head.
"""

# ruff: noqa: RUF036  pydantic uses the first matching member of a union: None is no model

from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from decoding import Note, Sampler, Sampling, Traits, wrap_question
from icl import ConfigError, NestedComponent, Positive, Prompt, Strategy, component, later_parameter, parameter

JUDGE = "Question: {question} Answer: {answer}\nIs this answer right? Answer Yes or No."


@component("strategy", "best_of_n")
@dataclass(frozen=True)
class BestOfN(Strategy):
    """Of several sampled answers, the one that a judge, the model itself or another one, most probably calls right."""

    num_samples: Annotated[int, Ge(2)] = parameter("samples", 4)  # number of sampled answers
    temperature: Positive = 0.7  # of the samples, unless the arm has the key `sampling`
    judge: str = JUDGE  # text in the place of the question, with {question} and {answer}
    accept: str = "Yes"  # word whose log-probability is the reward
    judge_model: None | Annotated[Any, NestedComponent("model")] = later_parameter(None)  # null: the model itself

    def __post_init__(self) -> None:
        if self.judge.count("{answer}") != 1 or not self.accept.strip():
            raise ConfigError(f"judge must have {{answer}} once, and accept a word: {self.judge!r}, {self.accept!r}.")
        if self.judge_model is not None and "logits" not in self.judge_model.abilities:
            raise ConfigError(f"judge_model: {self.judge_model!r} gives no log-probability of a word here. Use 'hf'.")

    @property
    def traits(self) -> Traits:
        return Traits(num_samples=self.num_samples, judge=(self.judge, self.accept), judge_model=self.judge_model)

    @property
    def sampler(self) -> Sampler:
        return Sampling(self.temperature)

    def branches(self, prompt: Prompt, note: Note = None) -> tuple[Prompt]:
        return (wrap_question(prompt),)  # a prompt without a question is refused before any sample
