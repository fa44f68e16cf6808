"""Images for nodes that load one."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_random_image(path: Path, width: int, height: int, seed: int = 0) -> str:
    """Write a PNG of smooth random colours (8 × 8 squares, so that no two regions are alike); gives its name."""
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = squares.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    Image.fromarray(pixels).save(path)
    return path.name
