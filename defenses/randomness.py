"""Randomness that depends on names and images, never on order or batch composition.

A ``torch.Generator`` on the CPU is the only source of randomness in the project, so that every
device sees the same numbers. Two rules make results independent of batching:

* a *named child* (`child`) is a function of its parent's seed and of the names alone;
* *per-image noise* (`noise_like_rows`) mixes one number drawn from the generator with the bytes of
  each image, so an image gets the same noise wherever it stands and whatever stands beside it.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

_SEED_BITS = 63


def seed_from(*names: object) -> int:
    """A seed in [0, 2^63) that is a hash of the names' text."""
    text = "\x1f".join(str(name) for name in names)
    return _seed(hashlib.blake2b(text.encode(), digest_size=8))


def generator(seed: int) -> Generator:
    """A CPU generator with this seed."""
    return Generator().manual_seed(seed)


def child(rng: Generator, *names: object) -> Generator:
    """The generator called ``names`` under ``rng``; consumes nothing from ``rng``."""
    return generator(seed_from(rng.initial_seed(), *names))


def draw_seed(rng: Generator) -> int:
    """One fresh seed, consumed from ``rng``."""
    return int(torch.randint(2**_SEED_BITS - 1, (), generator=rng, dtype=torch.int64))


def row_generators(rng: Generator, x: Tensor) -> list[Generator]:
    """One generator per image of ``x`` (N, ...), mixing one draw from ``rng`` with its bytes."""
    base = draw_seed(rng).to_bytes(8, "little")
    rows = x.detach().to("cpu", torch.float32).contiguous().numpy()
    return [generator(_seed(hashlib.blake2b(row.data, key=base, digest_size=8))) for row in rows]


def _seed(state: hashlib.blake2b) -> int:
    return int.from_bytes(state.digest(), "little") >> (64 - _SEED_BITS)


def noise_like_rows(
    rng: Generator,
    x: Tensor,
    shape: Sequence[int],
    sample: Callable[..., Tensor] = torch.randn,
) -> Tensor:
    """Noise of shape (N, *shape) on the device of ``x``, each row a function of its image.

    Args:
        rng: advanced by exactly one draw, whatever N is.
        x: images (N, ...).
        shape: the shape of one row's noise.
        sample: ``torch.randn`` or ``torch.rand``.
    """
    if len(x) == 0:
        return x.new_zeros((0, *shape))
    rows = [sample(tuple(shape), generator=g) for g in row_generators(rng, x)]
    return torch.stack(rows).to(x.device, x.dtype)
