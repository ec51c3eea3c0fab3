"""train: GRPO on visual games. `python -m train.main --games all`."""
