"""Train, measure and assemble the small model on real drawings (`icl data drawings` first).

python -m lab.small train --out runs/small/0 --seed 0     the whole recipe; run it again to continue
python -m lab.small train --out runs/small/frozen --no-lora   the projector alone
python -m lab.small figures --out runs/small/0            binding, naming and controls, to figures.json
python -m lab.small card --out runs/small                 the table of the card, from the figures of 0, 1, ...
python -m lab.small assemble --out runs/small/0           a checkpoint for `model.path`
python -m lab.small encoder --out runs/small/encoder      the maps of the embedder efficientnet_minilm
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from icl.errors import ICLError
from icl.models.cached_checkpoint import checksum
from icl.models.small.assemble import assemble, load_language_model
from lab.small.card import FIGURES, StoredFigures, write_card
from lab.small.drawings_data import DrawingSet
from lab.small.encoder import train_encoder
from lab.small.evaluate import Evaluation, perplexity
from lab.small.learned import learned_weights
from lab.small.model import SmallModel
from lab.small.plain_text import definitions, token_rows
from lab.small.train import TEXT_TOKENS, Recipe, Training

TEXT_ROWS = 2000
LEARNED = "small.safetensors"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and runs one command."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.small", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=("train", "figures", "card", "assemble", "encoder"))
    parser.add_argument("--out", type=Path, required=True, help="folder of this training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps of training")
    parser.add_argument("--lora", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--questions", type=int, default=200, help="questions of each figure")
    parser.add_argument("--from", dest="source", type=Path, help="folder with the .deb file of wordnet-base")
    options = parser.parse_args(arguments)
    if options.command == "assemble":
        from safetensors.torch import load_file

        if not (options.out / LEARNED).exists():
            raise SystemExit(f"{options.out} has no {LEARNED} yet. Run the command train first.")
        (options.out / "checkpoint").mkdir(exist_ok=True)
        assemble(load_file(options.out / LEARNED), options.out / "checkpoint")
        print(f"assembled {options.out / 'checkpoint'}")
        return
    if options.command == "card":
        write_card(options.out)
        return
    torch.manual_seed(options.seed)
    data = DrawingSet.load(options.out.parent / "features.safetensors")
    if options.command == "encoder":
        train_encoder(data, options.out)
        return
    language_model, tokenizer = load_language_model()
    train_text, test_text = token_rows(definitions(options.source), tokenizer, TEXT_TOKENS, TEXT_ROWS)
    before = perplexity(language_model, test_text[:200]) if options.command == "figures" else 0.0
    recipe = Recipe(steps=options.steps, seed=options.seed, lora=options.lora)
    model = SmallModel(language_model, tokenizer, float(data.features[::10].float().std()), options.lora)
    training = Training(recipe, model, data, train_text, options.out)
    if options.command == "train":
        training.run()
        from safetensors.torch import save_file

        save_file(learned_weights(model), options.out / LEARNED)
        print(f"learned weights in {options.out / LEARNED}")
        return
    if not (options.out / LEARNED).exists() or not training.resume():
        raise SystemExit(f"{options.out} has no training that is finished. Run the command train first.")
    if options.lora:
        model.language_model.merge_adapter()  # as the assembled checkpoint has it
    figures = Evaluation(model.eval(), data, options.questions).figures()
    stored = StoredFigures.open(options.out / FIGURES, options.questions, checksum(options.out / LEARNED))
    for name, count in figures.items():
        stored.add(name, count)
    stored.add("perplexity", lambda: perplexity(model.language_model, test_text[:200]))
    stored.add("perplexity before training", lambda: before)
    for name, value in stored.values.items():
        print(f"{value:8.2f}  {name}" if "perplexity" in name else f"{value:8} of {options.questions}  {name}")


if __name__ == "__main__":
    try:
        main()
    except ICLError as error:
        raise SystemExit(str(error)) from None
