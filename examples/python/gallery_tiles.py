# SPDX-License-Identifier: MIT
"""Filter an image tile by tile with NumPy; tiles go to the workers and come back whole.

Plain `multiprocessing`; on sidestep the arrays travel in shared memory.
"""

from multiprocessing import Pool

import numpy as np

TILE = 128
EDGE = 2


def blur(tile):
    """Return the mean of the 5 by 5 pixels around each, without the tile's edge."""
    windows = np.lib.stride_tricks.sliding_window_view(tile, (5, 5))
    return windows.mean(axis=(2, 3))


def tiles_of(image):
    """Yield where each tile goes, and its pixels with an edge around."""
    padded = np.pad(image, EDGE, mode="edge")
    for y in range(0, image.shape[0], TILE):
        for x in range(0, image.shape[1], TILE):
            edges = padded[y : y + TILE + 2 * EDGE, x : x + TILE + 2 * EDGE]
            yield (y, x), edges


def main():
    rows, columns = np.indices((512, 512))
    image = ((rows // 16 + columns // 16) % 2).astype(np.float32)  # a chess board
    places, tiles = zip(*tiles_of(image), strict=True)
    result = np.empty_like(image)
    with Pool() as pool:
        for (y, x), tile in zip(places, pool.imap(blur, tiles), strict=True):
            result[y : y + TILE, x : x + TILE] = tile
    print(
        f"{len(places)} tiles; contrast {image.std():.3f} before, {result.std():.3f} after"
    )


if __name__ == "__main__":
    main()
