"""The benchmark's transformer encoder: by default 4 layers, d = 256, 4 heads, feed-forward 1024; token ids in, 16 floats out."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


class EncoderLayer(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Pre-norm self-attention and a feed-forward block."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) in and out."""
        split = self.query_key_value(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        x = x + self.attended(mixed)
        return x + self.contract(functional.relu(self.expand(self.hidden_norm(x))))


class Encoder(nn.Module):  # type: ignore[misc]  # torch is not followed
    """Embedding, position, layers, mean over the tokens, 16 scores."""

    def __init__(self, vocabulary: int, width: int = 256, layers: int = 4, *, heads: int = 4, tokens: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.layers = nn.Sequential(*(EncoderLayer(width, heads, 4 * width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, 16)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, tokens) int64 token ids to (batch, 16) float32 scores, whatever precision the weights have."""
        return self.scores(self.norm(self.layers(self.embedding(ids) + self.position)).mean(1)).float()
