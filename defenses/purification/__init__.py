"""Purifiers: Defense-VAE (Li and Ji 2019) and MAD-VAE (Morlock and Wang 2020)."""

from defenses.purification.purifier import Purifier
from defenses.purification.recipe import (
    DEFENSE_VAE_PAIRS,
    MAD_PAIRS,
    Purification,
    defense_vae_pairs,
    mad_pairs,
)

__all__ = [
    "DEFENSE_VAE_PAIRS",
    "MAD_PAIRS",
    "Purification",
    "Purifier",
    "defense_vae_pairs",
    "mad_pairs",
]
