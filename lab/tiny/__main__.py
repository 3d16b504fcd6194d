"""Train, evaluate and document the tiny models.

python -m lab.tiny train --seed 0 --out runs/tiny/0     the whole recipe; run it again to continue
python -m lab.tiny encoder --tower runs/tiny/0/tower.safetensors --out runs/tiny/encoder
python -m lab.tiny evaluate --vlm runs/tiny/0/vlm --encoder runs/tiny/encoder --out runs/tiny/0/results.json
python -m lab.tiny stages --out runs/tiny/stages       the adapters of icl/models/tiny/adapters
python -m lab.tiny card       every figure of MODEL_CARD.md from the shipped checkpoints
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from lab.tiny import vision
from lab.tiny.tower import Tower

MODEL = Path(__file__).parents[2] / "icl" / "models" / "tiny"
CHECKPOINTS = MODEL / "checkpoints"


def tower_of(path: Path, seed: int) -> Tower:
    """The saved tower, trained first if it does not exist."""
    if not path.exists():
        print(f"training the tower to {path}", flush=True)
        vision.train(path, seed)
    return vision.load_tower(path)


def train(seed: int, out: Path, tower: Path | None, steps: int, together: int) -> None:
    """The whole recipe. Finished stages are reused, an unfinished one continues."""
    from lab.tiny.assemble import assemble
    from lab.tiny.dev import dev_scores, make_dev
    from lab.tiny.joint import load_both, train_together
    from lab.tiny.train import load_decoder
    from lab.tiny.train import train as train_decoder

    eyes = tower_of(tower or out / "tower.safetensors", seed)
    decoder = out / "decoder.safetensors"
    if not decoder.exists():
        train_decoder(decoder, eyes, seed, steps, dev=make_dev(eyes))
    words, both = load_decoder(decoder), out / "joint.safetensors"
    if together and not both.exists():
        train_together(both, eyes, words, seed, together)
    if together:
        load_both(both, eyes, words)
        print("  dev", dev_scores(words, make_dev(eyes)), flush=True)
    assemble(eyes, words, out / "vlm")
    print(f"assembled {out / 'vlm'}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.tiny", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; figures are the same bits only for the same number"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--tower", type=Path, help="a trained tower to share; trained into --out if not given")
    command.add_argument("--steps", type=int, default=5000, help="of the decoder")
    command.add_argument("--together", type=int, default=500, help="steps of the end-to-end phase; 0 for none")
    command = commands.add_parser("encoder")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--tower", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("evaluate")
    command.add_argument("--vlm", type=Path, default=CHECKPOINTS / "vlm")
    command.add_argument("--encoder", type=Path, default=CHECKPOINTS / "encoder")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--n", type=int, default=200)
    command.add_argument("--easy", action="store_true", help="also score easy-vqa's test split")
    command = commands.add_parser("stages")
    command.add_argument("--out", type=Path, required=True)
    command = commands.add_parser("card")
    command.add_argument("--n", type=int, default=200)
    command.add_argument("--out", type=Path, default=MODEL / "MODEL_CARD.md")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    if args.command == "train":
        train(args.seed, args.out, args.tower, args.steps, args.together)
    elif args.command == "encoder":
        from lab.tiny import encoder

        encoder.train(args.out, tower_of(args.tower, args.seed), args.seed)
    elif args.command == "stages":
        from lab.tiny import marks, stages

        stages.ship_all(args.out)
        marks.ship_all(args.out)
    elif args.command == "evaluate":
        from lab.tiny.evaluate import evaluate

        args.out.write_text(json.dumps(evaluate(args.vlm, args.encoder, args.n, args.easy), indent=1) + "\n")
    else:
        from lab.tiny.card import write_card

        write_card(args.out, args.n)


if __name__ == "__main__":
    main()
