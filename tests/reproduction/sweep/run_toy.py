"""A small reproduction in a process of its own, to be killed or launched twice: run_toy.py FOLDER TOKENIZER."""

import sys
from pathlib import Path

import torch
from toy import ToyTask, build_tiny, toy_questions

from lacscope import ReproductionSettings, reproduce
from lacscope.reproduction.sweep._processes import launched_processes

SETTINGS = ReproductionSettings(
    alphas=(0.1, 0.8),
    generate_alphas=(0.8,),
    max_new_tokens=4,
    control_limit=9,
    control_seeds=(0,),
    batch_size=2,
    shard_size=3,
)


def main(folder: Path, tokenizer: Path) -> None:
    torch.set_num_threads(1)
    model = build_tiny(tokenizer)
    print("loaded", flush=True)  # noqa: T201
    reproduce(model, ToyTask(), toy_questions(18), SETTINGS, folder, processes=launched_processes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
