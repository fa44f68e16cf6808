"""How far two latents are apart."""

import torch


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found - expected‖ / ‖expected‖; NaN never passes a comparison."""
    return ((found - expected).norm() / expected.norm()).item()
