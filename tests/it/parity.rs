//! The same numbers as PyTorch, diffusers and transformers on the same weights.
