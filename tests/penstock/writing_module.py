"""A PyTorch module that writes to memory that is not its own. TorchScript needs annotations that are evaluated."""

import torch


class WritingModule(torch.nn.Module):
    """Writes into its input, keeps its output, and writes into that when it runs again."""

    kept: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(1)

    def forward(self, x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        self.kept.add_(100.0)
        x.add_(1.0)
        x.add_(b)
        b.add_(5.0)
        self.kept = x * 2.0
        return self.kept
