"""Score your own handful of pictures: what the selection sees in them, step by step.

    python examples/score_pictures.py FOLDER [--model ViT-B-32 --pretrained openai] [--target FOLDER]

FOLDER holds pictures (``cat.jpg``) and beside each its caption (``cat.txt``). ``--target`` names pictures of the kind
that you care about. ``--model`` is any open_clip architecture with ``--pretrained`` weights, or the ``training/model``
folder of a run, which needs no other weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from clipsift_common.clip import LoadedCLIP, load_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.images import decode_image
from selection import clip_score, contrastive_normaliser, normsim, s_cliploss

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def read_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, by name."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ClipsiftError(f"{folder}: has no picture ({', '.join(SUFFIXES)})")
    return found


def read_caption(picture: Path) -> str:
    """The caption in the text file beside a picture."""
    path = picture.with_suffix(".txt")
    if not path.is_file():
        raise ClipsiftError(f"{path}: is missing; write the caption of {picture.name} into it")
    return path.read_text(encoding="utf-8").strip()


@torch.inference_mode()
def encode_images(clip: LoadedCLIP, pictures: list[Path]) -> torch.Tensor:
    """(n, d) features of length 1."""
    images = torch.stack([clip.preprocess(decode_image(path.read_bytes())) for path in pictures])
    return torch.nn.functional.normalize(clip.model.encode_image(images), dim=-1)  # type: ignore[operator]


@torch.inference_mode()
def encode_captions(clip: LoadedCLIP, captions: list[str]) -> torch.Tensor:
    """(n, d) features of length 1."""
    return torch.nn.functional.normalize(clip.model.encode_text(clip.tokenizer(captions)), dim=-1)  # type: ignore[operator]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--pretrained")
    parser.add_argument("--target", type=Path)
    parser.add_argument("--temperature", type=float, default=0.01, help="OpenAI's models have 0.01")
    options = parser.parse_args(arguments)

    # 1. A teacher turns pictures and captions into points on a sphere; a pair that belongs together is close.
    has_weights = options.pretrained or Path(options.model).is_dir()
    clip = load_clip(options.model, options.pretrained if has_weights else "openai")
    pictures = read_pictures(options.folder)
    captions = [read_caption(picture) for picture in pictures]
    image, text = encode_images(clip, pictures), encode_captions(clip, captions)

    # 2. CLIPScore: how close. A caption that fits everything ("a photo") is close to its picture as well.
    columns = {"CLIPScore": clip_score(image, text)}

    # 3. s-CLIPLoss: how close compared with all other pictures and captions at hand. The generic caption loses, because
    #    it is as close to them. Selection compares with random batches of 32,768 pairs; here all pairs are one batch.
    columns["s-CLIPLoss"] = s_cliploss(image, text, options.temperature, batch_size=None)
    by_image, by_text = contrastive_normaliser(image, text, options.temperature)
    columns["what it loses"] = options.temperature * (by_image + by_text) / 2

    # 4. NormSim: how near to the most similar picture of a target, whatever the caption says.
    if options.target:
        target = encode_images(clip, read_pictures(options.target))
        columns["NormSim"] = normsim(image, target, p=float("inf"))

    print(f"{len(pictures)} pairs, best s-CLIPLoss first; higher is better, but for what it loses")
    print("  ".join(f"{name:>13}" for name in columns), " caption")
    for row in columns["s-CLIPLoss"].argsort(descending=True).tolist():
        numbers = "  ".join(f"{values[row].item():13.4f}" for values in columns.values())
        print(f"{numbers}  {pictures[row].name}: {captions[row]}")


if __name__ == "__main__":
    main()
