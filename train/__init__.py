"""train: GRPO on visual games. `python -m train.main --games all`."""

import os

# `transformers` serves tokenizers and configurations here; that it finds no PyTorch is no news to the user.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
