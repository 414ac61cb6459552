"""Training: SFT, step-wise GRPO, model backends, and how the pocket model is made."""
