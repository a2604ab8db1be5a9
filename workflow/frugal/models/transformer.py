"""The transformer (A. Vaswani et al., NeurIPS 2017) as torch has it: encoder, decoder, no embeddings."""

import warnings

from torch import nn


def transformer(
    d_model: int = 512,
    heads: int = 16,
    encoder_layers: int = 12,
    decoder_layers: int = 6,
    feedforward: int = 2048,
    dropout: float = 0.1,
) -> nn.Transformer:
    """(source [S, B, d_model], target [T, B, d_model]) float32 → [T, B, d_model]; DTR's published sizes by default."""
    with warnings.catch_warnings():
        # Nested tensors, which evaluation alone uses, need batches first; here sequences come first, as published.
        warnings.filterwarnings("ignore", message="enable_nested_tensor is True")
        return nn.Transformer(d_model, heads, encoder_layers, decoder_layers, feedforward, dropout)
